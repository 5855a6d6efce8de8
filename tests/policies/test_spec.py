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


def test_specs_survive_json() -> None:
    spec = MlpSpec.model_validate(GOOD)
    assert MlpSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"network": "cnn"}, ("network",)),
        ({"hidden": [3]}, ("hidden",)),
        ({"hidden_sizes": [0]}, ("hidden_sizes", 0)),
        ({"hidden_sizes": [4097]}, ("hidden_sizes", 0)),
        ({"hidden_sizes": [1] * 17}, ("hidden_sizes",)),
        ({"activation": "gelu"}, ("activation",)),
        ({"num_actions": 0}, ("action", "n")),
        ({"observation": {"kind": "pixels"}}, ("observation",)),
        ({"observation": {"kind": "floats", "size": 0}}, ("observation", "floats", "size")),
        ({"observation": {"kind": "codes", "cells": 0, "codes": 3}}, ("observation", "codes", "cells")),
        ({"observation": {"kind": "codes", "cells": 1, "codes": 1}}, ("observation", "codes", "codes")),
        ({"observation": {"kind": "codes", "cells": 1, "codes": 257}}, ("observation", "codes", "codes")),
        ({"observation": {"kind": "floats", "size": 1, "mean": 0}}, ("observation", "floats", "mean")),
    ],
)
def test_what_is_no_spec_is_refused_by_field(change: dict[str, Any], where: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        MlpSpec.model_validate({**GOOD, **change})
    assert [error["loc"] for error in caught.value.errors()] == [where]
