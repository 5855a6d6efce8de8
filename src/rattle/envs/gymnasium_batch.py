"""A batch behind the vector protocol as Gymnasium states it: spaces, actions and infos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from rattle.envs.vector import EnvironmentSpec
from rattle.samples.spaces import ActionSpace

Infos = dict[str, Any]


def spaces_of(spec: EnvironmentSpec) -> tuple[Space[NDArray[Any]], Space[Any]]:
    """Return new spaces of one agent, for observations and for actions."""
    return spec.observation_space.to_gymnasium(), spec.action_space.to_gymnasium()


def as_rows(actions: Any, space: ActionSpace) -> NDArray[Any]:
    """Return actions as an array, in the one dtype of their space where they are numbers of its kind."""
    array, kinds = np.asarray(actions), "iu" if space.dtype.kind == "i" else "fiu"
    with np.errstate(over="ignore"):  # what is too large is infinite, and refused as such
        return np.ascontiguousarray(array, space.dtype) if array.dtype.kind in kinds else array


class Slots(Protocol):
    """What infos are about: the arrays of a batch, as VectorWorlds has them."""

    @property
    def spec(self) -> EnvironmentSpec:
        """What the environment is."""

    num_slots: int
    observation: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    active: NDArray[np.bool_]
    final_observation: NDArray[Any]

    @property
    def final_metrics(self) -> Mapping[str, NDArray[np.int32]]:
        """Name -> (B,): valid where terminated or truncated."""


def activity_infos(slots: Slots, *, copy: bool) -> Infos:
    """Return which slots act on what they observe, in an array of its own if asked; nothing where all always do."""
    if slots.spec.agents_per_world == 1 and slots.spec.batch is None:
        return {}
    return {"active": slots.active.copy() if copy else slots.active, "_active": np.ones(slots.num_slots, np.bool_)}


def final_infos(slots: Slots) -> Infos:
    """Return what the slots that ended saw last and came to, laid out as SyncVectorEnv does in its SAME_STEP mode."""
    done = slots.terminated | slots.truncated
    ended = np.flatnonzero(done)
    if not ended.size:
        return {}
    infos: Infos = {"final_obs": _spread(ended, slots.final_observation[ended], slots.num_slots), "_final_obs": done}
    if slots.final_metrics:
        own: Infos = {}
        for name, values in slots.final_metrics.items():
            own[name] = np.where(done, values, 0).astype(np.int64)
            own[f"_{name}"] = done.copy()
        infos |= {"final_info": own, "_final_info": done.copy()}
    return infos


def _spread(slots: NDArray[np.int64], observations: NDArray[Any], num_slots: int) -> NDArray[np.object_]:
    """Return an array of objects (num_slots,) with an observation in each of `slots` and None elsewhere."""
    spread = np.full(num_slots, None, dtype=object)
    for slot, seen in zip(slots, observations, strict=True):
        spread[slot] = seen
    return spread
