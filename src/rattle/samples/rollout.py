"""Rollouts: T ticks of B slots, the same class wherever they are filled, sent, learnt from and recorded.

`FIELDS` describes every array once. What allocates, slices, joins, sends, checks, learns from or records rollouts goes
through that table, so a new field is one row of it, and the code that fills it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from rattle.samples.spaces import ActionSpace, ObservationSpace, Space

if TYPE_CHECKING:
    import torch

Axis = Literal["ticks", "slots", "worlds"]

#: NumPy arrays, or tensors of PyTorch.
A = TypeVar("A")


@dataclass(frozen=True)
class RolloutField:
    """One array of a rollout: its axes, the rows along them, and what happens to it."""

    name: str
    axes: tuple[Axis, ...]
    dtype: np.dtype[Any] | Literal["observation", "action", "memory", "own"]  # a name: it depends on the policy
    travels: bool = True  # in the messages that actors send
    is_learnt_from: bool = True
    is_recorded: bool = False  # in the table `steps`
    is_reward: bool = False  # counts in rewards
    is_optional: bool = False  # there only where agents wait for their turn; who sends none means zeros


_TICKS: tuple[Axis, ...] = ("ticks", "slots")
_FLOAT, _BOOL = np.dtype(np.float32), np.dtype(np.bool_)

#: The arrays of a rollout. Row t of a slot holds what it observed, what it did then, and the result.
FIELDS: tuple[RolloutField, ...] = (
    RolloutField("observation", _TICKS, "observation", is_recorded=True),
    RolloutField("action", _TICKS, "action", is_recorded=True),
    RolloutField("log_prob", _TICKS, _FLOAT, is_recorded=True),
    RolloutField("value", _TICKS, _FLOAT, is_recorded=True, is_reward=True),
    RolloutField("reward", _TICKS, _FLOAT, is_recorded=True, is_reward=True),
    RolloutField("terminated", _TICKS, _BOOL, is_recorded=True),
    RolloutField("truncated", _TICKS, _BOOL, is_recorded=True),
    RolloutField("active", _TICKS, _BOOL, is_recorded=True),
    RolloutField("final_value", _TICKS, _FLOAT, is_reward=True),
    RolloutField("last_value", ("slots",), _FLOAT, is_reward=True),
    RolloutField("memory", ("slots",), "memory"),  # only where the policy has some
    RolloutField("own", _TICKS, "own", travels=False),  # only where a policy sees some, and made by the learner
    RolloutField("policy_version", ("slots",), np.dtype(np.int64), travels=False),
    RolloutField("world_episode", ("ticks", "worlds"), np.dtype(np.uint32), is_learnt_from=False),
    RolloutField("delay", ("slots",), np.dtype(np.uint32), is_learnt_from=False, is_optional=True),
)
_BY_NAME = {field.name: field for field in FIELDS}
LEARNT_FROM = tuple(field.name for field in FIELDS if field.is_learnt_from)
RECORDED = tuple(field.name for field in FIELDS if field.is_recorded)
#: Observations of more numbers, such as images, are in no recording: it would hold little else.
MOST_RECORDED = 1024
TRAVELLING = tuple(field for field in FIELDS if field.travels)


class Rollout(Generic[A]):
    """T ticks of B slots, W worlds of A agents each.

    Rows of slots whose agent was dead (`active` false) end no episode and are never learnt from, whatever else they
    hold. `metrics` hold, where an episode ended, what it came to by the environment's names, int32 (T, B). `state` has
    an entry a tick: the first world before it as JSON, "" where that is not recorded.
    """

    observation: A  # (T, B, ...), of the observation space
    action: A  # (T, B, ...), of the action space
    log_prob: A  # (T, B) float32, nats: of the action, when it was chosen
    value: A  # (T, B) float32: predicted return, 0 without a value head
    reward: A  # (T, B) float32
    terminated: A  # (T, B) bool
    truncated: A  # (T, B) bool, never where terminated
    active: A  # (T, B) bool
    final_value: A  # (T, B) float32: where truncated, the value of the last observation; 0 elsewhere
    last_value: A  # (B,) float32: the value of the observation after the last tick
    memory: A  # (B, S) float32: what each slot remembered before the first tick; missing without memory
    own: A  # (T, B, K) float32: what the policy saw of its own past; missing where it sees none, or before it is learnt
    policy_version: A  # (B,) int64: of the policy that played
    world_episode: A  # (T, W) uint32: the number of each world's episode
    delay: A  # (B,) uint32: how many ticks before row 0 the move in it was made; missing where agents never wait

    def __init__(
        self, arrays: Mapping[str, A], metrics: Mapping[str, A] | None = None, state: Iterable[str] = ()
    ) -> None:
        """Take arrays by the names of `FIELDS`; raises ValueError for other names."""
        if unknown := arrays.keys() - _BY_NAME.keys():
            raise ValueError(f"a rollout has no {', '.join(sorted(unknown))}")
        vars(self).update(arrays)
        self.metrics = dict(metrics or {})
        self.state = list(state)

    @property
    def arrays(self) -> dict[str, A]:
        """Return those arrays of `FIELDS` that there are, by name and in that order."""
        return {name: vars(self)[name] for name in _BY_NAME if name in vars(self)}

    @property
    def ticks(self) -> int:
        """Return T."""
        return int(self.action.shape[0])  # type: ignore[attr-defined]

    @property
    def slots(self) -> int:
        """Return B."""
        return int(self.action.shape[1])  # type: ignore[attr-defined]

    def replace(self, **arrays: A) -> Self:
        """Return a rollout with some other arrays, which shares the rest."""
        return type(self)({**self.arrays, **arrays}, self.metrics, self.state)

    def first(self, ticks: int) -> Self:
        """Return the first ticks, in the same memory."""
        if ticks == self.ticks:
            return self
        return self._each(lambda field, array: array[:ticks] if field.axes[0] == "ticks" else array, self.state[:ticks])

    def of_slots(self, first: int, last: int) -> Self:
        """Return the arrays of some neighbouring slots, `last` left out, in the same memory."""
        arrays = {}
        for name, array in self.arrays.items():
            if "slots" in _BY_NAME[name].axes:
                at = (slice(None),) * _BY_NAME[name].axes.index("slots")
                arrays[name] = array[(*at, slice(first, last))]  # type: ignore[index]
        return type(self)(arrays)

    def _each(self, change: Callable[[RolloutField, Any], Any], state: Iterable[str]) -> Self:
        arrays = {name: change(_BY_NAME[name], array) for name, array in self.arrays.items()}
        metrics = {name: change(_BY_NAME["reward"], array) for name, array in self.metrics.items()}
        return type(self)(arrays, metrics, state)


#: A rollout as it is filled, sent and written down.
Played = Rollout[NDArray[Any]]


def allocate(
    observation: ObservationSpace,
    action: ActionSpace,
    ticks: int,
    worlds: int,
    agents: int = 1,
    metrics: Iterable[str] = (),
    memory_size: int = 0,
    *,
    agents_wait: bool = False,
) -> Played:
    """Return a rollout of zeros, with room for so many ticks of so many worlds."""
    lengths: dict[Axis, int] = {"ticks": ticks, "slots": worlds * agents, "worlds": worlds}
    spaces: dict[str, Space] = {"observation": observation, "action": action}
    arrays: dict[str, NDArray[Any]] = {}
    for field in FIELDS:
        axes = [lengths[axis] for axis in field.axes]
        if field.dtype == "own" or (field.is_optional and not agents_wait):
            continue
        if field.dtype == "memory":
            if memory_size:
                arrays[field.name] = np.zeros((*axes, memory_size), np.float32)
        elif isinstance(field.dtype, str):
            arrays[field.name] = spaces[field.dtype].zeros(*axes)
        else:
            arrays[field.name] = np.zeros(axes, field.dtype)
    own = {name: np.zeros((ticks, worlds * agents), np.int32) for name in metrics}
    return Rollout(arrays, own, [""] * ticks)


def find_absurd(reward: NDArray[np.float32], most: float | None) -> tuple[int, ...] | None:
    """Return the index of the first reward beyond `most` or its negative; None where none is, or all are allowed."""
    if most is None or not reward.size or max(reward.max(), -reward.min()) <= most:
        return None
    return tuple(np.argwhere(np.abs(reward) > most)[0].tolist())


def join(parts: Sequence[Played]) -> Played:
    """Return rollouts side by side, in their order; shorter ones end in inactive rows. One alone stays as it is."""
    if len(parts) == 1:
        return parts[0]
    ticks = max(part.ticks for part in parts)

    def joined(field: RolloutField, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if field.axes[0] == "ticks":
            arrays = [_padded(array, ticks) for array in arrays]
        return np.concatenate(arrays, axis=len(field.axes) - 1)

    first = parts[0]
    arrays = {name: joined(_BY_NAME[name], [part.arrays[name] for part in parts]) for name in first.arrays}
    metrics = {name: joined(_BY_NAME["reward"], [part.metrics[name] for part in parts]) for name in first.metrics}
    return Rollout(arrays, metrics, [*first.state, *[""] * (ticks - len(first.state))])


def as_tensors(rollout: Played) -> Rollout[torch.Tensor]:
    """Return what is learnt from as tensors, which share the memory of arrays that can be written to."""
    import torch

    arrays = rollout.arrays
    return Rollout({name: torch.from_numpy(_writable(arrays[name])) for name in LEARNT_FROM if name in arrays})


def to_device(rollout: Rollout[torch.Tensor], place: torch.device) -> Rollout[torch.Tensor]:
    """Return a rollout in a device's memory; the same tensors where they are there already."""
    return Rollout({name: tensor.to(place) for name, tensor in rollout.arrays.items()})


def scaled(rollout: Rollout[torch.Tensor], factor: float) -> Rollout[torch.Tensor]:
    """Return a rollout as it would be with rewards, and the values predicted of them, times a factor."""
    arrays = {field.name: getattr(rollout, field.name) * factor for field in FIELDS if field.is_reward}
    return rollout.replace(**arrays)


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that PyTorch takes: arrays over the bytes of a message cannot be written to."""
    return array if array.flags.writeable else array.copy()


def _padded(array: NDArray[Any], ticks: int) -> NDArray[Any]:
    """Return an array with rows of zeros after its own: nobody was active in them, and nothing ended."""
    if len(array) == ticks:
        return array
    return np.concatenate([array, np.zeros((ticks - len(array), *array.shape[1:]), array.dtype)])
