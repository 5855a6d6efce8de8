"""The hash of a history: fixed bytes, and everything that happened is in it."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.wire.history import BEGINNING, PLACED, after_line, extended

LINE: dict[str, Any] = {
    "tick": 3, "move": 2, "reward": 1.0, "length": 4, "game_over": False, "codes": np.array([0, 1, 4], np.uint8),
}  # fmt: skip


def test_a_line_is_hashed_as_these_bytes() -> None:
    content = struct.pack("<qqdqB", 3, 2, 1.0, 4, 0) + bytes([0, 1, 4])
    first = blake2b(bytes(8) + content, digest_size=8).digest()
    assert after_line(BEGINNING, **LINE) == first
    assert after_line(first, **LINE) == blake2b(first + content, digest_size=8).digest()
    assert after_line(BEGINNING, **LINE).hex() == "9e4fd6a6ca193120"


@pytest.mark.parametrize(
    "change",
    [
        {"tick": 4},
        {"move": PLACED},
        {"reward": 1.0000000000000002},
        {"length": 5},
        {"game_over": True},
        {"codes": np.array([0, 1, 3], np.uint8)},
    ],
)
def test_whatever_differs_in_a_line_changes_the_hash(change: dict[str, Any]) -> None:
    assert after_line(BEGINNING, **LINE) != after_line(BEGINNING, **LINE | change)


def test_rows_of_a_larger_array_are_hashed_as_copies_of_them_are() -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(4, 3) % 5
    for row in (codes[1], codes[:, 1]):
        assert after_line(BEGINNING, **LINE | {"codes": row}) == after_line(BEGINNING, **LINE | {"codes": row.copy()})


@given(contents=st.lists(st.binary(max_size=4), min_size=1, max_size=8), data=st.data())
def test_a_difference_anywhere_stays(contents: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(contents) - 1))
    changed = list(contents)
    changed[place] += b"!"

    def whole(parts: list[bytes]) -> bytes:
        value = BEGINNING
        for part in parts:
            value = extended(value, part)
        return value

    assert whole(contents) != whole(changed)
