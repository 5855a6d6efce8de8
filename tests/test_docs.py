"""What the pages say is so."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from rattle.cli import main
from rattle.telemetry.troubles import Kind
from tests.passed import SUITES, matching

REPOSITORY = Path(__file__).parents[1]
PAGES = [path for path in REPOSITORY.rglob("*.md") if not {".venv", "dist", "runs", ".pytest_cache"} & set(path.parts)]


SERVICE_HEADINGS = [
    "What it does",
    "Interfaces",
    "Settings",
    "Run it directly",
    "Run it in a container",
    "Run it on a cluster",
    "Test it alone",
    "Troubleshooting",
    "Inside",
]


def test_the_settings_page_is_what_the_definitions_say() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs" / "make_settings.py"))["page"]
    assert (REPOSITORY / "docs" / "settings.md").read_text() == page(), "run: python docs/make_settings.py"


def test_the_page_of_events_is_what_the_list_says() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs" / "make_events.py"))["page"]
    assert (REPOSITORY / "docs" / "events.md").read_text() == page(), "run: python docs/make_events.py"


def test_the_page_of_commands_is_what_they_say() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs" / "make_commands.py"))["page"]
    assert (REPOSITORY / "docs" / "commands.md").read_text() == page(), "run: python docs/make_commands.py"


def test_the_page_of_the_python_api_is_what_docstrings_say() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs" / "make_python_api.py"))["page"]
    assert (REPOSITORY / "docs" / "python-api.md").read_text() == page(), "run: python docs/make_python_api.py"


@pytest.mark.parametrize("name", ["grpc-api.md", "rest-api.md"])
def test_pages_of_protocols_are_what_services_describe(name: str) -> None:
    page = runpy.run_path(str(REPOSITORY / "docs" / "make_protocols.py"))["PAGES"][name]()
    assert (REPOSITORY / "docs" / name).read_text() == page, "run: python docs/make_protocols.py"
    assert not re.search(r"\|\s*\|$|^### .*\n\n\n", page, re.MULTILINE), "something has no comment or description"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def commands_in(page: Path) -> list[str]:
    """Return the `rattle …` commands of a page's console blocks, without comments and pipes."""
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text())
    found = re.findall(r"^\s*(?:\$ )?(rattle [^\n]*)", text, re.MULTILINE)
    return [re.split(r"\s+(?:#|&|\|)\s", line + " ")[0].strip() for line in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_on_pages_have_the_flags_that_they_use(page: Path) -> None:
    for command in commands_in(page):
        name, *arguments = shlex.split(command)[1:] or ["--help"]
        if name.startswith("-"):
            continue
        below = getattr(main.commands.get(name), "commands", {})
        words = [name, *(word for word in arguments[:1] if word in below)]
        known = CliRunner().invoke(main, [*words, "--help"])
        assert known.exit_code == 0, command
        for flag in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
            assert re.search(rf"{flag}\b", known.output), f"{command}: no {flag}"


def test_files_that_changes_belong_to_exist() -> None:
    _, _, table = (REPOSITORY / "docs" / "architecture.md").read_text().partition("\n## Where a change belongs\n")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        paths = re.findall(r"(?<!\*)`([\w./-]+(?:\.\w+|/))`", row)  # what would be new is in italics
        assert paths, row
        for path in paths:
            folder = REPOSITORY if path.startswith(("docs/", "examples/")) else REPOSITORY / "src" / "rattle"
            assert (folder / path).exists(), f"{path} has gone: {row}"


def test_files_that_are_named_for_additions_exist() -> None:
    _, _, rest = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("\n## How to add something\n")
    steps = [line for line in rest.partition("\n## ")[0].splitlines() if re.match(r"\d\. ", line)]
    assert len(steps) >= 20
    for path in re.findall(r"`([\w./*-]+(?:\.\w+|/))`", " ".join(steps)):
        places = (REPOSITORY, REPOSITORY / "src" / "rattle")
        assert "NAME" in path or any(list(place.glob(path)) for place in places), f"{path} has gone"


def test_the_citation_is_of_this_version() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text()


def test_the_pages_of_services_have_the_same_headings() -> None:
    pages = sorted((REPOSITORY / "src" / "rattle" / "services").glob("*/README.md"))
    assert len(pages) == 7
    for page in pages:
        assert re.findall(r"^## (.*)", page.read_text(), re.MULTILINE) == SERVICE_HEADINGS, page


def test_the_readme_begins_with_the_two_commands() -> None:
    start = (REPOSITORY / "README.md").read_text()[:1200]
    assert start.index("make train") < start.index("make test")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_no_page_has_gaps_to_fill_in(page: Path) -> None:
    assert not re.search(r"@[A-Z]+@|TODO|FIXME", page.read_text())


def test_the_page_of_metrics_is_what_the_code_declares() -> None:
    made = runpy.run_path(str(REPOSITORY / "docs" / "make_metrics.py"))
    assert made["without_units"]() == []
    assert (REPOSITORY / "docs" / "metrics.md").read_text() == made["page"](), "run: python docs/make_metrics.py"


def test_the_page_of_telemetry_explains_every_trouble_with_a_broker() -> None:
    page = (REPOSITORY / "docs" / "telemetry.md").read_text()
    table = page.split("| `kind` |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table.replace("`telemetry.", ""))) >= set(get_args(Kind))


SOURCE = REPOSITORY / "src" / "rattle"
CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
#: Not the results, which the scripts of benchmarks make.
PROSE = [path for path in PAGES if "results" not in path.parts]
#: These help texts are in files with a recorded hash: they change with the next change of cli/services.py.
RECORDED_HELP = (
    "A run directory that already holds a run is gone on with from its newest checkpoint.",
    "Store the run here, or go on with the one that is here.",
    "What becomes of a silent member.",
)
LONGEST_LINE = 120
CODE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def refused() -> dict[str, str]:
    """Return a better wording for each word that the table of CONTRIBUTING.md refuses."""
    _, _, table = CONTRIBUTING.read_text().partition("\n| instead of | write |\n|---|---|\n")
    rows = re.findall(r"^\| (.+) \| (.+) \|$", table.partition("\n\n")[0], re.MULTILINE)
    return {word: better for words, better in rows for word in words.split(", ")}


REFUSED = refused()
PATTERN = re.compile(rf"\b(?:{'|'.join(word.replace(' ', chr(92) + 's+') for word in REFUSED)})\b", re.IGNORECASE)


def faults(text: str) -> list[str]:
    """Return a line for each refused word in a text, with its neighbours and a better wording."""
    found = []
    for match in PATTERN.finditer(text):
        near = " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())
        found.append(f"'{near}': write {REFUSED[' '.join(match[0].lower().split())]}")
    return found


def prose_of(page: Path) -> str:
    """Return what a page says itself, without code, and without the section that names the words."""
    text = page.read_text()
    if page == CONTRIBUTING:
        text = re.sub(r"^## Style\n.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)
    text = CODE.sub("", text)
    for recorded in RECORDED_HELP:
        text = text.replace(recorded, "")
    return re.sub(r"`[^`]*`", "", text)


def public_docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module and of its public classes and functions."""
    waiting: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [tree]
    while waiting:
        node = waiting.pop()
        if said := ast.get_docstring(node):
            yield said
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            waiting += [
                below for below in node.body if isinstance(below, definitions) and not below.name.startswith("_")
            ]


def test_the_table_of_words_is_read() -> None:
    assert len(REFUSED) > 30
    assert faults("Whoever logs waits for\never.") == [
        "'Whoever logs waits for ever.': write anyone who, or the name: the client, the caller",
        "'Whoever logs waits for ever.': write forever",
    ]
    assert faults("The forever loop, the beside-the-point one") == [
        "'The forever loop, the beside-the-point one': write next to, with, in addition to, compared with"
    ]


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_pages_do_without_the_refused_words(page: Path) -> None:
    """Help texts, settings, metrics, events and the Python API are pages too."""
    assert faults(prose_of(page)) == []


def test_docstrings_do_without_the_refused_words() -> None:
    """Files whose change has all images built, or a million ticks played, are left for their next change."""
    recorded = {REPOSITORY / path for name in ("images", "lockstep") for path in matching(SUITES[name].inputs)}
    found = [
        f"{path.relative_to(REPOSITORY)}: {fault}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path not in recorded
        for said in public_docstrings(ast.parse(path.read_text()))
        for fault in faults(re.sub(r"`[^`]*`", "", said))
    ]
    assert found == []


WRITTEN = [page for page in PROSE if "by `python docs/make_" not in page.read_text()[:400]]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_lines_of_written_pages_end_in_time(page: Path) -> None:
    lines = CODE.sub("", page.read_text()).splitlines()
    assert [line for line in lines if len(line) > LONGEST_LINE and not re.match(r"\s*\||!\[", line)] == []
