"""Actions as a server describes them: one whole number by `num_actions`, others by an `action_space`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rattle.conformance.arrays import Array
from rattle.conformance.judging import expect, fail

#: The fields of a spec, of which one describes the actions.
FIELDS = ("num_actions", "action_space")

_BOX = '{"kind": "box", "low": ..., "high": ...}'
_SEVERAL = '{"kind": "multi_discrete", "sizes": [3, 2]}'


@dataclass(frozen=True)
class LegalActions:
    """What an action is: whole numbers below `sizes`, or float32 numbers from `low` to `high`."""

    sizes: Array | None = None  # (*row); None: real numbers
    low: Array = field(default_factory=lambda: np.zeros(()))  # (*row), infinite where there is no bound
    high: Array = field(default_factory=lambda: np.zeros(()))

    @property
    def row(self) -> tuple[int, ...]:
        """Return the shape of one action."""
        return self.low.shape if self.sizes is None else self.sizes.shape

    @property
    def dtype(self) -> str:
        """Return the dtype of actions."""
        return "float32" if self.sizes is None else "int64"

    def zeros(self, slots: int) -> Array:
        """Return actions that every server takes."""
        return np.zeros((slots, *self.row), self.dtype)

    def varied(self, mixed: Array) -> Array:
        """Return actions (B, ...) that whole numbers (B,) below 2**32 decide."""
        mixed = mixed.reshape(-1, *(1 for _ in self.row))
        number = np.arange(np.prod(self.row, dtype=np.int64), dtype=np.uint64).reshape(self.row)
        if self.sizes is not None:
            return np.asarray((mixed * (2 * number + 1) % 2**32 >> 13) % self.sizes.astype(np.uint64), np.int64)
        low, high = np.maximum(self.low, -1e3), np.minimum(self.high, 1e3)
        return np.asarray(low + (high - low) * ((mixed >> number % 13) % 1021 / 1020), np.float32)

    def wrong(self, action: Array) -> Iterator[tuple[Array, str]]:
        """Yield actions (B, ...) that are none because of a number in the last slot, with words for it."""
        for place in {self._place(0): None, self._place(-1): None}:
            size = None if self.sizes is None else int(self.sizes[place])
            where = f" as number {list(place)}" if place else ""
            for value in (np.nan, np.inf) if size is None else (-1, size, 2**31, -(2**63)):
                changed = action.copy()
                changed[(-1, *place)] = value
                yield changed, f"action {value}{where}"

    def _place(self, number: int) -> tuple[int, ...]:
        """Return where in a row one of its numbers is."""
        return tuple(int(index) for index in np.unravel_index(number % max(1, int(np.prod(self.row))), self.row))

    def beyond(self, action: Array) -> tuple[Array, Array] | None:
        """Return actions of which some lie far beyond a bound, and the same at the bounds; None without bounds."""
        if self.sizes is not None or not np.isfinite(self.high).any():
            return None
        bounded = np.broadcast_to(np.where(np.isfinite(self.high), self.high, action), action.shape)
        far = np.where(np.isfinite(self.high), 2 * np.abs(self.high) + 1, action)
        return np.broadcast_to(far, action.shape).astype(np.float32), bounded.astype(np.float32)


def read_actions(body: Mapping[str, Any]) -> LegalActions:
    """Return the actions that a spec, or the answer to making a session, describes; ends the check for nonsense."""
    found = {name: body[name] for name in FIELDS if name in body}
    expect(
        len(found) == 1,
        "actions are described by num_actions, or by an action_space where they are not one whole number",
        expected=" or ".join(FIELDS),
        got=", ".join(body),
    )
    if "num_actions" in found:
        number = found["num_actions"]
        expect(_is_size(number), f"num_actions is {number!r}: it must be a whole number of at least 1", got=number)
        return LegalActions(np.array(number))
    space = found["action_space"]
    if isinstance(space, dict) and space.get("kind") == "multi_discrete":
        sizes = space.get("sizes")
        expect(
            isinstance(sizes, list) and bool(sizes) and all(map(_is_size, sizes)),
            f"action_space.sizes is {sizes!r}: it must be a list of whole numbers of at least 1",
            expected=_SEVERAL,
            got=space,
        )
        return LegalActions(np.array(sizes))
    return _read_box(space)


def _is_size(number: Any) -> bool:
    return type(number) is int and 1 <= number < 2**31


def _read_box(space: Any) -> LegalActions:
    if not isinstance(space, dict) or space.get("kind") != "box" or not {"low", "high"} <= space.keys():
        fail("action_space is none that is known", expected=f"{_BOX} or {_SEVERAL}", got=space)
    try:
        low, high = (np.array(space[name], np.float64) for name in ("low", "high"))
    except (TypeError, ValueError):
        fail("low and high must hold numbers, or null, in lists of one length", expected=_BOX, got=space)
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    expect(low.shape == high.shape and low.size > 0, "low and high must have one shape", expected=_BOX, got=space)
    expect((low <= high).all(), "a low is above its high", got=space)
    return LegalActions(None, low, high)
