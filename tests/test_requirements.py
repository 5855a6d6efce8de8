"""The lists of pinned packages are those that pyproject.toml asks for, each with hashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module, metadata
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
LISTS = REPOSITORY / "requirements"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of the folder requirements, imported."""
    monkeypatch.syspath_prepend(LISTS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return import_module(request.param)


def listed(name: str) -> dict[str, tuple[Requirement, str]]:
    """Return the pinned packages of a list and of those that it includes, each with the text of its entry."""
    text = (LISTS / name).read_text()
    packages = {}
    for entry in re.findall(r"^\S.*\n(?:[ #].*\n)*", text, re.MULTILINE):
        if included := re.match(r"-r (.+)", entry):
            packages |= listed(included[1])
        elif not entry.startswith("#"):
            requirement = Requirement(entry.partition(" \\\n")[0])
            packages[canonicalize_name(requirement.name)] = requirement, entry
    return packages


def wanted(extra: str) -> Iterator[Requirement]:
    """Yield what an extra needs, with what the extras that it names need."""
    for requirement in map(Requirement, PYPROJECT["project"]["optional-dependencies"][extra]):
        if requirement.name == PYPROJECT["project"]["name"]:
            for other in requirement.extras:
                yield from wanted(other)
        else:
            yield requirement


@pytest.mark.parametrize(("name", "extra"), [("users.txt", "all"), ("developers.txt", "dev")])
def test_lists_are_what_pyproject_asks_for(name: str, extra: str) -> None:
    packages = listed(name)
    asked = [*map(Requirement, PYPROJECT["project"]["dependencies"]), *wanted(extra)]
    for requirement in (*asked, *map(Requirement, PYPROJECT["build-system"]["requires"])):
        pinned, _ = packages[canonicalize_name(requirement.name)]
        (pin,) = pinned.specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{pinned} does not fit {requirement}: make locks"
    named = {name for name, (_, entry) in packages.items() if " rattle (pyproject.toml)\n" in entry}
    assert named == {canonicalize_name(requirement.name) for requirement in asked}, "make locks"


@pytest.mark.parametrize(
    "name",
    [
        "users.txt",
        "developers.txt",
        "gpu.txt",
        "games.txt",
        *(f"services/{path.name}" for path in sorted((LISTS / "services").iterdir())),
    ],
)
def test_every_package_has_hashes(name: str) -> None:
    for requirement, entry in listed(name).values():
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}", entry, re.MULTILINE), requirement


def test_games_are_what_their_extra_needs_besides() -> None:
    games, developers = listed("games.txt"), listed("developers.txt")
    for requirement in wanted("games"):
        pinned, _ = (games | developers)[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(next(iter(pinned.specifier)).version), f"{requirement}: make locks"
    assert not games.keys() & developers.keys()


def test_users_get_the_versions_that_are_tested() -> None:
    developers, users = listed("developers.txt"), listed("users.txt")
    assert {name: str(users[name][0]) for name in users} == {name: str(developers[name][0]) for name in users}
    assert not {"imageio-ffmpeg", "playwright", "pygame-ce", "pytest", "python-rapidjson", "ruff", "uv"} & set(users)


@pytest.mark.parametrize("script", ["make_locks"], indirect=True)
def test_images_get_what_their_services_need_in_the_versions_of_users(script: ModuleType) -> None:
    users, base = listed("users.txt"), listed("services/base.txt")
    for name, (extras, left_out) in script.SERVICES.items():
        packages = listed(f"services/{name}.txt") | base
        needed = {canonicalize_name(one.name) for extra in extras for one in wanted(extra)}
        assert needed - packages.keys() == {*left_out, "torch"} & needed, f"{name}: make locks"
        assert not {"torch", "chdb"} & packages.keys()
        for package, (requirement, _) in packages.items():
            assert requirement.specifier == users[package][0].specifier, f"{package} in {name}: make locks"
    assert {path.stem for path in (LISTS / "services").iterdir()} == {*script.SERVICES, "build"}


def test_a_cpu_build_of_pytorch_is_pinned_beside_the_same_version_for_gpus() -> None:
    torch = dict.fromkeys(re.findall(r"^torch==(\S+?)(?:\+cpu)? ; ", (LISTS / "pytorch.txt").read_text(), re.MULTILINE))
    assert [*torch] == [next(iter(listed("gpu.txt")["torch"][0].specifier)).version]
    needs_gpu = {name for name in listed("developers.txt") if name.startswith(("nvidia", "cuda", "triton-"))}
    assert needs_gpu == set()


def test_the_page_names_every_extra() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", (REPOSITORY / "docs" / "installing.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert named == set(PYPROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize(
    ("licences", "accepted"),
    [
        (["MIT"], True),
        (["License :: OSI Approved :: BSD License"], True),
        (["BSD-3-Clause AND MIT"], True),
        (["GPL-3.0-only OR Apache-2.0"], True),
        (["Apache-2.0 WITH LLVM-exception"], True),
        (["MIT", "Apache-2.0"], True),
        ([], False),
        (["GPL-3.0-or-later"], False),
        (["AGPL-3.0-only"], False),
        (["SSPL-1.0"], False),
        (["MIT AND GPL-2.0-only"], False),
        (["MIT", "GPL-2.0-only"], False),
        (["GPL-2.0-only WITH Classpath-exception-2.0"], False),
        (["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"], False),
        (["Copyright (c) somebody, ask (nicely"], False),
        ([""], False),
    ],
)
@pytest.mark.parametrize("script", ["make_sbom"], indirect=True)
def test_licences_that_are_unknown_or_not_accepted_are_refused(
    script: ModuleType, licences: list[str], accepted: bool
) -> None:
    given = [
        {"expression": text} if " AND " in text or " OR " in text else {"license": {"name": text}} for text in licences
    ]
    complaints = [*script.complaints([{"name": "some", "version": "1.0", "licenses": given}])]
    assert complaints == [] if accepted else complaints[0].startswith("some 1.0 has ")


@pytest.fixture
def advisories() -> Iterator[str]:
    """Serve a database of advisories that knows one, against `some` 1.0, and return its address."""
    known = {
        "id": "GHSA-0000-0000-0000",
        "summary": "It opens the door.",
        "affected": [
            {
                "package": {"name": "some", "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
            }
        ],
    }

    class Database(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hit = asked["package"]["name"] == "some" and asked["version"] == "1.0"
            body = json.dumps({"vulns": [known]} if hit else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Database) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.mark.integration
@pytest.mark.parametrize("script", ["audit"], indirect=True)
def test_an_audit_fails_for_advisories_and_says_where_it_could_not_ask(
    script: ModuleType, advisories: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "pins", lambda: iter(["other==3.0", "some==1.0"]))
    with pytest.raises(SystemExit, match=r"some 1\.0: GHSA-0000-0000-0000, mended in 1\.1"):
        script.main(advisories)
    monkeypatch.setattr(script, "IGNORED", {"GHSA-0000-0000-0000": "the door is a window"})
    script.main(advisories)
    assert "2 packages have no advisories" in capsys.readouterr().out
    script.main("http://127.0.0.1:9/v1/query")
    assert "NOT CHECKED FOR ADVISORIES: http://127.0.0.1:9/v1/query does not answer" in capsys.readouterr().out


def test_nothing_that_git_ignores_is_in_the_repository() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no checkout of git")
    ignored = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.check_output(ignored, cwd=REPOSITORY, text=True) == "", "every clone would have it"


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """Return the packages that have each top-level module."""
    found = metadata.packages_distributions()
    return {module: {canonicalize_name(name) for name in names} for module, names in found.items()}


#: Imports a module as if some others were not installed: the service's, then theirs.
_IMPORT = """
import sys
from importlib import import_module
module, *missing = sys.argv[1:]
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import_module(module)
"""


@pytest.mark.parametrize("service", ["env", "mock_env", "training", "inference", "sync", "ingest", "dashboard"])
def test_the_packages_of_an_image_are_enough_to_import_its_service(
    service: str, distributions: dict[str, set[str]]
) -> None:
    held = {"rattle", *listed("services/base.txt"), *listed(f"services/{service}.txt")}
    held |= {"torch"} if service == "training" else set()
    missing = [module for module, packages in distributions.items() if not packages & held]
    module = f"rattle.services.{service}.{'server' if service == 'mock_env' else 'serve'}"
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, module, *missing], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
