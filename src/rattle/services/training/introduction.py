"""What actors say that they play, and whether that is what is learnt."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from typing import Any

from rattle.envs.vector import EnvironmentSpec
from rattle.policies.kinds import kind_of
from rattle.rollouts.complete import complete
from rattle.rollouts.worlds import policy_spec
from rattle.runs.first_policy import read_first_policy
from rattle.settings.experiment import EnvironmentSection, ExperimentSettings
from rattle.text import one_line
from rattle.trainer.build import build_learner
from rattle.wire.problems import RequestError
from rattle.wire.vector import load_environment

_LONGEST_TEXT = 600
#: Characters that describe an environment: bounds of an action's 4,096 numbers, and more than twice as much more.
_MOST_CHARACTERS = 2**18
_LONGEST_NAME = 200
_MOST_METRICS = 256
#: What a slot's tick takes in a rollout, in bytes, in addition to observation, action and metrics.
_BYTES_BESIDES = 32


def read_introduction(described: str, wanted: EnvironmentSection) -> EnvironmentSpec:
    """Return what an actor plays; raises RequestError for what is none, or another than the settings ask for."""
    if len(described) > _MOST_CHARACTERS:
        raise _wrong(f"is described by {len(described):,} characters, where {_MOST_CHARACTERS:,} may be")
    try:
        played = load_environment(described)
        json.dumps(played.settings, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise _wrong(error) from None
    if len(played.metrics) > _MOST_METRICS:
        raise _wrong(f"has {len(played.metrics):,} metrics, where {_MOST_METRICS} may be")
    for name in (played.id, *played.metrics):
        if not (name.isprintable() and 1 <= len(name) <= _LONGEST_NAME):
            raise _wrong(f"its id and its metrics must be printable texts of 1 to {_LONGEST_NAME} characters")
    if "id" in wanted.model_fields_set and wanted.id != played.id:
        raise _another(f"'{wanted.id}'", f"'{played.id}'")
    return played


def check_learnable(environment: EnvironmentSpec, given: ExperimentSettings) -> None:
    """Try to make what learns an environment that a stranger describes, and store nothing.

    Raises RequestError where rollouts, or the policy, would take more memory than there is, or the policy that the
    settings ask for cannot be made for these spaces.
    """
    try:
        settings = complete(given, environment=environment)
        _check_rollouts(environment, settings)
        spec = policy_spec(settings, environment)
        weights = sum(prod(shape) for shape in kind_of(spec).parameter_shapes(spec).values())
        _check_bytes("a policy of it", 4 * weights, settings.training.max_message_bytes)
        if settings.policy.weights is not None:
            read_first_policy(Path(settings.policy.weights), spec)
        build_learner(settings, spec).close()
    except RequestError:
        raise
    except Exception as error:  # code of users may be anything, and takes the spaces that a stranger gives
        raise _wrong(f"'{environment.id}' cannot be learnt with the settings of this run: {error}") from error


def _check_rollouts(environment: EnvironmentSpec, settings: ExperimentSettings) -> None:
    observation, action = environment.observation_space, environment.action_space
    rows = sum(prod(space.shape) * space.wire_dtype.itemsize for space in (observation, action))
    slot = rows + 4 * len(environment.metrics) + _BYTES_BESIDES
    world = settings.algorithm.rollout_ticks * environment.agents_per_world * slot
    most = settings.training.max_message_bytes
    _check_bytes("a rollout of one world", world, most)
    _check_bytes("what a policy of it takes in and gives", 4 * (observation.inputs + action.outputs), most)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _check_bytes("a rollout of all worlds", settings.env.worlds * world, memory)


def _check_bytes(what: str, size: int, most: int) -> None:
    if size > most:
        raise _wrong(f"{what} would have {size:,} bytes, where {most:,} may be")


def check_same(learnt: EnvironmentSpec, played: EnvironmentSpec) -> None:
    """Hold what an actor plays to what its rollouts will be held to; raises RequestError."""
    if _facts(learnt) != _facts(played):
        raise _another(
            _shown(learnt), f"{_shown(played)}: if this is the one that is meant, begin the run in another --run-dir"
        )


def _facts(environment: EnvironmentSpec) -> dict[str, Any]:
    return {
        "observation_space": environment.observation_space,
        "action_space": environment.action_space,
        "agents_per_world": environment.agents_per_world,
        "metrics": sorted(environment.metrics),
    }


def _shown(environment: EnvironmentSpec) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in _facts(environment).items())
    return one_line(f"'{environment.id}' ({facts})", _LONGEST_TEXT)


def _another(learnt: str, played: str) -> RequestError:
    return _wrong(f"{learnt} is learnt here, and the actor plays {played}")


def _wrong(what: object) -> RequestError:
    return RequestError("bad_value", f"environment: {one_line(what, 3 * _LONGEST_TEXT)}", "environment")
