"""Acting with networks of users: the graph of a policy file, beside PyTorch's own batched forward pass.

Three networks (the multilayer perceptron that comes with Rattle as one of a user's, a small convolution, a gated unit
with memory) and the two-layer network with LayerNorm and GELU act on 1,024 rows, in one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import median_seconds, report, table
from torch import Tensor, nn

from rattle.extensions import Extension
from rattle.policies.acting import ActingPolicy
from rattle.policies.graph.network import LearningNetwork, Network, Spaces, describe
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import CodeSpace, DiscreteSpace

ROWS, REPEATS = 1024, 60
SPACES = Spaces(CodeSpace(cells=60, codes=3), DiscreteSpace(n=3))


class Layers(Network):
    """Two layers of 64, with or without normalisation."""

    def __init__(self, spaces: Spaces, settings: Any) -> None:
        super().__init__(spaces, settings)
        between: Callable[[], list[nn.Module]] = settings or (lambda: [nn.ReLU()])
        sizes = [(spaces.observation.inputs, 64), (64, 64)]
        self.body = nn.Sequential(*(each for a, b in sizes for each in (nn.Linear(a, b), *between())))
        self.policy, self.value = nn.Linear(64, spaces.action.outputs), nn.Linear(64, 1)

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what two heads make of the layers."""
        hidden = self.body(self.encode(observation))
        return self.policy(hidden), self.value(hidden).squeeze(1), state


class Convolution(Layers):
    """Two small convolutions over the inputs as an image, and a layer."""

    def __init__(self, spaces: Spaces, settings: Any) -> None:
        Network.__init__(self, spaces, settings)
        self.body = nn.Sequential(
            nn.Unflatten(1, (2, 6, 10)),
            *(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(16 * 2 * 6, 64), nn.ReLU()),
        )
        self.policy, self.value = nn.Linear(64, spaces.action.outputs), nn.Linear(64, 1)


class Memory(Network):
    """A gated recurrent unit of 64."""

    def __init__(self, spaces: Spaces, settings: Any) -> None:
        super().__init__(spaces, settings)
        self.state_size = 64
        self.cell = nn.GRUCell(spaces.observation.inputs, 64)
        self.policy, self.value = nn.Linear(64, spaces.action.outputs), nn.Linear(64, 1)

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what two heads make of what is remembered."""
        state = self.cell(self.encode(observation), state)
        return self.policy(state), self.value(state).squeeze(1), state


NETWORKS: dict[str, tuple[type[Network], Any]] = {
    "two layers": (Layers, None),
    "two layers, LayerNorm, GELU": (Layers, lambda: [nn.LayerNorm(64), nn.GELU()]),
    "convolution": (Convolution, None),
    "gated recurrent unit": (Memory, None),
}


def seconds(policy: ActingPolicy, rows: int = ROWS) -> float:
    """Return how long a policy takes to act on so many rows."""
    observation = SPACES.observation.draw(np.random.default_rng(0), rows)
    action, log_prob, value = np.zeros(rows, np.int64), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    size = policy.spec.memory_size
    state = np.zeros((rows, size), np.float32) if size else None
    return median_seconds(
        lambda: policy.act(observation, tick=0, action=action, log_prob=log_prob, value=value, state=state), REPEATS
    )


def main() -> None:
    """Measure all networks, and write the table."""
    torch.set_num_threads(1)
    rows = []
    for name, (cls, settings) in NETWORKS.items():
        network = LearningNetwork(Extension(name, cls), cls(SPACES, settings))
        spec = describe(network, SPACES, value_head=True)
        policy = ActingPolicy(spec, {name: tensor.numpy() for name, tensor in network.state_dict().items()})
        given = torch.from_numpy(SPACES.observation.draw(np.random.default_rng(0), ROWS))
        state = torch.zeros((ROWS, network.state_size))

        def whole(network: LearningNetwork = network, given: Tensor = given, state: Tensor = state) -> object:
            with torch.no_grad():
                return network(given, state)

        acting, batched, one = seconds(policy), median_seconds(whole, REPEATS), seconds(policy, 1)
        times = [f"{each * 1e6:,.0f}" for each in (acting, batched)]
        rows.append([name, *times, f"{batched / acting:.2f}", f"{one * 1e6:,.0f}"])
    spec = MlpSpec(
        observation=SPACES.observation,
        action=SPACES.action,
        hidden_sizes=(64, 64),
        activation="relu",
        value_head=True,
    )
    learnt = {name: tensor.numpy() for name, tensor in _weights(spec).items()}
    built_in = ActingPolicy(spec, learnt)
    many, one = seconds(built_in), seconds(built_in, 1)
    rows.append(["mlp, compiled (built in)", f"{many * 1e6:,.0f}", "", "", f"{one * 1e6:,.0f}"])
    report(
        "own_networks",
        "Acting with networks of users",
        f"{ROWS:,} rows in one thread, medians of {REPEATS}. The graph draws actions too; PyTorch's pass is bare.",
        table(["network", "graph, µs", "PyTorch, batched, µs", "speed of the graph", "one row, µs"], rows),
    )


def _weights(spec: MlpSpec) -> dict[str, Tensor]:
    from rattle.policies.kinds import kind_of

    return dict(kind_of(spec).make_network(spec).state_dict())


if __name__ == "__main__":
    main()
