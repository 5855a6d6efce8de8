"""Key files: what is in them, and what is wrong with them in one line."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest

from rattle.clients.keys import KeyFileError, read_key, sync_key
from rattle.tokens import TokenFileError, derive_key


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_is_the_whole_file_whatever_its_bytes(tmp_path: Path) -> None:
    key = bytes(range(31)) + b"\n"
    written(tmp_path / "key", key)
    assert read_key(str(tmp_path / "key")) == key


def test_no_file_means_no_key() -> None:
    assert sync_key(None, None) is None


def test_the_key_follows_from_the_token_where_there_is_no_key_file(tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("a-token-of-the-run\n")
    token.chmod(0o600)
    written(key, b"sixteen bytes at least")
    derived = hmac.digest(b"a-token-of-the-run", b"rattle.sync/1", "sha256")
    assert sync_key(None, str(token)) == derive_key("a-token-of-the-run", "rattle.sync/1") == derived
    assert sync_key(str(key), str(token)) == b"sixteen bytes at least"
    with pytest.raises(TokenFileError, match="there is no"):
        sync_key(None, str(tmp_path / "away"))


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"x" * 15, "is only 15 bytes long"), (b"x" * 4097, "is too long")]
)
def test_what_cannot_be_a_key_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    written(tmp_path / "key", content)
    with pytest.raises(KeyFileError, match=says):
        read_key(str(tmp_path / "key"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"key_file: there is no .*away; make one with: \(umask 077; "):
        read_key(str(tmp_path / "away"))
    with pytest.raises(KeyFileError, match="Is a directory"):
        read_key(str(tmp_path))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_key_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    key = written(tmp_path / "key", bytes(32), mode)
    with pytest.raises(KeyFileError, match=r"^sync\.key_file: other users may read or write .*: chmod 600 "):
        read_key(str(key))


def test_a_pipe_is_no_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match=r"^sync\.key_file: .*pipe is no file but a pipe or a device"):
        read_key(str(tmp_path / "pipe"))
