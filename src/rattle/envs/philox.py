"""Counter-based random numbers: a draw depends on its key and its counter only, never on what was drawn before.

The generator is Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3",
SC 2011). Compiled kernels inline `philox`; the reference rules run the same function uncompiled (`philox_words`).
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint64


@njit(inline="always")
def philox(c0, c1, c2, c3, k0, k1):
    """Return the four 32-bit words of Philox 4x32-10 for the counter c0..c3 and the key k0, k1."""
    for _ in range(10):
        product_0 = c0 * uint64(0xD2511F53)
        product_1 = c2 * uint64(0xCD9E8D57)
        c0 = (product_1 >> uint64(32)) ^ c1 ^ k0
        c1 = product_1 & uint64(0xFFFFFFFF)
        c2 = (product_0 >> uint64(32)) ^ c3 ^ k1
        c3 = product_0 & uint64(0xFFFFFFFF)
        k0 = (k0 + uint64(0x9E3779B9)) & uint64(0xFFFFFFFF)
        k1 = (k1 + uint64(0xBB67AE85)) & uint64(0xFFFFFFFF)
    return c0, c1, c2, c3


def philox_words(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Return the four words of `philox` for plain integers, uncompiled."""
    return tuple(int(word) for word in philox.py_func(*(np.uint64(word) for word in (*counter, *key))))
