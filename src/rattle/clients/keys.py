"""The secret that both sides of a lockstep run seal their datagrams with."""

from __future__ import annotations

from pathlib import Path

from rattle.errors import RattleError

#: Fewer bytes could be guessed; more are no key, but another file.
_LEAST_BYTES = 16
_MOST_BYTES = 4096


class KeyFileError(RattleError):
    """A key file holds no key."""


def read_key(path: str | None) -> bytes | None:
    """Return the content of a key file, every byte of it; None without one. Raises KeyFileError in one line."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            key = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise KeyFileError(
            f"sync.key_file: there is no {path}; make one with: head -c 32 /dev/urandom > {path}"
        ) from None
    except OSError as error:
        raise KeyFileError(f"sync.key_file: cannot read {path}: {error.strerror}") from None
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        size = "empty" if not key else f"only {len(key)} bytes long" if len(key) < _LEAST_BYTES else "too long"
        raise KeyFileError(f"sync.key_file: {path} is {size}: a key has {_LEAST_BYTES} to {_MOST_BYTES} bytes")
    return key
