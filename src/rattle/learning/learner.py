"""The learner: policy network, optimiser and algorithm; rollouts in, policy updates out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rattle.learning.algorithms import Algorithm, Batch
from rattle.learning.errors import LearningError
from rattle.learning.rollout import Rollout
from rattle.policies.acting import check_parameters
from rattle.policies.errors import PolicyError
from rattle.policies.network import Network
from rattle.policies.spec import PolicySpec

T = TypeVar("T")
Device = Literal["cpu", "cuda"]

#: Gradients are summed over chunks of this many samples, in order. The chunks, not the threads, decide the rounding:
#: any number of threads gives the same bytes. Large enough for efficient matrix products, small enough for the cache.
CHUNK = 4096
#: The same on a GPU, where few large products are fast and many small ones are not.
GPU_CHUNK = 2**17


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
    """Owns a policy's weights and improves them.

    Deterministic for a seed and the rollouts that it is given, whatever the threads and the cores of the machine; on
    `device` "cuda" for one kind of GPU, and starting from the same weights. Rollouts and states stay in main memory.
    Raises LearningError when PyTorch finds no such device.
    """

    def __init__(
        self, spec: PolicySpec, algorithm: Algorithm, seed: int, threads: int = 1, device: Device = "cpu"
    ) -> None:
        self._device = _find(device)
        self._chunk = CHUNK if device == "cpu" else GPU_CHUNK
        # All work is done in these threads, where PyTorch starts no threads of its own: those spin at barriers, which
        # small networks cannot pay for, and sums and factorisations round differently with their number.
        self._pool = ThreadPoolExecutor(threads, "learner", initializer=torch.set_num_threads, initargs=(1,))
        self.spec = spec
        self.algorithm = algorithm
        self.version = 0
        generator = torch.Generator().manual_seed(seed % 2**63)
        self._network = self._alone(Network, spec, generator).to(self._device)
        self._weights = list(self._network.parameters())
        self._optimiser = torch.optim.Adam(self._weights, lr=algorithm.learning_rate, eps=1e-5, fused=True)

    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the weights by name."""
        return {name: _as_array(tensor) for name, tensor in self._network.state_dict().items()}

    def update(self, rollout: Rollout) -> UpdateMetrics:
        """Improve the policy by one step and raise its version.

        Raises LearningError, with weights, moments and version as they were, when the rollout holds nothing to learn
        from or a loss or gradient is not a finite number.
        """
        batch = self._alone(lambda: self.algorithm.prepare(rollout.to(self._device)))
        samples = len(batch)
        if samples == 0:
            what = (
                "no episode ended in it: raise algorithm.max_episode_ticks"
                if self.algorithm.complete_episodes
                else "no agent was alive in it"
            )
            raise LearningError(f"update {self.version + 1}: the rollout holds nothing to learn from: {what}")
        chunks = [batch.rows(start, min(start + self._chunk, samples)) for start in range(0, samples, self._chunk)]
        gradients, sums = zip(*self._pool.map(lambda chunk: self._gradient(chunk, samples), chunks), strict=True)
        policy_loss, value_loss, entropy = (sum(parts) / samples for parts in zip(*sums, strict=True))
        self._check_finite("policy loss", policy_loss)
        self._check_finite("value loss", value_loss)
        norm = self._alone(self._step, gradients)
        self.version += 1
        return UpdateMetrics(self.version, samples, policy_loss, value_loss, entropy, norm)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of the weights ("policy/NAME"), the moments ("optimiser/NAME/N") and the version."""
        state: dict[str, NDArray[Any]] = {f"policy/{name}": array for name, array in self.parameters().items()}
        for index, moments in self._optimiser.state_dict()["state"].items():
            for name, tensor in moments.items():
                state[f"optimiser/{name}/{index}"] = _as_array(tensor)
        state["version"] = np.array(self.version, np.int64)
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken.

        Raises LearningError, with everything as it was, when it is the state of another network, or none.
        """
        weights = {key.removeprefix("policy/"): array for key, array in state.items() if key.startswith("policy/")}
        try:
            check_parameters(self.spec, weights)
            moments = self._stored_moments(state)
            version = int(state["version"])
        except PolicyError as error:
            raise LearningError(f"the stored weights do not fit this policy: {error}") from None
        except KeyError as error:
            raise LearningError(f"the stored state of the learner lacks {error}") from None
        self._network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.version = version

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in one of the learner's threads."""
        return self._pool.submit(function, *arguments).result()

    def _gradient(self, chunk: Batch, samples: int) -> tuple[tuple[Tensor, ...], tuple[float, float, float]]:
        """Return a chunk's part of the gradient of the mean loss, and its sums of the loss parts."""
        logits, value = self._network(chunk.observation)
        parts = self.algorithm.loss(logits, value, chunk)
        gradients = torch.autograd.grad(parts.total / samples, self._weights, materialize_grads=True)
        return gradients, (parts.policy.item(), parts.value.item(), parts.entropy.item())

    def _step(self, gradients: Sequence[tuple[Tensor, ...]]) -> float:
        """Add up the chunks' gradients and take a step along them; return their norm before clipping."""
        for weight, parts in zip(self._weights, zip(*gradients, strict=True), strict=True):
            weight.grad = sum(parts[1:], start=parts[0])
        norm = float(torch.nn.utils.clip_grad_norm_(self._weights, self.algorithm.max_gradient_norm))
        self._check_finite("gradient norm", norm)
        self._optimiser.step()
        return norm

    def _check_finite(self, what: str, number: float) -> None:
        if not isfinite(number):
            raise LearningError(
                f"update {self.version + 1}: the {what} is {number}, so the update was not made: look for rewards or "
                "observations that are not finite, or lower algorithm.learning_rate"
            )

    def _stored_moments(self, state: Mapping[str, NDArray[Any]]) -> dict[int, dict[str, Tensor]]:
        """Return the moments as Adam keeps them, by weight: none before the first update."""
        if not any(key.startswith("optimiser/") for key in state):
            return {}
        moments: dict[int, dict[str, Tensor]] = {}
        for index, weight in enumerate(self._weights):
            moments[index] = {}
            for name, shape in (("step", ()), ("exp_avg", tuple(weight.shape)), ("exp_avg_sq", tuple(weight.shape))):
                array = state[f"optimiser/{name}/{index}"]
                if array.shape != shape or array.dtype != np.float32:
                    raise LearningError(
                        f"the stored {name} of weight {index} must be float32 {shape}, got {array.dtype} {array.shape}"
                    )
                moments[index][name] = torch.from_numpy(array.copy())
        return moments


def _find(device: Device) -> torch.device:
    """Return a device that can be used; raises LearningError."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise LearningError("train.device is cuda, but PyTorch finds no GPU here: set train.device=cpu")
        torch.set_float32_matmul_precision("highest")  # an environment variable may have asked for less
    return torch.device(device)


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a copy in main memory."""
    return tensor.detach().cpu().numpy().copy()
