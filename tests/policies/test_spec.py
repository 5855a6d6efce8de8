"""Specs: what they derive, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rattle.policies.mlp.spec import MlpSpec

GOOD: dict[str, Any] = {
    "network": "mlp",
    "observation": {"kind": "codes", "encoding": "one_hot_without_zero", "cells": 60, "codes": 3},
    "num_actions": 3,
    "hidden_sizes": [64, 32],
    "activation": "relu",
    "value_head": True,
}


def test_layer_sizes_go_from_the_encoded_inputs_to_both_heads() -> None:
    spec = MlpSpec.model_validate(GOOD)
    assert spec.layer_sizes == (60 * 2, 64, 32, 3 + 1)
    assert (spec.observation.inputs, spec.observation.shape) == (120, (60,))
    plain = MlpSpec.model_validate(
        {**GOOD, "observation": {"kind": "floats", "size": 4}, "hidden_sizes": [], "value_head": False}
    )
    assert plain.layer_sizes == (4, 3)
    assert (plain.observation.inputs, plain.observation.shape) == (4, (4,))


BOX: dict[str, Any] = {
    **{name: value for name, value in GOOD.items() if name != "num_actions"},
    "action": {"kind": "box", "low": [-1.0, None], "high": [1.0, None]},
}


@pytest.mark.parametrize("values", [GOOD, BOX], ids=["discrete", "box"])
def test_specs_survive_json(values: dict[str, Any]) -> None:
    spec = MlpSpec.model_validate(values)
    assert MlpSpec.model_validate_json(spec.model_dump_json()) == spec
    assert "num_actions" in spec.model_dump() or values is BOX


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": [1.0, 2.0], "high": [0.0, 3.0]}, "low is above high"),
        ({"low": [1.0], "high": [2.0, 3.0]}, r"low \(1,\) and high \(2,\) have different shapes"),
        ({"low": [[1.0], [2.0, 3.0]], "high": 3.0}, "lists of such, all of one length"),
        ({"low": "a", "high": 3.0}, "a number or null"),
        ({"low": [], "high": []}, "1 to 4096 numbers"),
        ({"low": [0.0] * 4097, "high": [1.0] * 4097}, "1 to 4096 numbers"),
    ],
)
def test_boxes_of_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MlpSpec.model_validate({**BOX, "action": {"kind": "box", **change}})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"network": "cnn"}, ("network",)),
        ({"hidden": [3]}, ("hidden",)),
        ({"hidden_sizes": [0]}, ("hidden_sizes", 0)),
        ({"hidden_sizes": [4097]}, ("hidden_sizes", 0)),
        ({"hidden_sizes": [1] * 17}, ("hidden_sizes",)),
        ({"activation": "gelu"}, ("activation",)),
        ({"num_actions": 0}, ("action", "discrete", "n")),
        ({"observation": {"kind": "pixels"}}, ("observation",)),
        ({"observation": {"kind": "floats", "size": 0}}, ("observation", "floats", "size")),
        ({"observation": {"kind": "codes", "cells": 0, "codes": 3}}, ("observation", "codes", "cells")),
        ({"observation": {"kind": "codes", "cells": 1, "codes": 1}}, ("observation", "codes", "codes")),
        ({"observation": {"kind": "codes", "cells": 1, "codes": 65537}}, ("observation", "codes", "codes")),
        ({"observation": {"kind": "floats", "size": 1, "mean": 0}}, ("observation", "floats", "mean")),
    ],
)
def test_what_is_no_spec_is_refused_by_field(change: dict[str, Any], where: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        MlpSpec.model_validate({**GOOD, **change})
    assert [error["loc"] for error in caught.value.errors()] == [where]
