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
from torch import Tensor, nn

from rattle.envs.seeds import derive_seed
from rattle.extensions import WrongResult, calling
from rattle.learning.adam import Adam
from rattle.learning.algorithms.algorithm import Algorithm, Batch, Loss, LossFunction, S
from rattle.learning.errors import LearningError, WrongLoss
from rattle.learning.returns import episode_starts, without_waits
from rattle.learning.units import Units
from rattle.policies.errors import PolicyError
from rattle.policies.kinds import check_parameters, kind_of
from rattle.policies.own.past import OwnPast
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout, to_device
from rattle.samples.spaces import Distribution
from rattle.text import one_line

T = TypeVar("T")
Summand = TypeVar("Summand", Tensor, float)
Device = Literal["cpu", "cuda"]

#: A gradient is the sum over chunks of this many samples. The chunks, not the threads, decide the rounding: any number
#: of threads gives the same bytes. Large enough for efficient matrix products, small enough for the cache; fewer where
#: a network does much with each sample, such as an image.
CHUNK = 4096
#: The same on a GPU, where few large products are fast and many small ones are not.
GPU_CHUNK = 2**17


@dataclass(frozen=True)
class UpdateMetrics:
    """What an update did."""

    policy_version: int  # the version that the update made
    samples: int  # of the rollout, each counted once
    values: Mapping[str, float]  # by the names of the algorithm's metrics


class Learner:
    """Owns a policy's weights and improves them.

    Deterministic for a seed and the rollouts that it is given, whatever the threads and the cores of the machine; on
    `device` "cuda" for one kind of GPU, and starting from the same weights. Rollouts and states stay in main memory.
    Raises LearningError when PyTorch finds no such device.
    """

    def __init__(
        self,
        spec: PolicySpec,
        algorithm: Algorithm,
        seed: int,
        threads: int = 1,
        device: Device = "cpu",
        network: nn.Module | None = None,
    ) -> None:
        """`network` is one of a user's; others are made of the spec. Raises PolicyError where that cannot be done."""
        self._seed = seed
        self._device = _find(device)
        self._chunk = kind_of(spec).chunk(spec, CHUNK if device == "cpu" else GPU_CHUNK)
        # All work is done in these threads, where PyTorch starts no threads of its own: those spin at barriers, which
        # small networks cannot pay for, and sums and factorisations round differently with their number.
        # One thread leads, and the others, if there are several, share the chunks of a step.
        self._lead, self._pool = (
            ThreadPoolExecutor(number, "learner", initializer=torch.set_num_threads, initargs=(1,))
            for number in (1, threads)
        )
        self._share = self._pool.map if threads > 1 else map
        self.spec = spec
        self._own = OwnPast(spec.own)
        self.algorithm = algorithm
        self.version = 0
        generator = torch.Generator().manual_seed(seed % 2**63)
        made: Any = network or self._alone(kind_of(spec).make_network, spec, generator)
        self._network = made.to(self._device)
        self._weights = list(self._network.parameters())
        self._units = Units(self._network, kind_of(spec), spec, algorithm)
        self._units.draw()
        self._optimiser = Adam(self._weights)

    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the weights by name, as a policy has them."""
        return self._units.raw(self._own_parameters())

    def _own_parameters(self) -> dict[str, NDArray[np.float32]]:
        return {name: _as_array(tensor) for name, tensor in self._network.state_dict().items()}

    def begin_with(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Take weights by name in place of those that were drawn; raises LearningError when they do not fit."""
        try:
            check_parameters(self.spec, weights)
        except PolicyError as error:
            raise LearningError(f"the weights do not fit this policy: {error}") from None
        self._network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        self._units.take_raw()

    def update(self, rollout: Rollout[Tensor]) -> UpdateMetrics:
        """Improve the policy and raise its version.

        Raises LearningError, with weights, moments and version as they were, when the rollout holds nothing to learn
        from or a loss or gradient is not a finite number.
        """
        return self._alone(self._update, rollout)

    def prepared(self, rollout: Rollout[Tensor]) -> Rollout[Tensor]:
        """Return a rollout with what is learnt from: each slot's moves follow each other, and `own` is there.

        What a network with memory remembered is left of `memory`, without what the policy saw of its own past.
        """
        rollout = without_waits(rollout)
        if not self._own.width:
            return rollout
        played = (rollout.memory, rollout.action, rollout.reward, episode_starts(rollout))
        own = torch.from_numpy(self._own.replay(*(tensor.numpy() for tensor in played)))
        memory = rollout.memory[:, self._own.size :]
        arrays = {**rollout.arrays, "own": own, "memory": memory}
        return Rollout({name: array for name, array in arrays.items() if name != "memory" or memory.shape[1]})

    def _update(self, rollout: Rollout[Tensor]) -> UpdateMetrics:
        steps = _Steps(self, derive_seed(self._seed, "update", self.version))
        put_back = self._units.keep()
        try:
            rollout = self._units.follow(to_device(self.prepared(rollout), self._device))
            if self.algorithm.extension is not None:  # which may change what the tables are written from later
                own = {name: array.clone() for name, array in rollout.arrays.items() if name != "observation"}
                rollout = rollout.replace(**own)
            with calling(self.algorithm.extension, "update"):
                values = self._checked(self.algorithm.update(rollout, steps))
        except BaseException:
            steps.undo()
            put_back()
            raise
        self.version += 1
        return UpdateMetrics(self.version, steps.samples, values)

    def _checked(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Return what an update says of itself; raises WrongResult where that is not what the algorithm declares."""
        if not isinstance(values, Mapping):
            raise WrongResult(f"{type(values).__name__} instead of numbers by name")
        declared = sorted(metric.name for metric in self.algorithm.metrics)
        plain = {name: _as_number(value) for name, value in values.items()}
        for name, value in plain.items():
            if name not in declared:
                raise WrongResult(
                    f"'{one_line(name, 60)}', which is none of its metrics: {', '.join(sorted(declared))}"
                )
            if not isinstance(value, int | float) or not isfinite(value):
                raise WrongResult(f"{one_line(value, 60)} as {name}, where a finite number is wanted")
        return plain

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of the weights ("policy/NAME"), the moments ("optimiser/NAME/N"), scales and version."""
        state: dict[str, NDArray[Any]] = {f"policy/{name}": array for name, array in self._own_parameters().items()}
        state |= self._units.state()
        for index, moments in self._optimiser.moments.items():
            for name, tensor in moments.items():
                state[f"optimiser/{name}/{index}"] = _as_array(tensor)
        state["version"] = np.array(self.version, np.int64)
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken.

        Raises LearningError, with everything as it was, when it is the state of another network, or none.
        """
        weights = _part(state, "policy/")
        try:
            check_parameters(self.spec, weights)
            moments = self._stored_moments(state)
            version = int(state["version"])
        except PolicyError as error:
            raise LearningError(f"the stored weights do not fit this policy: {error}") from None
        except KeyError as error:
            raise LearningError(f"the stored state of the learner lacks {error}") from None
        self._network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        self._optimiser.restore(moments)
        self._units.restore(state)
        self.version = version

    def close(self) -> None:
        """Stop the threads."""
        self._lead.shutdown()
        self._pool.shutdown()

    def _alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the leading thread."""
        return self._lead.submit(function, *arguments).result()

    def predict(self, batch: Batch) -> tuple[Distribution, Tensor]:
        """Return the distributions of actions and the values, (n,), for n samples, without a gradient."""

        def part(chunk: Batch) -> tuple[Tensor, Tensor]:
            with torch.no_grad():  # which holds in one thread only
                return self._forward(chunk)

        outputs, values = zip(*self._share(part, batch.chunks(self._chunk)), strict=True)
        return self.spec.action.distribution(torch.cat(outputs)), torch.cat(values)

    def differentiate(self, samples: S, loss: LossFunction[S]) -> dict[str, float]:
        """Leave the clipped gradient of the mean loss with the weights; return the means of its sums, and the norm."""
        number = samples.samples

        def part(chunk: S) -> tuple[tuple[Tensor, ...], dict[str, float]]:
            outputs, value = self._forward(chunk.shown)
            found = _checked_loss(loss(self.spec.action.distribution(outputs), value, chunk.flat()))
            gradients = torch.autograd.grad(found.total / number, self._weights, materialize_grads=True)
            return gradients, {name: each.item() for name, each in found.sums.items()}

        gradients, sums = zip(*self._share(part, samples.chunks(self._chunk)), strict=True)
        for weight, parts in zip(self._weights, zip(*gradients, strict=True), strict=True):
            weight.grad = tree_sum(parts)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self.algorithm.max_gradient_norm)
        means = {name: tree_sum([one[name] for one in sums]) / number for name in sums[0]}
        return {**means, "gradient_norm": float(norm)}

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return outputs (n, outputs) and values (n,) of the samples that are learnt from."""
        if self._own.width and batch.own is None:
            raise WrongResult("a batch without `own`, which policy.inputs asks for: make it with `select`", "prepare")
        if batch.sequences is None:
            own = {} if batch.own is None else {"own": batch.own}
            outputs, value = self._network(batch.observation, **own)
            return outputs, value
        memory, starts, chosen = batch.sequences.memory, batch.sequences.starts, batch.sequences.chosen
        own = {} if batch.own is None else {"own": batch.own.transpose(0, 1)}
        whole = batch.observation.transpose(0, 1), memory, starts.transpose(0, 1)
        outputs, value = self._network.sequence(*whole, **own)
        return outputs.transpose(0, 1)[chosen], value.transpose(0, 1)[chosen]

    def descend(self, learning_rate: float) -> None:
        """Take a step of the optimiser along that gradient."""
        self._optimiser.step(learning_rate)

    def copy(self) -> Callable[[], None]:
        """Return what puts weights and moments back to what they are now."""
        weights = [weight.detach().clone() for weight in self._weights]
        stored = self._optimiser.copy()

        def put_back() -> None:
            with torch.no_grad():
                for weight, old in zip(self._weights, weights, strict=True):
                    weight.copy_(old)
            self._optimiser.restore(stored)

        return put_back

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


class _Steps:
    """The gradient steps of one update, which are taken all or not at all."""

    def __init__(self, learner: Learner, seed: int) -> None:
        self._learner = learner
        self.seed = seed
        self.version = learner.version
        self.samples = 0
        self.undo: Callable[[], None] = lambda: None

    def predict(self, batch: Batch) -> tuple[Distribution, Tensor]:
        """Return the distributions of actions and the values that the policy gives now."""
        return self._learner.predict(batch)

    def step(self, samples: S, loss: LossFunction[S], learning_rate: float) -> dict[str, float]:
        """Take a step along the gradient of the mean loss; return the means of its sums, and the gradient's norm."""
        learner = self._learner
        if samples.samples == 0:
            what = (
                "no episode ended in it: raise algorithm.max_episode_ticks"
                if learner.algorithm.complete_episodes
                else "no agent was alive in it"
            )
            raise LearningError(f"update {self.version + 1}: the rollout holds nothing to learn from: {what}")
        means = learner.differentiate(samples, loss)
        for name, number in means.items():
            self._check_finite(name, number)
        if self.samples == 0 and (learner.algorithm.several_steps or learner.algorithm.extension is not None):
            self.undo = learner.copy()
        self.samples += samples.samples
        learner.descend(learning_rate)
        return means

    def _check_finite(self, name: str, number: float) -> None:
        if not isfinite(number):
            own = self._learner.algorithm.extension
            what = f"update {self.version + 1}: the {name.replace('_', ' ')} is {number}, so the update was not made"
            advice = "look for rewards or observations that are not finite, or lower algorithm.learning_rate"
            if own is not None:
                raise WrongLoss(f"{own.path}: loss: {what}: look at what it computes, {advice}")
            raise LearningError(f"{what}: {advice}")


def tree_sum(parts: Sequence[Summand]) -> Summand:
    """Return the sum of at least one part, added up in pairs, then in pairs of pairs, and so on.

    The order depends on the number of parts only. Who holds an aligned block of 2, 4, 8, ... parts, or what is left of
    one at the end, can add them up alone: the tree_sum of such sums has the same bits.
    """
    sums: list[Summand] = list(parts)
    while len(sums) > 1:
        left_over = sums[len(sums) // 2 * 2 :]
        sums = [one + other for one, other in zip(sums[::2], sums[1::2], strict=False)] + left_over
    return sums[0]


def _as_number(value: Any) -> Any:
    """Return the number of a tensor or of one of NumPy's scalars; all else as it is."""
    is_scalar = isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0)
    return value.item() if is_scalar else value


def _checked_loss(loss: Loss) -> Loss:
    """Return a loss; raises WrongResult unless it is a sum over samples with parts that are sums."""
    if not isinstance(loss, Loss):
        raise WrongResult(f"{type(loss).__name__} instead of Loss(total, sums)", "loss")
    for name, part in {**loss.sums, "total": loss.total}.items():
        if not isinstance(part, Tensor) or part.ndim:
            got = f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise WrongResult(f"{got} as {name}, where a sum over all samples is wanted, a tensor ()", "loss")
    if not loss.total.requires_grad:
        raise WrongResult("a total that does not depend on the policy's outputs", "loss")
    return loss


def _find(device: Device) -> torch.device:
    """Return a device that can be used; raises LearningError."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise LearningError("train.device is cuda, but PyTorch finds no GPU here: set train.device=cpu")
        torch.set_float32_matmul_precision("highest")  # an environment variable may have asked for less
    return torch.device(device)


def _part(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return what has names with a prefix, by the rest of them."""
    return {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a copy in main memory."""
    return tensor.detach().cpu().numpy().copy()
