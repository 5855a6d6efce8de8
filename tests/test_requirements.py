"""The lists of pinned packages are those that pyproject.toml asks for, each with hashes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
LISTS = REPOSITORY / "requirements"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


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


@pytest.mark.parametrize("name", ["users.txt", "developers.txt", "gpu.txt"])
def test_every_package_has_hashes(name: str) -> None:
    for requirement, entry in listed(name).values():
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}", entry, re.MULTILINE), requirement


def test_users_get_the_versions_that_are_tested() -> None:
    developers, users = listed("developers.txt"), listed("users.txt")
    assert {name: str(users[name][0]) for name in users} == {name: str(developers[name][0]) for name in users}
    assert not {"imageio-ffmpeg", "playwright", "pytest", "python-rapidjson", "ruff", "uv"} & set(users)


def test_a_cpu_build_of_pytorch_is_pinned_beside_the_same_version_for_gpus() -> None:
    torch = dict.fromkeys(re.findall(r"^torch==(\S+?)(?:\+cpu)? ; ", (LISTS / "pytorch.txt").read_text(), re.MULTILINE))
    assert [*torch] == [next(iter(listed("gpu.txt")["torch"][0].specifier)).version]
    needs_gpu = {name for name in listed("developers.txt") if name.startswith(("nvidia", "cuda", "triton-"))}
    assert needs_gpu == set()


def test_the_page_names_every_extra() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", (REPOSITORY / "docs" / "installing.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert named == set(PYPROJECT["project"]["optional-dependencies"])
