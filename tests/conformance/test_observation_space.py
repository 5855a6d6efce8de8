"""Kinds of observations as the checker reads them: what servers say, what they hand out, and which actions it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rattle.conformance.judging import Failed
from rattle.conformance.observation_space import read_observed
from tests.conformance.broken_env import Broken, Fault
from tests.conformance.kinds_of_observations import KINDS, PARTS
from tests.conformance.running import asgi_server, results
from tests.conformance.vector_faults import array, reply

ARRAY = {"kind": "array", "sizes": [2, 3], "element": "uint8"}


def parts(*spaces: dict[str, Any], names: str = "abcdef") -> dict[str, Any]:
    return {
        "kind": "parts",
        "parts": [{"name": name, "space": space} for name, space in zip(names, spaces, strict=False)],
    }


@pytest.mark.parametrize("space", KINDS.values())
def test_what_a_space_says_of_itself_is_read_as_it_is(space: Any) -> None:
    read = read_observed(space.describe())
    assert (read.dtype, read.row) == (space.dtype.name, space.shape)
    read.check(space.draw(np.random.default_rng(0), 50), "observation")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (None, "observation_space.kind is None"),
        ({"kind": "mask", "size": 3}, "observation_space.kind is 'mask'"),
        ({"kind": "codes", "cells": 2, "codes": 1}, "codes is 1, not 2 to 65536"),
        ({"kind": "codes", "cells": True, "codes": 2}, "cells is True"),
        ({"kind": "codes", "cells": 2, "codes": 65537}, "codes is 65537"),
        ({"kind": "array", "sizes": [], "element": "uint8"}, r"sizes is \[\]"),
        ({"kind": "array", "sizes": 5, "element": "uint8"}, "sizes is 5"),
        ({"kind": "array", "sizes": [5, -1], "element": "uint8"}, r"sizes is \[5, -1\]"),
        ({"kind": "array", "sizes": [5], "element": "int64"}, "element is 'int64'"),
        ({"kind": "array", "sizes": [5]}, "element is None"),
        ({"kind": "parts", "parts": []}, "parts is no list"),
        ({"kind": "parts", "parts": "abc"}, "parts is no list"),
        ({"kind": "parts", "parts": [ARRAY]}, r"parts\[0\] has no name"),
        (parts(ARRAY, ARRAY, names="aa"), r"parts\[1\] has no name of its own"),
        (parts(ARRAY, {"kind": "boxes"}), r"parts\[1\].space.kind is 'boxes'"),
        (parts(ARRAY, parts(ARRAY)), r"parts\[1\].space.kind is 'parts'"),
        (parts({"kind": "mask", "size": 3}), "a mask alone"),
        (parts(ARRAY, {"kind": "mask", "size": 3}, {"kind": "mask", "size": 3}), "a second mask"),
        (parts(ARRAY, {"kind": "mask", "size": 0}), r"parts\[1\].space.size is 0"),
    ],
)
def test_nonsense_is_named(space: Any, said: str) -> None:
    with pytest.raises(Failed, match=said):
        read_observed(space)


@pytest.mark.parametrize(("part", "value"), [("image", 256), ("image", 0.5), ("state", 300), ("action_mask", 2)])
def test_values_that_a_part_cannot_hold_are_named(part: str, value: float) -> None:
    rows = PARTS.draw(np.random.default_rng(0), 5)
    rows[3, PARTS.columns[part].start] = value
    with pytest.raises(Failed, match=f"holds {value}"):
        read_observed(PARTS.describe()).check(rows, "observation")


def test_actions_that_a_mask_forbids_are_replaced_by_others() -> None:
    read, rows = read_observed(PARTS.describe()), np.zeros((4, PARTS.shape[0]), np.float32)
    rows[:, PARTS.columns["action_mask"]] = [[1, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert read.allowed(np.array([3, 3, 3, 3]), rows).tolist() == [3, 2, 3, 0]
    assert read.allowed(np.array([0, 0, 0, 2]), rows).tolist() == [0, 2, 1, 0]


def env_of(kind: str, fault: Fault) -> Broken:
    return Broken(fault, "env.id=tests.conformance.kinds_of_observations:Kinds", f"env.kind={kind}")


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["image", "parts"])
def test_a_server_of_any_kind_passes_every_check(kind: str) -> None:
    with asgi_server(env_of(kind, Fault())) as url:
        found = results(url, "vector")
    assert {name: result.sentence for name, result in found.items() if result.result == "fail"} == {}
    assert found["vector.determinism.seed"].result == "pass"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("kind", "check", "fault"),
    [
        ("parts", "vector.spec.protocol", reply("spec", lambda body: body.update(protocol="rattle.vector/1"))),
        ("many codes", "vector.spec.protocol", reply("spec", lambda body: body.update(protocol="rattle.vector/1"))),
        ("array", "vector.spec.space", reply("spec", lambda body: body["observation_space"].pop("element"))),
        ("parts", "vector.spec.space", reply("spec", lambda body: body["observation_space"]["parts"].append({}))),
        ("many codes", "vector.steps.fields", array("observation", lambda rows: rows * 0 + 300)),
        ("parts", "vector.steps.fields", array("observation", lambda rows: rows * 0 + 0.5)),
        ("image", "vector.steps.fields", array("observation", lambda rows: rows.reshape(len(rows), -1))),
    ],
)
def test_a_broken_server_of_a_kind_fails(kind: str, check: str, fault: Fault) -> None:
    with asgi_server(env_of(kind, fault)) as url:
        result = results(url, check, timeout=3.0)[check]
    assert result.result == "fail", result.sentence
