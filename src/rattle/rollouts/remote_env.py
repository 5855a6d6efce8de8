"""Environments that a server at `env.url` plays, in place of this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rattle.analytics.extras import require
from rattle.clients.errors import ConnectionBroken
from rattle.envs.vector import EnvironmentSpec, VectorWorlds
from rattle.errors import RattleError
from rattle.samples.spaces import read_observation_space
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import EnvironmentSection, ExperimentSettings
from rattle.settings.sources import validated_experiment

if TYPE_CHECKING:
    from rattle.clients.remote_worlds import Patience
    from rattle.wire.vector import ServerSpec

#: What servers have said of themselves, by URL: a process asks each once, unless what it said proves to be out of date.
_known: dict[str, ServerSpec] = {}


def with_served_environment(settings: ExperimentSettings) -> tuple[ExperimentSettings, str]:
    """Return the settings with what the server at `env.url` serves filled in, and what kind of observations it has.

    Raises SettingsError when it serves another environment than the experiment asks for, or cannot be told the
    environment's settings, and ClientError when it cannot be reached.
    """
    env, server = settings.env, _ask_anew(settings.env)
    _options(env, server)
    return with_environment(settings, server.environment, server.settings), _kind(server)


def with_environment(settings: ExperimentSettings, name: str, served: Mapping[str, Any]) -> ExperimentSettings:
    """Return the settings with the environment that a server plays, and with the settings that the server has."""
    env = settings.env
    of_experiments = EnvironmentSection.model_fields.keys() - {"wrappers"}
    served = {key: value for key, value in served.items() if key not in of_experiments}
    section = {"id": name, **env.model_dump(exclude_unset=True), **served, **env.own_settings}
    return validated_experiment({**settings.model_dump(exclude_unset=True), "env": section}, "settings")


def served_kind(env: EnvironmentSection) -> str:
    """Return the kind of observations of the server at `env.url`; raises as `with_served_environment` does."""
    return _kind(_ask_anew(env))


def _kind(server: ServerSpec) -> str:
    try:
        return read_observation_space(server.observation_space).learnt_by
    except ValueError:
        return ""  # who makes worlds says what is wrong


def open_remote_worlds(
    env: EnvironmentSection,
    worlds: int,
    seed: int,
    first_world: int,
    stop: threading.Event | None = None,
    owner: tuple[str, str] | None = None,
) -> VectorWorlds:
    """Make a session of worlds in the server at `env.url`; raises as `with_served_environment` does.

    Once `stop` is set a server that is down is no longer waited for.
    """
    url, known = str(env.url), _remembered(env)
    server = known or _ask_anew(env, stop)
    try:
        made = _open(env, server, worlds, seed, first_world, stop, owner)
    except RattleError as error:
        _known.pop(url, None)
        if known is None or isinstance(error, ConnectionBroken):
            raise
    else:
        if known is None or made.spec.settings == {**server.settings, **_options(env, server)}:
            return made
        made.close()
        del _known[url]
    # The server was replaced since it was asked: its answer of then is no ground to refuse, or to play, anything.
    return _open(env, _ask_anew(env, stop), worlds, seed, first_world, stop, owner)


def described_environment(env: EnvironmentSection) -> EnvironmentSpec | None:
    """Return what the server at `env.url` says that it plays; None where it is to play with other settings.

    Raises as `with_served_environment` does.
    """
    from rattle.clients.answers import read_spec

    server = _remembered(env) or _ask_anew(env)
    return None if _options(env, server) else read_spec(server)


def _open(
    env: EnvironmentSection,
    server: ServerSpec,
    worlds: int,
    seed: int,
    first_world: int,
    stop: threading.Event | None,
    owner: tuple[str, str] | None,
) -> VectorWorlds:
    from rattle.clients.remote_worlds import RemoteWorlds

    options, patience = _options(env, server), _patience(env, stop)
    return RemoteWorlds(str(env.url), worlds, seed, first_world, options, patience=patience, owner=owner, server=server)


def _options(env: EnvironmentSection, server: ServerSpec) -> dict[str, Any]:
    """Return what the server must be told to play with the experiment's settings."""
    changes = {key: value for key, value in env.own_settings.items() if server.settings.get(key, ...) != value}
    if changes and "options" not in server.features:
        names = ", ".join(f"env.{key}" for key in changes)
        raise SettingsError(f"{env.url} plays with settings of its own and cannot be told {names}: leave them out")
    return changes


def _remembered(env: EnvironmentSection) -> ServerSpec | None:
    """Return what the server at `env.url` has said of itself before, if it was the environment that is wanted."""
    known = _known.get(str(env.url))
    return known if known is not None and _is_wanted(env, known) else None


def _is_wanted(env: EnvironmentSection, server: ServerSpec) -> bool:
    return "id" not in env.model_fields_set or env.id == server.environment


def _ask_anew(env: EnvironmentSection, stop: threading.Event | None = None) -> ServerSpec:
    for module in ("tenacity", "websockets"):
        require(module, "clients", "env.url")
    from rattle.clients.remote_worlds import ask_spec

    server = ask_spec(str(env.url), _patience(env, stop))
    if not _is_wanted(env, server):
        raise SettingsError(f"env.id is '{env.id}', but {env.url} serves '{server.environment}': leave env.id out")
    _known[str(env.url)] = server
    return server


def _patience(env: EnvironmentSection, stop: threading.Event | None) -> Patience:
    from rattle.clients.remote_worlds import Patience

    return Patience(answer_seconds=env.answer_seconds, retry_seconds=env.wait_seconds, stop=stop)
