"""The secret that both sides of a run seal their datagrams with."""

from __future__ import annotations

from rattle.errors import RattleError
from rattle.tokens import derive_key, read_secret, read_token

#: Fewer bytes could be guessed; more are no key, but another file.
_LEAST_BYTES = 16
_MOST_BYTES = 4096
#: What a key that follows from the token is for.
_PURPOSE = "rattle.sync/1"


class KeyFileError(RattleError):
    """A key file holds no key."""


def sync_key(key_file: str | None, token_file: str | None) -> bytes | None:
    """Return what datagrams are sealed with: `sync.key_file`, else what follows from the token; None without both.

    Raises a RattleError in one line for a file that cannot be used.
    """
    if key_file is not None:
        return read_key(key_file)
    token = read_token(token_file)
    return None if token is None else derive_key(token, _PURPOSE)


def read_key(path: str) -> bytes:
    """Return the content of a key file, every byte of it. Raises KeyFileError in one line."""
    try:
        key = read_secret(path, _MOST_BYTES + 1)
    except FileNotFoundError:
        raise KeyFileError(
            f"sync.key_file: there is no {path}; make one with: (umask 077; head -c 32 /dev/urandom > {path})"
        ) from None
    except OSError as error:
        raise KeyFileError(f"sync.key_file: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise KeyFileError(f"sync.key_file: {error}") from None
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        size = "empty" if not key else f"only {len(key)} bytes long" if len(key) < _LEAST_BYTES else "too long"
        raise KeyFileError(f"sync.key_file: {path} is {size}: a key has {_LEAST_BYTES} to {_MOST_BYTES} bytes")
    return key
