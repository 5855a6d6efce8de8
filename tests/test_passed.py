"""What has passed is known by its inputs, and nothing else decides whether tests are left out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.passed import RECORD, SUITES, Suite, hash_of, is_unchanged, matching, record, recorded


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a suite `small`, whose inputs are a file and a folder, and another file."""
    monkeypatch.setitem(SUITES, "small", Suite((), ("a.py", "folder/*.py")))
    for name in (".ci/.keep", "a.py", "folder/b.py", "other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


CHANGES: dict[str, Callable[[Path], object]] = {
    "other content": lambda root: (root / "folder" / "b.py").write_text("changed"),
    "a new file": lambda root: (root / "folder" / "c.py").write_text(""),
    "a file less": lambda root: (root / "a.py").unlink(),
    "another name": lambda root: (root / "folder" / "b.py").rename(root / "folder" / "d.py"),
}


def test_what_passed_stays_so_until_an_input_changes(checkout: Path) -> None:
    assert not is_unchanged("small", checkout)
    record("images", "0123456789abcdef", checkout)
    record("small", hash_of("small", checkout), checkout)
    assert is_unchanged("small", checkout)
    assert (checkout / RECORD).read_text().splitlines() == [
        "images 0123456789abcdef",
        f"small {recorded(checkout)['small']}",
    ]
    (checkout / "other.py").write_text("changed")
    assert is_unchanged("small", checkout)


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_change_is_seen(checkout: Path, change: str) -> None:
    record("small", hash_of("small", checkout), checkout)
    CHANGES[change](checkout)
    assert not is_unchanged("small", checkout)


def test_without_git_nothing_has_passed(tmp_path: Path) -> None:
    record_of = tmp_path / RECORD
    record_of.parent.mkdir()
    record_of.write_text("lockstep 0123456789abcdef\n")
    assert not is_unchanged("lockstep", tmp_path)


@pytest.mark.parametrize("name", SUITES)
def test_inputs_and_tests_exist(name: str) -> None:
    suite = SUITES[name]
    assert [pattern for pattern in suite.inputs if not matching([pattern])] == []
    tests = [word for word in suite.tests if word.startswith("tests/")]
    assert tests
    assert set(matching(tests)) <= set(matching(suite.inputs)), "tests of a suite are inputs of it"
