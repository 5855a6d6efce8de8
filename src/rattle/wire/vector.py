"""The messages of the vector API; docs/env-api.md says what they mean."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rattle.envs.vector import EnvironmentSpec, ForeignBatch
from rattle.samples.spaces import read_action_space, read_observation_space
from rattle.text import one_line
from rattle.wire.arrays import Array

#: The versions of the protocol, from the first; `protocol_of` says which one an environment needs.
PROTOCOLS = ("rattle.vector/1", "rattle.vector/2")

StepNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=0)]  # below 2**64, which Meta cannot say

#: Who owns a session, and in which of its lives.
Name = Annotated[str, Meta(max_length=256)]

#: Worlds whose snapshots a step's answer shall hold too.
Shown = Annotated[list[int], Meta(max_length=16)]

#: How arrays arrive: as `Array` in MessagePack, as lists in JSON, which wait for who knows their space.
A = TypeVar("A", Array, msgspec.Raw)


class CheckedRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What may end in its checksum, in MessagePack."""

    crc32c: bytes | UnsetType = UNSET


class SessionRequest(CheckedRequest):
    """Make a session."""

    worlds: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    seed: Seed | None = None
    first_world: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    options: dict[str, Any] = {}
    owner: Name = ""
    life: Name = ""


class ResetRequest(CheckedRequest):
    """Start episodes again."""

    step: StepNumber
    seed: Seed | None = None


class StepRequest(CheckedRequest, Generic[A]):
    """Advance every world one tick."""

    step: StepNumber
    action: A
    snapshots: Shown = []


class SocketRequest(CheckedRequest, Generic[A]):
    """A message on a WebSocket: with `action` a step, without one a reset."""

    step: StepNumber
    action: A | UnsetType = UNSET
    seed: Seed | None = None
    snapshots: Shown = []


class RestoreRequest(CheckedRequest):
    """Continue where a state was taken."""

    step: StepNumber
    state: Annotated[dict[str, Array], Meta(max_length=1024)]


class EndedSlots(msgspec.Struct):
    """What the slots whose episode ended in a step came to."""

    slots: Array
    observation: Array
    metrics: dict[str, Array]


class ResetAnswer(msgspec.Struct):
    """What a reset answers."""

    step: int
    observation: Array
    active: Array
    episode: Array


class StepAnswer(msgspec.Struct):
    """What a step answers."""

    step: int
    observation: Array
    reward: Array
    terminated: Array
    truncated: Array
    active: Array
    episode: Array
    ended: EndedSlots
    snapshots: list[dict[str, Any]] = []


class BatchMessage(msgspec.Struct):
    """Worlds that code of others steps in one call."""

    stepped_by: str
    any_width: bool


class Environment(msgspec.Struct):
    """The environment of a server or a session."""

    environment: str
    settings: dict[str, Any]
    observation_space: dict[str, Any]
    agents_per_world: int
    metrics: list[str]
    num_actions: int | UnsetType = UNSET  # of discrete actions; others have an `action_space`
    action_space: dict[str, Any] | UnsetType = UNSET
    agents_wait: bool = False
    batch: BatchMessage | UnsetType = UNSET


class ServerLimits(msgspec.Struct):
    """What a server allows."""

    sessions: int
    worlds: int
    body_bytes: int
    session_seconds: float


class ServerSpec(Environment, kw_only=True):
    """What a server is."""

    protocol: str
    service: str
    version: str
    features: list[str]
    limits: ServerLimits


class SessionCreated(ResetAnswer, kw_only=True):
    """A session, and what its slots see first."""

    session: str
    seed: int
    first_world: int
    expires_seconds: float
    environment: str
    settings: dict[str, Any]
    observation_space: dict[str, Any]
    agents_per_world: int
    metrics: list[str]
    num_actions: int | UnsetType = UNSET
    action_space: dict[str, Any] | UnsetType = UNSET
    agents_wait: bool = False
    batch: BatchMessage | UnsetType = UNSET


def protocol_of(spec: EnvironmentSpec) -> str:
    """Return the first version of the protocol whose clients know an environment's spaces.

    What older clients know is served to them; the other servers refuse them in one line.
    """
    return PROTOCOLS[max(spec.observation_space.protocol, spec.action_space.protocol) - 1]


def describe(spec: EnvironmentSpec) -> dict[str, Any]:
    """Return an environment as it is in messages."""
    return {
        "environment": spec.id,
        "settings": dict(spec.settings),
        "observation_space": spec.observation_space.describe(),
        **spec.action_space.describe(),
        "agents_per_world": spec.agents_per_world,
        "metrics": list(spec.metrics),
        **({"agents_wait": True} if spec.agents_wait else {}),
        **({} if spec.batch is None else {"batch": asdict(spec.batch)}),
    }


def dump_environment(spec: EnvironmentSpec) -> str:
    """Return an environment as JSON in one line, with what `GET /v1/spec` says of it."""
    return json.dumps(describe(spec))


def load_environment(text: str | bytes) -> EnvironmentSpec:
    """Return what `dump_environment` has written; raises ValueError for what describes no environment."""
    try:
        return environment_spec(msgspec.convert(json.loads(text), Environment))
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error)) from None


def environment_spec(message: Environment | SessionCreated) -> EnvironmentSpec:
    """Return the environment that a message describes; raises ValueError for an invalid space."""
    space = message.observation_space
    try:
        observation_space = read_observation_space(space)
    except ValueError:
        raise ValueError(
            "observation_space is none of codes with cells and codes, floats with a size, array with sizes and an "
            f"element, and parts with a name and a space each: {one_line(space, 200)}"
        ) from None
    given = {"num_actions": message.num_actions, "action_space": message.action_space}
    described = {name: value for name, value in given.items() if value is not UNSET}
    if len(described) != 1:
        raise ValueError("actions are described by num_actions or by an action_space, one of the two")
    try:
        action_space = read_action_space(described)
    except ValueError:
        [(name, value)] = described.items()
        raise ValueError(
            f"{name} is neither a number of actions from 1 on, nor multi_discrete with sizes, nor a box with low and "
            f"high: {one_line(value, 200)}"
        ) from None
    if message.agents_per_world < 1:
        raise ValueError("agents_per_world must be at least 1")
    return EnvironmentSpec(
        id=message.environment,
        settings=message.settings,
        observation_space=observation_space,
        action_space=action_space,
        agents_per_world=message.agents_per_world,
        metrics=tuple(message.metrics),
        agents_wait=message.agents_wait,
        batch=None if message.batch is UNSET else ForeignBatch(message.batch.stepped_by, message.batch.any_width),
    )
