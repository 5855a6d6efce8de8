"""The PyTorch network: its encoding, its outputs and its first weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rattle.policies.mlp.network import MultilayerPerceptron
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import CodeSpace, FloatSpace

SPEC = MlpSpec(
    observation=CodeSpace(cells=4, codes=4), num_actions=3, hidden_sizes=(16, 8), activation="tanh", value_head=True
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_codes_are_encoded_code_by_code_without_zero() -> None:
    encoded = SPEC.observation.encode(torch.tensor([[0, 1, 3, 1], [2, 0, 0, 2]], dtype=torch.uint8))
    assert encoded.dtype == torch.float32
    assert encoded.reshape(2, 3, 4).tolist() == [  # observation, code - 1, cell
        [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]],
        [[0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]],
    ]


def test_floats_enter_as_they_are() -> None:
    observation = torch.tensor([[0.5, -3.0]])
    assert FloatSpace(size=2).encode(observation) is observation


@pytest.mark.parametrize("value_head", [True, False])
def test_logits_and_values_have_one_row_an_observation(value_head: bool) -> None:
    network = MultilayerPerceptron(SPEC.model_copy(update={"value_head": value_head}), seeded(0))
    logits, value = network(torch.ones((5, 4), dtype=torch.uint8))
    assert (logits.shape, value.shape) == ((5, 3), (5,))
    assert value.bool().all() == value_head


@pytest.mark.parametrize(("activation", "expected"), [("relu", 0.0), ("tanh", float(np.tanh(-2.0)))])
def test_the_activation_follows_every_hidden_layer_and_no_head(activation: str, expected: float) -> None:
    spec = MlpSpec.model_validate(
        {
            "observation": {"kind": "floats", "size": 1},
            "num_actions": 1,
            "hidden_sizes": (1,),
            "activation": activation,
            "value_head": True,
        }
    )
    network = MultilayerPerceptron(spec)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
        network.trunk[0].bias.fill_(-1.0)
        network.policy.bias.fill_(-5.0)
    logits, value = network(torch.tensor([[-1.0]]))
    assert logits.item() == pytest.approx(expected - 5)
    assert value.item() == pytest.approx(expected + 1)


def test_first_weights_are_orthogonal_and_the_first_policy_nearly_uniform() -> None:
    network = MultilayerPerceptron(SPEC, seeded(3))
    for layer, gain in [(network.trunk[0], 2.0), (network.trunk[1], 2.0), (network.policy, 0.0001), (network.value, 1)]:
        assert isinstance(layer, torch.nn.Linear)
        weight = layer.weight.detach()
        rows = weight if weight.shape[0] <= weight.shape[1] else weight.T
        np.testing.assert_allclose(rows @ rows.T, gain * np.eye(len(rows)), atol=1e-5)
        assert not layer.bias.any()
    probability = torch.softmax(network(torch.ones((1, 4), dtype=torch.uint8))[0], dim=1)
    np.testing.assert_allclose(probability.detach(), 1 / 3, atol=0.02)


def test_first_weights_come_from_the_generator_alone() -> None:
    def weights(seed: int) -> bytes:
        return b"".join(
            tensor.numpy().tobytes() for tensor in MultilayerPerceptron(SPEC, seeded(seed)).state_dict().values()
        )

    first = weights(1)
    torch.manual_seed(99)
    assert weights(1) == first
    assert weights(2) != first
