"""The secret that services and those who ask them share: read from a file, sent as a bearer token, shown nowhere."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Collection
from pathlib import Path

from rattle import redaction
from rattle.errors import RattleError

#: The environment variable that names a token's file, for all commands and for programs that use the clients.
TOKEN_VARIABLE = "RATTLE_SECURITY__TOKEN_FILE"  # noqa: S105

#: Fewer bytes could be guessed; more are no token, but another file.
LEAST_BYTES = 16
MOST_BYTES = 4096
#: What the header `Authorization` may carry (RFC 6750, 2.1).
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_ADVICE = "make one with: (umask 077; python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE)"


class TokenFileError(RattleError):
    """A token file holds no token that may be used."""


class _KnownTokens:
    """What this process sends to the servers that it asks."""

    token: str | None = None
    strangers: frozenset[str] = frozenset()


def read_token(path: str | None, setting: str = "security.token_file") -> str | None:
    """Return the token in a file, less a line's end; None without a file. Raises TokenFileError in one line."""
    if path is None:
        return None
    try:
        content = read_secret(path, MOST_BYTES + 2).removesuffix(b"\n").removesuffix(b"\r")
    except FileNotFoundError:
        raise TokenFileError(f"{setting}: there is no {path}; {_ADVICE.replace('FILE', path)}") from None
    except OSError as error:
        raise TokenFileError(f"{setting}: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise TokenFileError(f"{setting}: {error}") from None
    if not LEAST_BYTES <= len(content) <= MOST_BYTES:
        size = "empty" if not content else "too short" if len(content) < LEAST_BYTES else "too long"
        raise TokenFileError(
            f"{setting}: {path} is {size}: a token has {LEAST_BYTES} to {MOST_BYTES} characters; "
            f"{_ADVICE.replace('FILE', path)}"
        )
    if not _TOKEN.fullmatch(content):
        raise TokenFileError(
            f"{setting}: {path} holds more than a token, which is letters, digits and any of -._~+/ on one line; "
            f"{_ADVICE.replace('FILE', path)}"
        )
    token = content.decode("ascii")
    redaction.hide(token)
    return token


def make_token(path: Path) -> str:
    """Write a new token into a file that its owner alone may read, in place of an earlier one; raises OSError."""
    path.unlink(missing_ok=True)
    token = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    redaction.hide(token)
    return token


def read_secret(path: str, most: int) -> bytes:
    """Return what is in the file of a secret, up to `most` bytes.

    Raises OSError where it cannot be read, and ValueError, with what to do, where it must not be.
    """
    # Without waiting, since nobody may ever write into a pipe.
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path} is no file but a pipe or a device, and is read more than once: name a file")
        if _is_open_to_others(about):
            raise ValueError(f"other users may read or write {path}: chmod 600 {path}")
        return file.read(most)


def _is_open_to_others(about: os.stat_result) -> bool:
    # What root hands over to a service, as a secret of Kubernetes, may be for the service's group.
    others = 0o027 if about.st_uid == 0 != os.geteuid() else 0o077
    return bool(about.st_mode & others)


def keep_token(token: str | None, strangers: Collection[str] = ()) -> None:
    """Have all clients of this process send a token from now on, but not to `strangers`: the URLs of servers."""
    _KnownTokens.token, _KnownTokens.strangers = token, frozenset(strangers)


def withhold_token(url: str) -> None:
    """Send no token to the server at a URL, from now on: one that nobody but a request has named."""
    _KnownTokens.strangers |= {url}


def offer_token(path: str | None) -> None:
    """Have all clients send the token in a file if they know none; raises TokenFileError."""
    if token_for() is None:
        keep_token(read_token(path))


def token_for(url: str = "") -> str | None:
    """Return the token to send to the server at a URL or address, None where it asks for none or must not get it.

    Where none was kept, the environment variable names its file; raises TokenFileError for one that cannot be used.
    """
    if _KnownTokens.token is None:
        _KnownTokens.token = read_token(os.environ.get(TOKEN_VARIABLE) or None, TOKEN_VARIABLE)
    return None if url in _KnownTokens.strangers else _KnownTokens.token


def missing_token() -> str:
    """Return what is said of a server that asks for a token that it was not sent, with what to do about it."""
    what = "asks for a token" if token_for() is None else "has another token"
    return f"the server {what}; name the file that holds it in {TOKEN_VARIABLE}, --token-file, or security.token_file"


def bearer(token: str) -> str:
    """Return the value of the header or metadata `authorization`."""
    return f"Bearer {token}"


def is_right(authorization: str | None, token: str) -> bool:
    """Whether a header or metadata `authorization` carries the token; how long this takes tells nothing about it."""
    scheme, _, said = (authorization or "").partition(" ")
    same = hmac.compare_digest(said.strip().encode(), token.encode())
    return same and scheme.lower() == "bearer"


def derive_key(token: str, purpose: str) -> bytes:
    """Return a key of 32 bytes that tells nothing about the token: HMAC-SHA256 of a purpose such as rattle.sync/1."""
    return hmac.digest(token.encode(), purpose.encode(), hashlib.sha256)
