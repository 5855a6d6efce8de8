"""The learner: policy network, optimiser and algorithm; rollouts in, policy updates out."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rattle.learning.algorithms import Algorithm, Batch
from rattle.learning.errors import LearningError
from rattle.learning.rollout import Rollout
from rattle.policies.network import Network
from rattle.policies.spec import PolicySpec

#: Gradients are summed over chunks of this many samples, in order. The chunks, not the threads, decide the rounding:
#: any number of threads gives the same bytes. Large enough for efficient matrix products, small enough for the cache.
CHUNK = 4096


@dataclass(frozen=True)
class UpdateMetrics:
    """What an update did, as means over its samples."""

    policy_version: int  # the version that the update made
    samples: int
    policy_loss: float
    value_loss: float
    entropy: float  # nats an action
    gradient_norm: float  # before clipping


class Learner:
    """Owns a policy's weights and improves them; deterministic for a seed and the rollouts that it is given."""

    def __init__(self, spec: PolicySpec, algorithm: Algorithm, seed: int, threads: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed % 2**63)
        self.spec = spec
        self.algorithm = algorithm
        self.version = 0
        self._network = Network(spec, generator)
        self._weights = list(self._network.parameters())
        self._optimiser = torch.optim.Adam(self._weights, lr=algorithm.learning_rate, eps=1e-5, fused=True)
        # PyTorch's own threads spin at barriers, which small networks cannot pay for; whole chunks run side by side.
        self._pool = ThreadPoolExecutor(threads, "learner", initializer=torch.set_num_threads, initargs=(1,))

    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the weights by name."""
        return {name: tensor.detach().numpy().copy() for name, tensor in self._network.state_dict().items()}

    def update(self, rollout: Rollout) -> UpdateMetrics:
        """Improve the policy by one step and raise its version.

        Raises LearningError, with weights and version as they were, when the rollout holds nothing to learn from or
        a loss or gradient is not a finite number.
        """
        batch = self.algorithm.prepare(rollout)
        samples = len(batch)
        name = f"update {self.version + 1}"
        if samples == 0:
            raise LearningError(f"{name}: no episode ended in the rollout: raise algorithm.max_episode_ticks")
        chunks = [batch.rows(start, min(start + CHUNK, samples)) for start in range(0, samples, CHUNK)]
        sums = list(self._pool.map(lambda chunk: self._gradient(chunk, samples), chunks))
        gradients = [_sum_in_order([gradients[i] for gradients, _ in sums]) for i in range(len(self._weights))]
        policy_loss, value_loss, entropy = (sum(parts) / samples for parts in zip(*(p for _, p in sums), strict=True))
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        norm = float(torch.nn.utils.clip_grad_norm_(self._weights, self.algorithm.max_gradient_norm))
        for what, number in (("policy loss", policy_loss), ("value loss", value_loss), ("gradient norm", norm)):
            if not isfinite(number):
                raise LearningError(
                    f"{name}: the {what} is {number}, so the update was not made: look for rewards or observations "
                    "that are not finite, or lower algorithm.learning_rate"
                )
        self._optimiser.step()
        self.version += 1
        return UpdateMetrics(self.version, samples, policy_loss, value_loss, entropy, norm)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of the weights ("policy/NAME"), the moments ("optimiser/NAME/N") and the version."""
        state: dict[str, NDArray[Any]] = {f"policy/{name}": array for name, array in self.parameters().items()}
        for index, moments in self._optimiser.state_dict()["state"].items():
            for name, tensor in moments.items():
                state[f"optimiser/{name}/{index}"] = tensor.numpy().copy()
        state["version"] = np.array(self.version, np.int64)
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken; raises LearningError when it is of another network."""
        weights = {name: torch.from_numpy(state[f"policy/{name}"].copy()) for name in self._network.state_dict()}
        try:
            self._network.load_state_dict(weights)
        except RuntimeError as error:
            raise LearningError(f"the stored weights do not fit this policy: {error}") from None
        moments: dict[int, dict[str, Tensor]] = {}
        for key, array in state.items():
            if key.startswith("optimiser/"):
                _, name, index = key.split("/")
                moments.setdefault(int(index), {})[name] = torch.from_numpy(array.copy())
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.version = int(state["version"])

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _gradient(self, chunk: Batch, samples: int) -> tuple[tuple[Tensor, ...], tuple[float, float, float]]:
        """Return a chunk's part of the gradient of the mean loss, and its sums of the loss parts."""
        logits, value = self._network(chunk.observation)
        parts = self.algorithm.loss(logits, value, chunk)
        gradients = torch.autograd.grad(parts.total / samples, self._weights, materialize_grads=True)
        return gradients, (parts.policy.item(), parts.value.item(), parts.entropy.item())


def _sum_in_order(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
