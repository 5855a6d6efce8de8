"""Key files: what is in them, and what is wrong with them in one line."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from rattle.clients.keys import KeyFileError, read_key, sync_key
from rattle.tokens import TokenFileError, derive_key


def test_a_key_is_the_whole_file_whatever_its_bytes(tmp_path: Path) -> None:
    key = bytes(range(31)) + b"\n"
    (tmp_path / "key").write_bytes(key)
    assert read_key(str(tmp_path / "key")) == key


def test_no_file_means_no_key() -> None:
    assert sync_key(None, None) is None


def test_the_key_follows_from_the_token_where_there_is_no_key_file(tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("a-token-of-the-run\n")
    token.chmod(0o600)
    key.write_bytes(b"sixteen bytes at least")
    derived = hmac.digest(b"a-token-of-the-run", b"rattle.sync/1", "sha256")
    assert sync_key(None, str(token)) == derive_key("a-token-of-the-run", "rattle.sync/1") == derived
    assert sync_key(str(key), str(token)) == b"sixteen bytes at least"
    with pytest.raises(TokenFileError, match="there is no"):
        sync_key(None, str(tmp_path / "away"))


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
