"""Exported models say in ONNX Runtime what the policy says."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.onnx import export_onnx
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import BoxSpace, CodeSpace, FloatSpace
from tests.policies.building import network_of, policy_specs, random_observation, random_parameters, random_policy

CODES = MlpSpec(
    observation=CodeSpace(cells=60, codes=5), num_actions=3, hidden_sizes=(64, 64), activation="relu", value_head=True
)
FLOATS = MlpSpec(observation=FloatSpace(size=4), num_actions=2, hidden_sizes=(31,), activation="tanh", value_head=False)


def assert_same_outputs(policy: StoredPolicy, model: bytes, rows: int) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    observation = random_observation(policy.spec, rows, seed=1)
    *parts, value = session.run([*policy.spec.action.parts, "value"], {"observation": observation})
    with torch.no_grad():
        expected, expected_value = network_of(policy.spec, policy.parameters)(torch.from_numpy(observation))
    assert [part.shape[1] for part in parts] == list(policy.spec.action.parts.values())
    outputs = np.concatenate(parts, axis=1)
    assert (outputs.dtype, value.dtype) == (np.float32, np.float32)
    assert (outputs.shape, value.shape) == ((rows, policy.spec.action.outputs), (rows,))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [CODES, FLOATS], ids=["codes", "floats"])
def test_one_model_takes_batches_of_any_size(spec: PolicySpec) -> None:
    policy = random_policy(spec)
    model = export_onnx(policy)
    for rows in (1, 7, 300):
        assert_same_outputs(policy, model, rows)


@settings(max_examples=40)
@given(spec=policy_specs(), seed=st.integers(0, 2**32))
def test_models_of_any_spec_say_what_the_network_says(spec: PolicySpec, seed: int) -> None:
    policy = random_policy(spec, seed)
    assert_same_outputs(policy, export_onnx(policy), rows=7)


def test_a_model_says_what_it_is() -> None:
    model = onnx.load_model_from_string(export_onnx(random_policy(CODES)))
    assert (model.producer_name, model.model_version) == ("rattle", 7)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {"observation": ["batch", 60], "logits": ["batch", 3], "value": ["batch"]}


def test_actions_of_real_numbers_have_means_and_deviations() -> None:
    spec = FLOATS.model_copy(update={"action": BoxSpace(low=(-1.0, -1.0), high=(1.0, 1.0))})
    model = onnx.load_model_from_string(export_onnx(random_policy(spec)))
    assert [value.name for value in model.graph.output] == ["mean", "log_std", "value"]


def test_the_same_policy_gives_the_same_bytes() -> None:
    policy = random_policy(CODES)
    backwards = dict(reversed(list(policy.parameters.items())))
    assert export_onnx(policy) == export_onnx(StoredPolicy(policy.spec, backwards, 7, "snake", {}))


def test_large_outputs_are_compared_by_their_size() -> None:
    parameters = {name: 3000 * array for name, array in random_parameters(CODES).items()}
    policy = StoredPolicy(CODES, parameters, 0, "snake", {})
    assert_same_outputs(policy, export_onnx(policy), rows=7)


def test_a_model_that_says_something_else_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted(onnxruntime.InferenceSession):  # type: ignore[misc]
        def run(self, *arguments: object) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
            logits, value = super().run(*arguments)
            return [logits, value + 0.01 * np.abs(value).max()]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Shifted)
    with pytest.raises(PolicyError, match=r"the exported model's value differs by 0\.01: not exported"):
        export_onnx(random_policy(CODES))


def test_a_policy_whose_numbers_overflow_is_not_exported() -> None:
    parameters = {name: np.full_like(array, 1e38) for name, array in random_parameters(CODES).items()}
    with pytest.raises(PolicyError, match="differs by nan: not exported"):
        export_onnx(StoredPolicy(CODES, parameters, 0, "snake", {}))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_cure(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PolicyError, match=rf"needs the package {package}: pip install 'rattle\[onnx\]'"):
        export_onnx(random_policy(FLOATS))
