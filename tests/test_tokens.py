"""Tests of the secret that services and clients share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rattle.clients.addresses import read_address
from rattle.clients.errors import refusal
from rattle.redaction import redact
from rattle.tokens import (
    TOKEN_VARIABLE,
    TokenFileError,
    derive_key,
    is_right,
    keep_token,
    make_token,
    offer_token,
    read_token,
    token_for,
)

TOKEN = "0123456789abcdefXYZ-._~+/="  # noqa: S105


def _file(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_token_is_read_without_the_end_of_its_line(tmp_path: Path, end: bytes) -> None:
    assert read_token(_file(tmp_path / "token", TOKEN.encode() + end)) == TOKEN
    assert read_token(None) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"short", "is too short"),
        (b"a" * 4097, "is too long"),
        (b"two words of a token", "holds more than a token"),
        (b"one-of-two-lines-of\nanother-line-of-it", "holds more than a token"),
        ("ein-schlüssel-der-lang-ist".encode(), "holds more than a token"),
        (b"\xff" * 20, "holds more than a token"),
        (b"\n0123456789abcdefgh", "holds more than a token"),
    ],
)
def test_what_is_no_token_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = _file(tmp_path / "token", content)
    with pytest.raises(TokenFileError, match=says) as refused:
        read_token(path)
    assert "\n" not in str(refused.value)
    assert f"(umask 077; python -c 'import secrets; print(secrets.token_urlsafe(32))' > {path})" in str(refused.value)
    assert content.decode("latin-1").strip() in ("", "short") or content.decode("latin-1") not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(TokenFileError, match=r"other users may read or write .*: chmod 600 "):
        read_token(_file(tmp_path / "token", TOKEN.encode(), mode))


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match=r"security\.token_file: there is no .*/token; make one with: "):
        read_token(str(tmp_path / "token"))
    with pytest.raises(TokenFileError, match=r"cannot read .*: Is a directory"):
        read_token(str(tmp_path))


def test_a_pipe_is_refused_whether_or_not_somebody_writes_into_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    reading, writing = os.pipe()
    os.write(writing, TOKEN.encode())
    for path in (str(tmp_path / "pipe"), f"/dev/fd/{reading}", "/dev/null"):
        with pytest.raises(TokenFileError, match=rf"token_file: {path} is no file but a pipe or a device"):
            read_token(path)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (None, False),
        ("", False),
        ("Bearer ", False),
        ("Bearer", False),
        (TOKEN, False),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer ü", False),
    ],
)
def test_only_the_token_itself_is_right(said: str | None, right: bool) -> None:
    assert is_right(said, TOKEN) is right


def test_keys_of_other_purposes_and_tokens_differ() -> None:
    keys = {derive_key(token, purpose) for token in (TOKEN, TOKEN + "x") for purpose in ("one", "two")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}


def test_a_kept_token_goes_to_servers_without_credentials_of_their_own_and_to_no_stranger() -> None:
    keep_token(TOKEN, ["http://stranger:5000/there"])
    try:
        assert read_address("http://box:5000").headers == {"Authorization": f"Bearer {TOKEN}"}
        assert read_address("http://stranger:5000/there/").headers == {}
        assert read_address("http://me:it@box:5000").headers["Authorization"].startswith("Basic ")
        assert TOKEN not in repr(read_address("http://box:5000"))
    finally:
        keep_token(None)
    assert token_for("http://box:5000") is None
    assert read_address("http://box:5000").headers == {}


def test_where_no_token_is_kept_the_environment_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "asks for a token" in str(refusal(401, {"code": "unauthenticated"}))
    monkeypatch.setenv(TOKEN_VARIABLE, _file(tmp_path / "token", b"short"))
    with pytest.raises(TokenFileError, match=f"^{TOKEN_VARIABLE}: .* is too short"):
        token_for("http://box:5000")
    _file(tmp_path / "token", TOKEN.encode())
    try:
        assert token_for("http://box:5000") == TOKEN
        offer_token(_file(tmp_path / "other", b"another-token-altogether"))
        assert token_for("http://box:5000") == TOKEN
        assert "has another token" in str(refusal(401, {"code": "unauthenticated"}))
    finally:
        keep_token(None)
    monkeypatch.delenv(TOKEN_VARIABLE)
    try:
        offer_token(str(tmp_path / "other"))
        assert token_for("http://box:5000") == "another-token-altogether"
    finally:
        keep_token(None)


def test_a_token_that_is_made_is_its_owners_alone_and_takes_an_earlier_ones_place(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / ".token", tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    path.symlink_to(elsewhere)
    tokens = {make_token(path) for _ in range(2)}
    assert len(tokens) == 2
    assert read_token(str(path)) in tokens
    assert path.stat().st_mode & 0o777 == 0o600
    assert elsewhere.read_text() == "kept"


def test_a_token_that_was_read_or_made_is_hidden_in_texts_whatever_stands_around_it(tmp_path: Path) -> None:
    made = make_token(tmp_path / ".token")
    read_token(_file(tmp_path / "token", TOKEN.encode()))
    assert redact(f"GET /x?y={made}, or {TOKEN}.") == "GET /x?y=…, or …."
