"""Observations as a server describes them: codes, floats, arrays, and several of these one after another."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from rattle.conformance.arrays import Array
from rattle.conformance.judging import expect, fail

#: The fields of each kind, which are whole numbers or lists of such.
_FIELDS = {"codes": ("cells", "codes"), "floats": ("size",), "array": ("sizes",), "mask": ("size",), "parts": ()}
_EXAMPLES = {
    "codes": '{"kind": "codes", "cells": 60, "codes": 3}',
    "floats": '{"kind": "floats", "size": 4}',
    "array": '{"kind": "array", "sizes": [84, 84, 4], "element": "uint8"}',
    "parts": '{"kind": "parts", "parts": [{"name": "image", "space": {"kind": "array", …}}, …]}',
    "mask": '{"kind": "mask", "size": 3}',
}
_DTYPES = ("uint8", "int32", "float32")


@dataclass(frozen=True)
class Observed:
    """What a slot's observation is: an array of a dtype and a shape, and the values that it may hold."""

    dtype: str
    row: tuple[int, ...]
    most: int | None = None  # whole numbers from 0 to this; None: any finite number
    parts: tuple[tuple[slice, Observed], ...] = ()
    mask: slice | None = None  # the columns that say which actions are allowed

    def check(self, array: Array, where: str) -> None:
        """End the check unless observations (rows, *row) hold what they may."""
        for columns, part in self.parts:
            part.check(array[:, columns], f"{where}[…][{columns.start}:{columns.stop}]")
        if self.most is not None and array.size:
            found = array[(array < 0) | (array > self.most) | (array != np.floor(array))]
            wrong = found[0].item() if found.size else None
            expect(wrong is None, f"{where} holds {wrong}: the space has whole numbers to {self.most}", got=wrong)

    def allowed(self, action: Array, seen: Array) -> Array:
        """Return whole actions (B,), or allowed ones in place of those that the mask in what is seen forbids."""
        if self.mask is None or action.ndim != 1:
            return action
        mask = seen[:, self.mask] != 0
        order = np.argsort(~mask, axis=1, kind="stable")  # allowed actions first
        number = np.maximum(mask.sum(axis=1), 1)
        return np.asarray(order[np.arange(len(action)), action % number], action.dtype)


def read_observed(space: Any) -> Observed:
    """Return what an observation space describes; ends the check for nonsense."""
    return _read(space, "observation_space", ("codes", "floats", "array", "parts"))


def _read(space: Any, where: str, kinds: tuple[str, ...]) -> Observed:
    known = space.get("kind") if isinstance(space, dict) else None
    if known not in kinds:
        fail(f"{where}.kind is {known!r}", expected=" or ".join(f'"{kind}"' for kind in kinds), got=space)
    for name in _FIELDS[known]:
        value = space.get(name)
        numbers = value if name == "sizes" and isinstance(value, list) and value else [value]
        expect(
            all(type(number) is int and number >= 1 for number in numbers)
            and isinstance(value, list) == (name == "sizes"),
            f"{where}.{name} is {value!r}: a space of kind {known} needs whole numbers of at least 1",
            expected=_EXAMPLES[known],
            got=space,
        )
    if known == "codes":
        expect(2 <= space["codes"] <= 65536, f"{where}.codes is {space['codes']}, not 2 to 65536", got=space)
        return Observed("uint8" if space["codes"] <= 256 else "int32", (space["cells"],), space["codes"] - 1)
    if known == "floats":
        return Observed("float32", (space["size"],))
    if known == "mask":
        return Observed("uint8", (space["size"],), 1)
    return _read_array(space, where) if known == "array" else _read_parts(space, where)


def _read_array(space: dict[str, Any], where: str) -> Observed:
    element = space.get("element")
    expect(
        element in ("uint8", "float32"),
        f"{where}.element is {element!r}, not uint8 or float32",
        expected=_EXAMPLES["array"],
        got=space,
    )
    return Observed(str(element), tuple(space["sizes"]), 255 if element == "uint8" else None)


def _read_parts(space: dict[str, Any], where: str) -> Observed:
    parts, named = space.get("parts"), '{"name": …, "space": …}'
    expect(isinstance(parts, list) and bool(parts), f"{where}.parts is no list", expected=_EXAMPLES["parts"], got=space)
    found: list[tuple[slice, Observed]] = []
    names, mask, end = set(), None, 0
    for number, part in enumerate(parts or ()):
        here = f"{where}.parts[{number}]"
        is_named = isinstance(part, dict) and isinstance(part.get("name"), str) and part["name"] not in names
        expect(is_named, f"{here} has no name of its own", expected=named, got=part)
        names.add(part["name"])
        own = _read(part.get("space"), f"{here}.space", ("codes", "floats", "array", "mask"))
        columns = slice(end, end := end + prod(own.row))
        found.append((columns, own))
        if part["space"]["kind"] == "mask":
            expect(mask is None, f"{here} is a second mask: an observation has one at most", got=parts)
            mask = columns
    expect(mask is None or len(found) > 1, f"{where} has a mask alone: there is nothing to decide by", got=parts)
    dtype = max((own.dtype for _, own in found), key=_DTYPES.index)
    return Observed(dtype, (end,), None, tuple(found), mask)
