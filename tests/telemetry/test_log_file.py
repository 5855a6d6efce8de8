"""A file of lines is bounded, shared by processes, and whole after a full disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rattle.telemetry.log_file import LogFile


def lines_of(path: Path, kept: int) -> list[str]:
    """Return the lines of a file and of those that were put aside, the oldest first."""
    files = [path.with_name(f"{path.name}.{number}") for number in range(kept, 0, -1)] + [path]
    return [line for file in files if file.exists() for line in file.read_text().splitlines()]


def test_the_newest_lines_are_kept_and_no_file_is_much_larger_than_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "env.log"
    with LogFile(path, 1000, 2) as log:
        for number in range(1000):
            log.write(b"%09d\n" % number)
    lines = list(map(int, lines_of(path, 2)))
    assert lines == list(range(lines[0], 1000))
    assert len(lines) >= 200
    assert sorted(file.name for file in path.parent.iterdir()) == ["env.log", "env.log.1", "env.log.2"]
    assert all(file.stat().st_size <= 1000 for file in path.parent.iterdir())


def test_several_writers_share_a_file_and_no_line_is_lost_or_torn(tmp_path: Path) -> None:
    path = tmp_path / "shared.jsonl"

    def write(writer: int) -> None:
        with LogFile(path, 2000, 50) as log:
            for number in range(200):
                log.write(b"%d-%04d\n" % (writer, number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    lines = lines_of(path, 50)
    assert sorted(lines) == sorted(f"{writer}-{number:04}" for writer in range(4) for number in range(200))


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with LogFile(path, 1000, 1) as log:
        log.write(b"one\n")
        path.rename(tmp_path / "elsewhere.log")
        log.write(b"two\n")
        path.unlink()
        log.write(b"three\n")
    assert path.read_text() == "three\n"
    assert (tmp_path / "elsewhere.log").read_text() == "one\n"


def test_what_a_full_disk_has_torn_is_a_line_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "a.log", os.write

    def half(file: int, data: bytes) -> int:
        if data == b"more\n":
            return write(file, data[:2])
        raise OSError(28, "No space left on device")

    with LogFile(path, 1000, 1) as log:
        log.write(b"one\n")
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left"):
            log.write(b"more\n")
        monkeypatch.undo()
        log.write(b"two\n")
    assert path.read_text() == "one\nmo\ntwo\n"


def test_a_place_that_cannot_be_written_to_is_an_error_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with LogFile(tmp_path / "file" / "a.log", 1000, 1) as log:
        for _ in range(2):
            with pytest.raises(OSError, match=r"Not a directory|File exists"):
                log.write(b"one\n")
