"""What the pages say is so."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from rattle.cli import main
from rattle.telemetry.troubles import Kind

REPOSITORY = Path(__file__).parents[1]
PAGES = [path for path in REPOSITORY.rglob("*.md") if not {".venv", "runs", ".pytest_cache"} & set(path.parts)]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def commands_in(page: Path) -> list[str]:
    """Return the `rattle …` commands of a page's console blocks, without comments and pipes."""
    found = re.findall(r"^\s*(?:\$ )?(rattle [^\n]*)", page.read_text(), re.MULTILINE)
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
