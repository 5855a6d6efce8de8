"""Settings that an environment decides: what its server plays, and what follows from what its agents observe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from rattle.envs.vector import EnvironmentSpec
from rattle.rollouts.remote_env import served_kind, with_environment, with_served_environment
from rattle.rollouts.worlds import try_out
from rattle.settings.defaults import OBSERVED, SECTIONS, are_complete, completed, not_given, of_run
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.policy import PolicySection


def complete(
    settings: ExperimentSettings,
    run: ExperimentSettings | None = None,
    say: Callable[[str], object] | None = None,
    environment: EnvironmentSpec | None = None,
) -> ExperimentSettings:
    """Return the settings with which an experiment is trained: what was not given follows from its environment.

    Where a `run` continues, it follows from that run's settings. `say` is told in a line what was chosen, if it is not
    what docs/settings.md has as the defaults of all experiments. Where the `environment` is known, no world is made and
    no server asked. Raises a RattleError for an environment, or a server, that cannot be had, and SettingsError for
    settings that do not go together.
    """
    kind: str | None = None if environment is None else environment.observation_space.learnt_by
    if environment is not None:
        settings = with_environment(settings, environment.id, environment.settings)
    elif settings.env.url is not None:
        settings, kind = with_served_environment(settings)
    if run is not None:
        return completed(settings, of_run(settings, run))
    return _with_defaults(settings, kind or _kind_here(settings), say)


def complete_for_actors(settings: ExperimentSettings, url: str) -> ExperimentSettings:
    """Do the same for those who play an experiment at a server, and leave the settings of its environment alone."""
    is_known = settings.env.url is None or "id" in settings.env.model_fields_set  # else Training asks its server too
    if are_complete(settings) or (is_known and settings.env.id == "snake"):
        return _with_defaults(settings, "codes", None)
    return _with_defaults(settings, served_kind(settings.env.model_copy(update={"url": url})), None)


def _kind_here(settings: ExperimentSettings) -> str:
    """Return the kind of observations on this machine; a world is made where it is not known otherwise."""
    if are_complete(settings) or settings.env.id == "snake":
        return "codes"  # and if it is another, nothing is left that it decides
    environments, _ = try_out(settings, plays=False)
    return _kind_of_all([environment.observation_space.learnt_by for environment in environments.values()])


def _kind_of_all(kinds: Sequence[str]) -> str:
    """Return the kind of observations whose defaults suit all policies: encoders take what others do not."""
    return next((kind for kind in kinds if SECTIONS[kind]["policy"]["network"] == "encoders"), kinds[0])


def _with_defaults(settings: ExperimentSettings, kind: str, say: Callable[[str], object] | None) -> ExperimentSettings:
    if kind not in SECTIONS:
        return settings  # of no environment that can be played: who makes worlds is told
    defaults = not_given(settings, kind)
    chosen = completed(settings, defaults)
    if not isinstance(chosen.policy, PolicySection) and chosen.algorithm.scale_observations:
        raise SettingsError(
            f"algorithm.scale_observations is true, and the first layer of '{chosen.policy.network}' is not known: "
            "leave it out, and have the network scale what it observes"
        )
    if say is not None and kind != "codes" and defaults:
        pairs = (f"{name}.{key}={json.dumps(value)}" for name, part in defaults.items() for key, value in part.items())
        say(f"'{settings.env.id}' observes {OBSERVED[kind]}, so what is not set is {', '.join(pairs)}")
    return chosen
