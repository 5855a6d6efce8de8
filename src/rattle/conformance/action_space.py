"""Actions as a server describes them: discrete ones by `num_actions`, real numbers by an `action_space` of kind box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rattle.conformance.arrays import Array
from rattle.conformance.judging import expect, fail

#: The fields of a spec, of which one describes the actions.
FIELDS = ("num_actions", "action_space")


@dataclass(frozen=True)
class Actions:
    """What an action is: a whole number below `number`, or float32 numbers from `low` to `high`."""

    number: int | None = None  # None: real numbers
    low: Array = field(default_factory=lambda: np.zeros(()))  # (*row), infinite where there is no bound
    high: Array = field(default_factory=lambda: np.zeros(()))

    @property
    def row(self) -> tuple[int, ...]:
        """Return the shape of one action."""
        return self.low.shape

    @property
    def dtype(self) -> str:
        """Return the dtype of actions."""
        return "float32" if self.number is None else "int64"

    def zeros(self, slots: int) -> Array:
        """Return actions that every server takes."""
        return np.zeros((slots, *self.row), self.dtype)

    def varied(self, mixed: Array) -> Array:
        """Return actions (B, ...) that whole numbers (B,) decide."""
        if self.number is not None:
            return np.asarray((mixed >> 13) % self.number, np.int64)
        low, high = np.maximum(self.low, -1e3), np.minimum(self.high, 1e3)
        parts = mixed.reshape(-1, *(1 for _ in self.row)) >> np.arange(low.size, dtype=np.uint64).reshape(self.row) % 13
        return np.asarray(low + (high - low) * (parts % 1021 / 1020), np.float32)

    def beyond(self, action: Array) -> tuple[Array, Array] | None:
        """Return actions of which some lie far beyond a bound, and the same at the bounds; None without bounds."""
        if self.number is not None or not np.isfinite(self.high).any():
            return None
        bounded = np.broadcast_to(np.where(np.isfinite(self.high), self.high, action), action.shape)
        far = np.where(np.isfinite(self.high), 2 * np.abs(self.high) + 1, action)
        return np.broadcast_to(far, action.shape).astype(np.float32), bounded.astype(np.float32)


def read_actions(body: Mapping[str, Any]) -> Actions:
    """Return the actions that a spec, or the answer to making a session, describes; ends the check for nonsense."""
    found = {name: body[name] for name in FIELDS if name in body}
    expect(
        len(found) == 1,
        "actions are described by num_actions, or by an action_space where they are no whole numbers",
        expected=" or ".join(FIELDS),
        got=", ".join(body),
    )
    if "num_actions" in found:
        number = found["num_actions"]
        whole = isinstance(number, int) and not isinstance(number, bool) and number >= 1
        expect(whole, f"num_actions is {number!r}: it must be a whole number of at least 1", got=number)
        return Actions(number)
    return _read_box(found["action_space"])


def _read_box(space: Any) -> Actions:
    wanted = '{"kind": "box", "low": ..., "high": ...}'
    if not isinstance(space, dict) or space.get("kind") != "box" or not {"low", "high"} <= space.keys():
        fail("action_space is none that is known", expected=wanted, got=space)
    try:
        low, high = (np.array(space[name], np.float64) for name in ("low", "high"))
    except (TypeError, ValueError):
        fail("low and high must hold numbers, or null, in lists of one length", expected=wanted, got=space)
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    expect(low.shape == high.shape and low.size > 0, "low and high must have one shape", expected=wanted, got=space)
    expect((low <= high).all(), "a low is above its high", got=space)
    return Actions(None, low, high)
