"""Environments that a server at `env.url` plays, in place of this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from rattle.analytics.extras import require
from rattle.envs.vector import VectorWorlds
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import EnvironmentSection, ExperimentSettings
from rattle.settings.sources import validated_experiment

if TYPE_CHECKING:
    from rattle.clients.remote_worlds import Patience
    from rattle.wire.vector import ServerSpec


def with_served_environment(settings: ExperimentSettings) -> tuple[ExperimentSettings, str]:
    """Return the settings with what the server at `env.url` serves filled in, and what kind of observations it has.

    Raises SettingsError when it serves another environment than the experiment asks for, or cannot be told the
    environment's settings, and ClientError when it cannot be reached.
    """
    env, server = settings.env, _ask(settings.env)
    _options(env, server)
    served = {key: value for key, value in server.settings.items() if key not in EnvironmentSection.model_fields}
    section = {**env.model_dump(exclude_unset=True), "id": server.environment, **served, **env.own_settings}
    given = {**settings.model_dump(exclude_unset=True), "env": section}
    return validated_experiment(given, "settings"), _kind(server)


def served_kind(env: EnvironmentSection) -> str:
    """Return the kind of observations of the server at `env.url`; raises as `with_served_environment` does."""
    return _kind(_ask(env))


def _kind(server: ServerSpec) -> str:
    return str(server.observation_space.get("kind"))  # of any description: who makes worlds judges it


def open_remote_worlds(
    env: EnvironmentSection,
    worlds: int,
    seed: int,
    first_world: int,
    stop: threading.Event | None = None,
    owner: tuple[str, str] | None = None,
) -> VectorWorlds:
    """Make a session of worlds in the server at `env.url`; raises as `with_served_environment` does.

    Once `stop` is set a server that is away is no longer waited for.
    """
    from rattle.clients.remote_worlds import RemoteWorlds

    options = _options(env, _ask(env, stop))
    return RemoteWorlds(str(env.url), worlds, seed, first_world, options, patience=_patience(env, stop), owner=owner)


def _options(env: EnvironmentSection, server: ServerSpec) -> dict[str, Any]:
    """Return what the server must be told to play with the experiment's settings."""
    changes = {key: value for key, value in env.own_settings.items() if server.settings.get(key, ...) != value}
    if changes and "options" not in server.features:
        names = ", ".join(f"env.{key}" for key in changes)
        raise SettingsError(f"{env.url} plays with settings of its own and cannot be told {names}: leave them out")
    return changes


def _ask(env: EnvironmentSection, stop: threading.Event | None = None) -> ServerSpec:
    for module in ("tenacity", "websockets"):
        require(module, "clients", "env.url")
    from rattle.clients.remote_worlds import ask_spec

    server = ask_spec(str(env.url), _patience(env, stop))
    if "id" in env.model_fields_set and env.id != server.environment:
        raise SettingsError(f"env.id is '{env.id}', but {env.url} serves '{server.environment}': leave env.id out")
    return server


def _patience(env: EnvironmentSection, stop: threading.Event | None) -> Patience:
    from rattle.clients.remote_worlds import Patience

    return Patience(retry_seconds=env.wait_seconds, stop=stop)
