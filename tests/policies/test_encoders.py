"""Networks that come with Rattle: they take any observation, act as they learn, and obey masks of actions."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rattle.extensions import ExtensionError
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, dump_policy, load_policy
from rattle.policies.graph.network import LearningNetwork, Spaces, describe, make
from rattle.policies.graph.program import BLOCKS, HEAVY_BLOCKS
from rattle.policies.graph.spec import LIGHT
from rattle.policies.onnx import export_onnx
from rattle.samples.spaces import (
    ActionSpace,
    ArraySpace,
    BoxSpace,
    Categorical,
    CodeSpace,
    DiscreteSpace,
    FloatSpace,
    MaskSpace,
    ObservationSpace,
    Part,
    PartsSpace,
)
from rattle.settings.policy import find_network
from tests.policies.building import play


def parts(**spaces: Any) -> PartsSpace:
    """Return a space of parts by their names."""
    return PartsSpace(parts=tuple(Part(name=name, space=space) for name, space in spaces.items()))


MASKED = parts(
    image=ArraySpace(sizes=(5, 6, 3)),
    where=FloatSpace(size=3),
    says=CodeSpace(cells=2, codes=9),
    mask=MaskSpace(size=5),
)
OBSERVED: dict[str, tuple[str, ObservationSpace]] = {
    "small image": ("encoders", ArraySpace(sizes=(8, 8, 3))),
    "channels first": ("encoders", ArraySpace(sizes=(2, 9, 7), element="float32")),
    "one channel": ("encoders", ArraySpace(sizes=(7, 5))),
    "large image": ("encoders", ArraySpace(sizes=(40, 37, 2))),
    "nature": ("nature_cnn", ArraySpace(sizes=(36, 36, 1))),
    "impala": ("impala_cnn", ArraySpace(sizes=(11, 10, 3))),
    "table": ("encoders", ArraySpace(sizes=(3, 4), element="float32")),
    "bytes": ("encoders", ArraySpace(sizes=(12,))),
    "codes": ("encoders", CodeSpace(cells=1, codes=600)),
    "floats": ("encoders", FloatSpace(size=6)),
    "parts": ("encoders", MASKED),
}


def network(name: str, observation: ObservationSpace, action: ActionSpace, **settings: Any) -> LearningNetwork:
    """Return a network that comes with Rattle, whose policy head is as large as others."""
    extension = find_network(name)
    made = make(extension, Spaces(observation, action), extension.cls.Settings(**settings), seed=4)
    with torch.no_grad():
        made.own.policy.weight *= 100  # type: ignore[operator, union-attr]
    return made


@cache
def policy_of(what: str) -> tuple[LearningNetwork, StoredPolicy]:
    """Return a network and the policy that it is, for five actions."""
    name, observation = OBSERVED[what]
    made = network(name, observation, DiscreteSpace(n=5))
    return made, stored(made)


def stored(made: LearningNetwork) -> StoredPolicy:
    """Return the policy that a network is."""
    parameters = {name: tensor.detach().numpy() for name, tensor in made.state_dict().items()}
    return StoredPolicy(describe(made, made.own.spaces, value_head=True), parameters, 0, "pond", {})


def seen(space: ObservationSpace, rows: int) -> NDArray[Any]:
    """Return random observations."""
    return space.draw(np.random.default_rng(1), rows)


@pytest.mark.parametrize("what", ["small image", "nature", "impala", "parts"])
def test_a_graph_takes_each_weight_though_many_begin_alike(what: str) -> None:
    name, observation = OBSERVED[what]
    made = network(name, observation, DiscreteSpace(n=5), hidden_sizes=(8, 8, 8))
    drawn = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    spec = stored(made).spec
    assert all(torch.equal(tensor, drawn[name]) for name, tensor in made.state_dict().items())
    with torch.no_grad():  # as if it had learnt: biases begin at zero, and become different
        for number, weight in enumerate(made.parameters()):
            weight += 0.01 * (number % 7)
    rows = seen(observation, 5)
    learnt = {name: tensor.numpy() for name, tensor in made.state_dict().items()}
    found, value = ActingPolicy(spec, learnt).forward(rows)
    with torch.no_grad():
        outputs, values = made(torch.from_numpy(rows))
    np.testing.assert_allclose(found, outputs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(value, values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("what", OBSERVED)
def test_a_policy_file_acts_as_the_network_does(what: str) -> None:
    made, policy = policy_of(what)
    read = load_policy(dump_policy(policy))
    observation = seen(read.spec.observation, 33)
    with torch.no_grad():
        outputs, value = made(torch.from_numpy(observation))
    found, predicted = ActingPolicy(read.spec, read.parameters).forward(observation)
    np.testing.assert_allclose(found, outputs.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(predicted, value.numpy(), rtol=1e-4, atol=1e-4)
    assert np.ptp(found[found > -1e8]) > 0.01


@pytest.mark.parametrize("size", [(36, 36), (42, 43), (44, 50), (64, 37), (84, 84)])
def test_nature_cnn_looks_at_every_pixel(size: tuple[int, int]) -> None:
    made = network("nature_cnn", ArraySpace(sizes=(1, *size), element="float32"), DiscreteSpace(n=5), hidden_sizes=[2])
    with torch.no_grad():
        for weights in made.parameters():
            weights.fill_(0.01)  # so that no unit is 0, and nothing cancels out
    rows = torch.ones(1, 1, *size, requires_grad=True)
    made(rows)[1].sum().backward()
    assert rows.grad is not None
    assert (rows.grad > 0).all()


@pytest.mark.parametrize("what", OBSERVED)
def test_a_row_has_the_same_bits_in_any_batch(what: str) -> None:
    _, policy = policy_of(what)
    acting = ActingPolicy(policy.spec, policy.parameters)
    blocks = BLOCKS if policy.spec.row_work <= LIGHT else HEAVY_BLOCKS  # type: ignore[attr-defined]
    assert blocks is {"floats": BLOCKS, "nature": HEAVY_BLOCKS}.get(what, blocks)
    assert acting._program._blocks == tuple(sorted(blocks, reverse=True))  # type: ignore[attr-defined]
    observation = seen(policy.spec.observation, 150)
    whole, whole_value = acting.forward(observation)
    for rows in (slice(0, 1), slice(3, 5), slice(60, 70), slice(1, 150), slice(30, 107), slice(149, 150)):
        part, value = acting.forward(observation[rows])
        assert (part == whole[rows]).all()
        assert (value == whole_value[rows]).all()


@pytest.mark.parametrize("what", ["large image", "parts"])
def test_it_is_exported_to_onnx(what: str) -> None:
    assert export_onnx(policy_of(what)[1])


def test_every_part_counts() -> None:
    made, _ = policy_of("parts")
    observation = seen(MASKED, 1)
    with torch.no_grad():
        expected = made.own.step(torch.from_numpy(observation), torch.zeros((1, 0)))[1]
        for name, columns in MASKED.columns.items():
            changed = observation.copy()
            changed[:, columns] = 1 - (changed[:, columns] > 0)
            value = made.own.step(torch.from_numpy(changed), torch.zeros((1, 0)))[1]
            assert (value == expected) == (name == "mask"), name


@pytest.mark.parametrize("element", ["uint8", "float32"])
def test_channels_are_the_smaller_of_the_first_and_the_last_axis(element: Any) -> None:
    last, first = ArraySpace(sizes=(9, 7, 2), element=element), ArraySpace(sizes=(2, 9, 7), element=element)
    observation = torch.from_numpy(seen(last, 6))
    with torch.no_grad():
        outputs, value = network("encoders", last, DiscreteSpace(n=3))(observation)
        same = network("encoders", first, DiscreteSpace(n=3))(observation.permute(0, 3, 1, 2))
    np.testing.assert_array_equal(same[0].numpy(), outputs.numpy())
    np.testing.assert_array_equal(same[1].numpy(), value.numpy())


def test_real_numbers_have_deviations_that_nothing_observed_decides() -> None:
    made = network("encoders", ArraySpace(sizes=(4, 4)), BoxSpace(low=(-1.0, -1.0), high=(1.0, 1.0)), hidden_sizes=())
    policy = stored(made)
    outputs, _ = ActingPolicy(policy.spec, policy.parameters).forward(seen(policy.spec.observation, 20))
    assert not outputs[:, 2:].any()
    assert outputs[:, :2].any(axis=0).all()
    with torch.no_grad():
        made.own.log_std.fill_(-2.0)  # type: ignore[operator, union-attr]
        assert (made(torch.from_numpy(seen(policy.spec.observation, 3)))[0][:, 2:] == -2.0).all()


def test_the_same_seed_draws_the_same_weights_whatever_the_threads() -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            made = network("encoders", ArraySpace(sizes=(36, 36, 3)), DiscreteSpace(n=3), hidden_sizes=(300,))
            found.append(b"".join(tensor.numpy().tobytes() for tensor in made.state_dict().values()))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_an_image_too_small_for_the_convolutions_that_were_chosen_is_refused_in_one_line() -> None:
    with pytest.raises(PolicyError, match=r"at least 36 x 36, and one of 40 x 35 is observed: choose encoders or"):
        network("nature_cnn", ArraySpace(sizes=(40, 35, 3)), DiscreteSpace(n=3))
    with pytest.raises(ExtensionError, match="there is no network 'nature', did you mean 'nature_cnn'"):
        find_network("nature")


def test_forbidden_actions_never_happen() -> None:
    _, policy = policy_of("parts")
    acting = ActingPolicy(policy.spec, policy.parameters, seed=3)
    observation = seen(MASKED, 4000)
    mask = observation[:, MASKED.columns["mask"]].astype(bool)
    for tick, greedy in ((0, False), (1, False), (2, True)):
        played = play(acting, observation, tick, greedy=greedy)
        assert mask[np.arange(len(mask)), played.action].all()
        outputs = acting.forward(observation)[0].astype(np.float64)
        for row in range(200):  # a categorical over the allowed actions alone
            allowed = outputs[row, mask[row]]
            expected = outputs[row, played.action[row]] - np.log(np.exp(allowed).sum())
            assert abs(expected - played.log_prob[row]) < 1e-4
    assert len(set(played.action.tolist())) == 5


def test_a_row_without_a_mask_allows_everything() -> None:
    _, policy = policy_of("parts")
    played = play(ActingPolicy(policy.spec, policy.parameters), MASKED.zeros(2000))
    assert set(played.action.tolist()) == set(range(5))


def test_entropy_and_gradients_are_those_of_the_allowed_actions() -> None:
    made, _ = policy_of("parts")
    observation = torch.from_numpy(seen(MASKED, 64))
    mask = observation[:, MASKED.columns["mask"]].bool()
    outputs, value = made(observation)
    policy = Categorical(outputs)
    action = mask.float().argmax(dim=1)
    log_prob, entropy = policy.log_prob(action), policy.entropy()
    expected = sum(
        float(torch.distributions.Categorical(logits=row[allowed]).entropy())
        for row, allowed in zip(outputs.detach(), mask, strict=True)
    )
    assert float(entropy.detach()) == pytest.approx(expected, rel=1e-4)
    weights = list(made.parameters())
    gradients = torch.autograd.grad(log_prob.sum() + entropy + value.sum(), weights)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


def test_a_users_sequence_is_masked_as_its_steps_are() -> None:
    made, _ = policy_of("parts")
    observation = torch.from_numpy(seen(MASKED, 12)).reshape(4, 3, -1)
    with torch.no_grad():
        outputs, _ = made.sequence(observation, torch.zeros((3, 0)), torch.zeros((4, 3), dtype=torch.bool))
        expected, _ = made(observation.reshape(12, -1))
    np.testing.assert_allclose(outputs.reshape(12, -1).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert bool((outputs < -1e8).any())
