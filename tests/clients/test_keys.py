"""Key files: what is in them, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rattle.clients.keys import KeyFileError, read_key


def test_a_key_is_the_whole_file_whatever_its_bytes(tmp_path: Path) -> None:
    key = bytes(range(31)) + b"\n"
    (tmp_path / "key").write_bytes(key)
    assert read_key(str(tmp_path / "key")) == key


def test_no_file_means_no_key() -> None:
    assert read_key(None) is None


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"x" * 15, "is only 15 bytes long"), (b"x" * 4097, "is too long")]
)
def test_what_cannot_be_a_key_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(KeyFileError, match=says):
        read_key(str(tmp_path / "key"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"key_file: there is no .*away; make one"):
        read_key(str(tmp_path / "away"))
    with pytest.raises(KeyFileError, match="Is a directory"):
        read_key(str(tmp_path))
