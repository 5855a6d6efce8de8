"""Networks of users: graphs that act without their code, with the same bits in any batch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from rattle.envs.validation import settings_of
from rattle.extensions import NETWORK, Extension, ExtensionError, load
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, dump_policy, load_policy
from rattle.policies.graph.network import LearningNetwork, Network, Spaces, describe, make
from rattle.policies.graph.program import BLOCKS
from rattle.policies.onnx import export_onnx
from rattle.samples.spaces import BoxSpace, CodeSpace, DiscreteSpace, FloatSpace
from tests.policies.building import play
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

SPACES = Spaces(FloatSpace(size=12), DiscreteSpace(n=5))
NETWORKS = {
    "norm": """
        class Own(Network):
            class Settings(BaseModel):
                width: int = 17

            def __init__(self, spaces, settings):
                super().__init__(spaces, settings)
                width = settings.width
                self.body = nn.Sequential(nn.Linear(spaces.observation.inputs, width), nn.LayerNorm(width), nn.GELU())
                self.policy, self.value = nn.Linear(width, spaces.action.outputs), nn.Linear(width, 1)

            def step(self, observation, state):
                hidden = self.body(self.encode(observation))
                return self.policy(hidden), self.value(hidden).squeeze(1), state
        """,
    "convolution": """
        class Own(Network):
            def __init__(self, spaces, settings):
                super().__init__(spaces, settings)
                self.convolution = nn.Conv2d(1, 4, 2)
                self.policy, self.value = nn.Linear(24, spaces.action.outputs), nn.Linear(24, 1)

            def step(self, observation, state):
                image = self.encode(observation)[:, :12].reshape(-1, 1, 3, 4)
                hidden = self.convolution(image).relu().flatten(1)
                return self.policy(hidden), self.value(hidden).squeeze(1), state
        """,
    "memory": """
        class Own(Network):
            def __init__(self, spaces, settings):
                super().__init__(spaces, settings)
                self.state_size = 9
                self.cell = nn.GRUCell(spaces.observation.inputs, self.state_size)
                self.policy, self.value = nn.Linear(9, spaces.action.outputs), nn.Linear(9, 1)

            def step(self, observation, state):
                state = self.cell(self.encode(observation), state)
                return self.policy(state), self.value(state).squeeze(1), state
        """,
}
IMPORTS = "import torch\nfrom torch import nn\nfrom pydantic import BaseModel\nfrom rattle.extend import Network\n"


def own(user_module: UserModule, source: str, spaces: Spaces = SPACES, **settings: Any) -> LearningNetwork:
    """Return a user's network, whose module is forgotten again."""
    import textwrap

    user_module("own_networks", IMPORTS + textwrap.dedent(source))
    sys.modules.pop("own_networks", None)
    extension: Extension[Network] = load("own_networks:Own", NETWORK, Network)
    return make(extension, spaces, settings_of(extension, settings), seed=3)


def stored(network: LearningNetwork, spaces: Spaces = SPACES) -> StoredPolicy:
    """Return the policy that a network is."""
    parameters = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return StoredPolicy(describe(network, spaces, value_head=True), parameters, 3, "pond", {})


def played(policy: ActingPolicy, observation: Any, state: Any = None) -> list[Any]:
    """Return what a policy makes of rows."""
    rows = len(observation)
    found = [np.zeros(rows, np.int64), np.zeros(rows, np.float32), np.zeros(rows, np.float32)]
    policy.act(observation, tick=4, action=found[0], log_prob=found[1], value=found[2], state=state)
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("observation", [FloatSpace(size=12), CodeSpace(cells=12, codes=3)], ids=["floats", "codes"])
def test_a_policy_file_acts_as_the_network_does_without_its_code(
    user_module: UserModule, name: str, observation: Any
) -> None:
    spaces = Spaces(observation, DiscreteSpace(n=5))
    network = own(user_module, NETWORKS[name], spaces)
    read = load_policy(dump_policy(stored(network, spaces)))
    policy = ActingPolicy(read.spec, read.parameters)
    seen = observation.draw(np.random.default_rng(0), 150)
    state = np.random.default_rng(1).normal(size=(150, read.spec.memory_size)).astype(np.float32)
    with torch.no_grad():
        outputs, value, after = network(torch.from_numpy(seen), torch.from_numpy(state))
    found, predicted = policy.forward(seen, state.copy())
    np.testing.assert_allclose(found, outputs.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predicted, value.numpy(), rtol=1e-4, atol=1e-5)
    played(policy, seen, state)
    np.testing.assert_allclose(state, after.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_has_the_same_bits_in_any_batch(user_module: UserModule, name: str) -> None:
    policy = stored(own(user_module, NETWORKS[name]))
    acting = ActingPolicy(policy.spec, policy.parameters)
    assert acting._program._blocks == tuple(sorted(BLOCKS, reverse=True))  # type: ignore[attr-defined]
    seen = SPACES.observation.draw(np.random.default_rng(0), 700)
    state = np.random.default_rng(1).normal(size=(700, policy.spec.memory_size)).astype(np.float32)
    whole, whole_value = acting.forward(seen, state.copy())
    for rows in (slice(0, 1), slice(3, 4), slice(60, 70), slice(1, 700), slice(300, 657), slice(699, 700)):
        part, value = acting.forward(seen[rows], state[rows].copy())
        assert (part == whole[rows]).all()
        assert (value == whole_value[rows]).all()


def test_weights_are_drawn_from_the_seed_and_swapped_in(user_module: UserModule) -> None:
    one, other = own(user_module, NETWORKS["norm"]), own(user_module, NETWORKS["norm"])
    policy, same = stored(one), stored(other)
    assert dump_policy(policy) == dump_policy(same)
    zeros = {name: np.zeros_like(array) for name, array in policy.parameters.items()}
    acting = ActingPolicy(policy.spec, policy.parameters)
    acting.load(zeros)
    outputs, value = acting.forward(SPACES.observation.zeros(3) + 1)
    assert not outputs.any()
    assert not value.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_exported_to_onnx(user_module: UserModule, name: str) -> None:
    assert export_onnx(stored(own(user_module, NETWORKS[name])))


def test_settings_are_the_networks_own(user_module: UserModule) -> None:
    network = own(user_module, NETWORKS["norm"], width=3)
    assert dict(stored(network).spec.parameters)["own.value.weight"] == (1, 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("super().__init__(spaces, settings)", "1 / 0"), "own_networks:Own: __init__ raised ZeroDivisionError"),
        (("squeeze(1), state", "squeeze(1)"), "step returned something other than outputs, values and the next state"),
        ((".squeeze(1), state", ", state"), r"step returned the values as torch.float32 \(3, 1\), where .* \(3,\)"),
        (("self.policy(hidden),", "self.policy(hidden).double(),"), r"step returned the outputs as torch.float64"),
        (("self.policy(hidden),", "self.policy(hidden).detach(),"), "step returned outputs that no weight can change"),
        (("def step(self, observation, state)", "def forward(self, state)"), "cannot be used: it does not define step"),
        (("self.policy(hidden),", "None,"), "step returned the outputs as NoneType, not as a tensor"),
        (("self.policy(hidden),", "self.policy(hidden) / 0,"), "step returned numbers that are not finite"),
        (("hidden = ", "hidden = nothing + "), "step raised NameError: name 'nothing' is not defined in own_networks"),
        (("width = settings.width", "width = settings.width; self.state_size = -1"), "-1 as state_size"),
        (("nn.GELU())", "nn.GELU()).double()"), "body.0.weight as torch.float64"),
        (("nn.LayerNorm(width)", "nn.BatchNorm1d(width)"), "BatchNorm takes statistics of batches"),
    ],
)
def test_what_is_wrong_with_a_network_names_class_and_method(
    user_module: UserModule, change: tuple[str, str], said: str
) -> None:
    with pytest.raises(ExtensionError, match=said):
        own(user_module, NETWORKS["norm"].replace(*change))


def test_graphs_that_lie_are_refused(user_module: UserModule) -> None:
    policy = stored(own(user_module, NETWORKS["norm"]))
    graph = policy.spec.graph  # type: ignore[attr-defined]
    for change, said in (
        ({"graph": b"garbage"}, "refused by ONNX Runtime"),
        ({"graph": graph + b"\n\x08location"}, "refers to another file"),
        ({"graph": graph + b"\x8a\x00\x88\x80\x00location"}, "refers to another file"),
        ({"parameters": ()}, "takes .*own.body.0.bias.*, which its spec does not describe"),
        ({"action": DiscreteSpace(n=4)}, r"gives outputs as float32 \(64, 5\), not float32 \(64, 4\)"),
    ):
        spec = policy.spec.model_copy(update=change)
        with pytest.raises(PolicyError, match=said):
            ActingPolicy(spec, policy.parameters if "parameters" not in change else {})


@pytest.mark.parametrize(
    "step",
    [
        "seen = seen * (2.0 if bool(seen.sum() == 0) else 1.0)",
        "seen = seen + torch.rand(len(seen), 1)",
        "seen = seen - seen.mean(dim=0, keepdim=True)",
        "seen = torch.cat([seen[: len(seen) // 2], seen[len(seen) // 2 :].flip(0)])",
        "seen = seen * (2.0 if float(seen.sum()) > 0 else 1.0)",
    ],
    ids=["a branch", "random draws", "a mean over rows", "other rows", "a branch on all rows"],
)
def test_a_step_that_a_graph_cannot_compute_is_refused(user_module: UserModule, step: str) -> None:
    source = NETWORKS["norm"].replace(
        "hidden = self.body(self.encode(observation))",
        f"""seen = self.encode(observation)
                {step}
                hidden = self.body(seen)""",
    )
    network = own(user_module, source)
    with pytest.raises(ExtensionError, match=r"^own_networks:Own: step (becomes a graph that|cannot act without)"):
        describe(network, SPACES, value_head=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((("hidden = self.body(", "observation.zero_(); hidden = self.body("),), "step changes the observations"),
        (
            (
                ("self.policy, self.value", "self.more = [nn.Linear(width, width)]; self.policy, self.value"),
                ("return self.policy(hidden)", "hidden = self.more[0](hidden); return self.policy(hidden)"),
            ),
            "uses weights that are not the network's own: a list of layers must be an nn.ModuleList",
        ),
    ],
    ids=["in place", "a list of layers"],
)
def test_what_a_graph_cannot_do_is_said(
    user_module: UserModule, changes: tuple[tuple[str, str], ...], said: str
) -> None:
    source = NETWORKS["norm"]
    for change in changes:
        assert change[0] in source
        source = source.replace(*change)
    with pytest.raises(ExtensionError, match=said) as error:
        describe(own(user_module, source), SPACES, value_head=True)
    assert len(str(error.value)) < 300


def test_a_state_may_be_a_count(user_module: UserModule) -> None:
    source = """
        class Own(Network):
            def __init__(self, spaces, settings):
                super().__init__(spaces, settings)
                self.state_size = 1
                self.clock = nn.Embedding(8, spaces.action.outputs)

            def step(self, observation, state):
                outputs = self.clock(state[:, 0].long().clamp(max=7)) + 0 * self.encode(observation)[:, :1]
                return outputs, outputs.sum(1), state + 1

            def sequence(self, observation, state, starts):
                return super().sequence(observation, state, starts)
    """
    assert describe(own(user_module, source), SPACES, value_head=True).state_size == 1


def test_a_sequence_must_return_what_step_returns(user_module: UserModule) -> None:
    source = (
        NETWORKS["memory"]
        + """
            def sequence(self, observation, state, starts):
                return super().sequence(observation, state, {starts})
    """
    )
    assert own(user_module, source.format(starts="starts")).state_size == 9
    with pytest.raises(ExtensionError, match=r"^own_networks:Own: sequence returned something else than step"):
        own(user_module, source.format(starts="starts & False"))


def test_real_numbers_are_decided_by_means_and_deviations_of_the_users_own(user_module: UserModule) -> None:
    user_module(
        "my_steering",
        """
        import torch
        from torch import nn
        from rattle.extend import Network

        class Steers(Network):
            def __init__(self, spaces, settings):
                super().__init__(spaces, settings)
                numbers = spaces.action.parts["mean"]
                self.mean, self.value = nn.Linear(spaces.observation.inputs, numbers), nn.Linear(3, 1)
                self.log_std = nn.Parameter(torch.full((numbers,), -0.5))

            def step(self, observation, state):
                mean = self.mean(observation)
                outputs = torch.cat([mean, self.log_std.expand_as(mean)], dim=1)
                return outputs, self.value(observation).squeeze(1), state
        """,
    )
    spaces = Spaces(FloatSpace(size=3), BoxSpace(low=(-1.0, -1.0), high=(1.0, 1.0)))
    network = make(load("my_steering:Steers", NETWORK, Network), spaces, None, seed=1)
    spec = describe(network, spaces, value_head=True)
    parameters = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    policy, observation = ActingPolicy(spec, parameters, seed=2), spaces.observation.draw(np.random.default_rng(0), 90)
    played = play(policy, observation)
    with torch.no_grad():
        outputs, _ = network(torch.from_numpy(observation))
        log_prob = spaces.action.distribution(outputs).log_prob(torch.from_numpy(played.action))
    np.testing.assert_allclose(played.log_prob, log_prob.numpy(), rtol=1e-4, atol=1e-4)
    assert play(policy, observation[40:50], first_slot=40).bits() == played.bits(slice(40, 50))
    np.testing.assert_array_equal(play(policy, observation, greedy=True).action, policy.forward(observation)[0][:, :2])
    model = onnx.load_model_from_string(export_onnx(StoredPolicy(spec, parameters, 0, "snake", {})))
    assert [value.name for value in model.graph.output] == ["mean", "log_std", "value"]
