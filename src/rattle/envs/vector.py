"""The vector protocol: everything that steps is a batch of worlds on preallocated arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.samples.rollout import MOST_RECORDED
from rattle.samples.spaces import ActionSpace, ObservationSpace

#: Whether a Gymnasium environment is stepped as one batch by the vector environment that it is registered with.
Vector = Literal["never", "auto", "always"]


@dataclass(frozen=True)
class ForeignBatch:
    """Worlds that code of others steps in one call: they cannot be stored, and may rest for a step after an end."""

    stepped_by: str  # the name of its class
    any_width: bool  # a world of a seed plays the same games in any batch


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an environment is, without the number of its worlds."""

    id: str
    settings: Mapping[str, Any]
    observation_space: ObservationSpace
    action_space: ActionSpace
    agents_per_world: int
    #: Numbers that an agent's episode ends with in addition to return and length, such as "food".
    metrics: tuple[str, ...] = ()
    #: Whether agents may wait: be inactive before their first move of an episode, or between two moves.
    agents_wait: bool = False
    #: Who steps all worlds in one call, if others do.
    batch: ForeignBatch | None = None


@runtime_checkable
class VectorWorlds(Protocol):
    """W worlds of A agents, B = W * A slots, stepped together.

    The arrays are allocated once and overwritten by every `reset` and `step`; slot w * A + a is agent a of world w.
    A world that ends starts its next episode in the same step: `observation` then shows the new episode. An agent that
    ends while its world continues stays in the batch with `active` false until the world's next episode; its rows are
    zero and its actions are ignored. In either case `final_observation` holds what the slot saw last in the episode
    that ended, copied before anything starts again. The dead of Snake see nothing, that is zeros.

    Where `spec.agents_wait`, an agent may be inactive too while it waits for its turn, or has not joined yet: its rows
    are zero and its actions are ignored, but it may earn rewards and end. Rewards then count for its last move.

    Where an environment of others begins episodes only in the step after an end, a world that ended rests in that step:
    none of its agents is active, and its `episode` rises when the next one begins.
    """

    spec: EnvironmentSpec
    num_worlds: int
    num_slots: int

    observation: NDArray[Any]  # (B, ...): what each slot sees now
    reward: NDArray[np.float32]  # (B,)
    terminated: NDArray[np.bool_]  # (B,): the slot's episode ended by the rules in this step
    truncated: NDArray[np.bool_]  # (B,): the slot's episode was cut in this step
    active: NDArray[np.bool_]  # (B,): the slot's agent is alive and will act on `observation`
    final_observation: NDArray[Any]  # (B, ...): valid where terminated or truncated
    final_metrics: Mapping[str, NDArray[np.int32]]  # name -> (B,): valid where terminated or truncated
    episode: NDArray[np.uint32]  # (W,): the number of each world's episode in progress

    @property
    def metrics(self) -> Mapping[str, NDArray[np.int32]]:
        """Name -> (B,): so far in the episode in progress, of the dead too."""

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed."""

    def step(self, action: NDArray[Any]) -> None:
        """Advance every world one tick with actions (B, ...) of the action space, as `check_actions` has them."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that decides what follows."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken; raises EnvError when it does not fit."""

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return one world as it stands, in plain values that a replay can draw."""

    def close(self) -> None:
        """Free what the worlds hold; they cannot be used afterwards."""


@runtime_checkable
class AsyncVectorWorlds(Protocol):
    """Worlds that are stepped elsewhere: a step may be begun, and its outcome fetched later; `step` does both."""

    def step_async(self, action: NDArray[Any]) -> None:
        """Set out with actions (B, ...); the arrays stay as they are until `step_wait`."""

    def step_wait(self) -> None:
        """Wait for the result of the last `step_async`."""


def observed(rows: NDArray[Any]) -> dict[str, Any]:
    """Return what the agents of one world observe (agents, ...) as a snapshot has it: nothing where that is large."""
    if rows[0].size > MOST_RECORDED:
        return {}
    return {"observation": (rows[0] if len(rows) == 1 else rows).tolist()}


def random_actions(worlds: VectorWorlds, generator: np.random.Generator) -> NDArray[Any]:
    """Return random actions (B, ...) for what worlds show now, of those that their masks allow."""
    space = worlds.spec.action_space
    drawn = space.draw(generator, worlds.num_slots)
    return worlds.spec.observation_space.allow(worlds.observation, drawn, space.choices)


def check_actions(action: NDArray[Any], num_slots: int, space: ActionSpace) -> None:
    """Raise EnvError unless `action` holds a row of the space for each slot; whole numbers in any integer type.

    Real numbers may lie beyond the bounds of the space: worlds take the bounds for them.
    """
    whole, shape = space.dtype.kind == "i", (num_slots, *space.shape)
    is_array = isinstance(action, np.ndarray) and action.shape == shape
    if not is_array or not (action.dtype.kind in "iu" if whole else action.dtype == space.dtype):
        wanted = "an integer" if whole else f"a {space.dtype}"
        raise EnvError(f"action must be {wanted} array of shape {shape}, got {_describe(action)}")
    if (place := space.find_wrong(action)) is not None:
        raise EnvError(f"action must hold {space.values}, and {list(place)} is {action[place]}")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
