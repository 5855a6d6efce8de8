"""Rollouts from messages: every field is held to environment and algorithm before anything is learnt from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.envs.vector import EnvironmentSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import TRAVELLING, Played, Rollout, RolloutField, find_absurd
from rattle.samples.spaces import ActionSpace, ObservationSpace, Space
from rattle.services.training.rollout_batcher import Origin
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import from_message
from rattle.settings.experiment import ExperimentSettings
from rattle.wire.problems import RequestError

#: By the agent API, episodes of algorithms that say nothing of their length may have so many ticks.
MOST_TICKS = 4096
_LONGEST_NAME = 200
_MOST_VERSION = 2**63 - 1

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class RolloutSpec:
    """What a rollout must look like for an algorithm to learn a policy from it."""

    observation: ObservationSpace
    action: ActionSpace
    most_ticks: int
    memory_size: int  # numbers that a slot remembers
    complete_episodes: bool  # every slot plays one episode to its end, in up to `most_ticks`; else just so many
    max_reward: float | None  # rewards beyond it, or its negative, are refused

    @classmethod
    def of(cls, settings: ExperimentSettings, spec: PolicySpec) -> RolloutSpec:
        """Return the form for an experiment's algorithm and a policy that observes and acts so."""
        algorithm, by_agents = settings.algorithm, settings.inference.api == "agent"
        complete = by_agents or algorithm.complete_episodes
        of_any_length = by_agents and not algorithm.complete_episodes
        most_ticks = MOST_TICKS if of_any_length else algorithm.rollout_ticks
        return cls(spec.observation, spec.action, most_ticks, spec.memory_size, complete, settings.train.max_reward)


@dataclass(frozen=True)
class RunRolloutSpec:
    """What a rollout must look like in addition, to be one of a run's."""

    form: RolloutSpec
    worlds: int  # of the whole run
    agents: int  # of a world
    metrics: frozenset[str]
    one_world: bool  # a rollout is of one world, as by the agent API
    agents_wait: bool  # for their turn

    @classmethod
    def of(cls, settings: ExperimentSettings, environment: EnvironmentSpec, spec: PolicySpec) -> RunRolloutSpec:
        """Return the form for an experiment in an environment; by the agent API, a world is a snake."""
        form = RolloutSpec.of(settings, spec)
        metrics = frozenset(environment.metrics)
        if settings.inference.api == "agent":
            return cls(form, settings.inference.snakes, 1, metrics, one_world=True, agents_wait=False)
        waits, agents = environment.agents_wait, environment.agents_per_world
        return cls(form, settings.env.worlds, agents, metrics, one_world=False, agents_wait=waits)


@dataclass(frozen=True)
class Contribution:
    """A rollout of some of a run's worlds, as it arrived: its arrays lie over the bytes of the message."""

    origin: Origin
    rollout: Played


def read_contribution(message: training_pb2.Rollout, run: RunRolloutSpec) -> Contribution:
    """Return a rollout that fits a run; raises RequestError naming the field that does not."""
    arrays = read_learnable(message, run.form)
    ticks, slots = arrays["action"].shape[:2]
    if slots % run.agents or (run.one_world and slots != 1):
        wanted = "1 slot" if run.one_world else f"{run.agents} slots for each world"
        raise _wrong("observation", f"must hold {wanted}, got {slots}")
    worlds = slots // run.agents
    if message.first_world + worlds > run.worlds:
        raise _wrong("first_world", f"must be one of the run's {run.worlds} worlds, from which {worlds} follow")
    if (arrays["reward"][~arrays["active"]] != 0).any():
        raise _wrong("reward", "must be 0 where no agent was active")
    lengths = {"ticks": ticks, "slots": slots, "worlds": worlds}
    for field in (field for field in TRAVELLING if field.name not in arrays and _is_there(field, run.form)):
        if not field.is_optional or (run.agents_wait and message.HasField("delay")):
            arrays[field.name] = _read(message, field, run.form, lengths)
        elif run.agents_wait:
            arrays[field.name] = np.zeros(slots, np.uint32)
    if (arrays["world_episode"][1:] < arrays["world_episode"][:-1]).any():
        raise _wrong("world_episode", "must not fall from one tick to the next")
    rollout = Rollout(arrays, _metrics(message, run, ticks, slots), _states(message, ticks))
    return Contribution(_origin(message, worlds), rollout)


def read_learnable(message: training_pb2.Rollout, form: RolloutSpec) -> Arrays:
    """Return what is learnt from, by the names of the fields; raises RequestError naming the field that is wrong."""
    lengths: dict[str, int | None] = {"ticks": None, "slots": None}
    arrays: Arrays = {}
    for field in (field for field in TRAVELLING if field.is_learnt_from and _is_there(field, form)):
        array = arrays[field.name] = _read(message, field, form, lengths)
        if lengths["ticks"] is None:
            _check_lengths(array.shape[0], array.shape[1], form)
            lengths = {"ticks": array.shape[0], "slots": array.shape[1]}
    arrays["policy_version"] = np.full(lengths["slots"] or 0, min(message.policy_version, _MOST_VERSION), np.int64)
    if (place := find_absurd(arrays["reward"], form.max_reward)) is not None:
        most = f"{form.max_reward:g}"
        got = f"{list(place)} is {arrays['reward'][place]:g}"
        raise _wrong("reward", f"must lie between -{most} and {most} (train.max_reward), and {got}")
    _check_ends(arrays)
    if form.complete_episodes:
        _check_complete(arrays)
    if not arrays["active"].any():
        raise _wrong("active", "must be true somewhere: there is nothing to learn from")
    return arrays


def _read(
    message: training_pb2.Rollout, field: RolloutField, form: RolloutSpec, lengths: Mapping[str, int | None]
) -> NDArray[Any]:
    """Return one array of a rollout with the dtype that it has here, and values of its space."""
    tensor, axes = getattr(message, field.name), [lengths[axis] for axis in field.axes]
    if field.dtype == "memory":
        array = from_message(tensor, field.name, np.float32, (*axes, form.memory_size))
    elif isinstance(field.dtype, str):
        space: Space = form.observation if field.dtype == "observation" else form.action
        array = from_message(tensor, field.name, space.wire_dtype, (*axes, *space.shape))
        if (place := space.find_wrong(array)) is not None:
            raise _wrong(field.name, f"must hold {space.values}, and {list(place)} is {array[place]}")
        return array.astype(space.dtype, copy=False)
    else:
        array = from_message(tensor, field.name, field.dtype, axes)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise _wrong(field.name, f"must hold finite numbers, and {list(place)} is {array[place]}")
    return array


def _is_there(field: RolloutField, form: RolloutSpec) -> bool:
    return field.dtype != "memory" or form.memory_size > 0


def _check_lengths(ticks: int, slots: int, form: RolloutSpec) -> None:
    if not ticks or not slots:
        raise _wrong("observation", f"must hold at least one tick and slot, got {ticks} and {slots}")
    if ticks > form.most_ticks or (ticks < form.most_ticks and not form.complete_episodes):
        most = "at most " if form.complete_episodes else ""
        raise _wrong("observation", f"must hold {most}{form.most_ticks} ticks, got {ticks}")


def _check_ends(arrays: Arrays) -> None:
    terminated, truncated, active = (arrays[name] for name in ("terminated", "truncated", "active"))
    if (terminated & truncated).any():
        raise _wrong("truncated", "must be false where the episode was terminated")
    for name, ends in (("terminated", terminated), ("truncated", truncated)):
        if (ends & ~active).any():
            raise _wrong(name, "must be false where no agent was active")
    if (arrays["final_value"][~truncated] != 0).any():
        raise _wrong("final_value", "must be 0 where no episode was truncated")


def _check_complete(arrays: Arrays) -> None:
    """Hold slots to one episode each: active until it ends, which is by the last tick, and never again."""
    ended, active = arrays["terminated"] | arrays["truncated"], arrays["active"]
    if (active[1:] & np.logical_or.accumulate(ended[:-1], axis=0)).any():
        raise _wrong("active", "must be false after the end of a slot's first episode")
    if (active[-1] & ~ended[-1]).any():
        raise _wrong("truncated", "must be true after the last tick of an episode that is not over then")


def _metrics(message: training_pb2.Rollout, run: RunRolloutSpec, ticks: int, slots: int) -> Arrays:
    for name in message.metrics:
        if name not in run.metrics:
            known = ", ".join(sorted(run.metrics)) or "none"
            raise _wrong("metrics", f"{name[:_LONGEST_NAME]!r} is not one of the environment's: {known}")
    return {
        name: from_message(message.metrics[name], f"metrics.{name}", np.int32, (ticks, slots)) for name in run.metrics
    }


def _states(message: training_pb2.Rollout, ticks: int) -> list[str]:
    states = list(message.state)
    if len(states) not in (0, ticks):
        raise _wrong("state", f"must have one entry for each of {ticks} ticks or none at all, got {len(states)}")
    for state in states:
        try:
            if state and ("\n" in state or not isinstance(msgspec.json.decode(state), dict)):
                raise _wrong("state", "must hold JSON objects, in one line each")
        except msgspec.DecodeError as error:
            raise _wrong("state", f"must hold JSON objects: {error}") from None
    return states or [""] * ticks


def _origin(message: training_pb2.Rollout, worlds: int) -> Origin:
    for name in ("actor", "life", "lineage"):
        text = getattr(message, name)
        if not (1 <= len(text) <= _LONGEST_NAME and text.isprintable()):
            raise _wrong(name, f"must be a printable text of 1 to {_LONGEST_NAME} characters")
    if not 1 <= message.sequence < 2**63:
        raise _wrong("sequence", f"counts from 1, got {message.sequence}")
    return Origin(
        actor=message.actor,
        life=message.life,
        sequence=message.sequence,
        continues=message.continues,
        first_world=message.first_world,
        worlds=worlds,
        policy_version=message.policy_version,
        lineage=message.lineage,
    )


@contextmanager
def part_of(field: str) -> Iterator[None]:
    """Name the fields that the block complains of as parts of another."""
    try:
        yield
    except RequestError as error:
        if error.code == "bad_value" and error.field is None:
            raise _wrong(field, str(error)) from None
        if error.field is not None:
            raise RequestError(error.code, f"{field}.{error}", f"{field}.{error.field}") from None
        raise


def _wrong(field: str, what: str) -> RequestError:
    return RequestError("bad_value", f"{field}: {what}", field)
