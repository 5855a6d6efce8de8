"""What actors say that they play, and whether that is what is learnt."""

from __future__ import annotations

from typing import Any

from rattle.envs.vector import EnvironmentSpec
from rattle.settings.experiment import EnvironmentSection
from rattle.text import one_line
from rattle.wire.problems import RequestError
from rattle.wire.vector import load_environment

_LONGEST_TEXT = 600


def read_introduction(described: str, wanted: EnvironmentSection) -> EnvironmentSpec:
    """Return what an actor plays; raises RequestError for what is none, or another than the settings ask for."""
    try:
        played = load_environment(described)
    except ValueError as error:
        raise RequestError("bad_value", f"environment: {one_line(error, _LONGEST_TEXT)}", "environment") from None
    if "id" in wanted.model_fields_set and wanted.id != played.id:
        raise _another(f"'{wanted.id}'", f"'{played.id}'")
    return played


def check_same(learnt: EnvironmentSpec, played: EnvironmentSpec) -> None:
    """Hold what an actor plays to what its rollouts will be held to; raises RequestError."""
    if _facts(learnt) != _facts(played):
        raise _another(_shown(learnt), _shown(played))


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
    return RequestError(
        "bad_value", f"environment: {learnt} is learnt here, and the actor plays {played}", "environment"
    )
