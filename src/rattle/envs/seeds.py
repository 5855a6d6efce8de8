"""Seeds: whole numbers of 64 bits, of which each purpose gets its own."""

from __future__ import annotations

import hashlib
from numbers import Real

from rattle.envs.errors import EnvError

MAX_SEED = 2**64 - 1
_WORD = 0xFFFFFFFF


def check_seed(seed: int) -> int:
    """Return `seed` if it is a whole number from 0 to 2**64 - 1, else raise EnvError."""
    if isinstance(seed, bool) or not isinstance(seed, Real) or not 0 <= int(seed) <= MAX_SEED or int(seed) != seed:
        raise EnvError(f"seed {seed!r} is not usable: give a whole number from 0 to 2**64 - 1")
    return int(seed)


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 64-bit seed for one purpose, the same for the same arguments on every machine (SHA-256)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def split_seed(seed: int) -> tuple[int, int]:
    """Return the low and the high 32-bit word of a 64-bit seed: the key of `philox`."""
    return seed & _WORD, seed >> 32
