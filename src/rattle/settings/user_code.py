"""The classes of users that an experiment is made with, and whether their code is what the run began with."""

from __future__ import annotations

from typing import Any

from rattle.envs.errors import EnvError, UnknownEnvironment
from rattle.envs.registry import face_of
from rattle.envs.user_worlds import find_class
from rattle.envs.validation import settings_of
from rattle.envs.wrappers import KEY, extensions
from rattle.errors import RattleError
from rattle.extensions import NETWORK, Extension, ExtensionError, is_not_needed
from rattle.learning.metrics import COLUMNS, check_metrics
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import CodeSection, ExperimentSettings, HookSection
from rattle.settings.hook import Hook
from rattle.settings.policy import UserNetworkSection
from rattle.text import nearest


def used_code(settings: ExperimentSettings, *, plays: bool = True) -> list[Extension[Any]]:
    """Return the classes of users that settings name; one that is not here is left out if nobody `plays` it here."""
    environment = _environment(settings, plays=plays) if settings.env.url is None else None
    network, policy = None, settings.policy
    if isinstance(policy, UserNetworkSection) and not is_not_needed(policy.network, NETWORK):
        network = policy.extension
    used: list[Extension[Any] | None] = [
        environment,
        *(_wrappers(settings, plays=plays) if settings.env.wrappers and settings.env.url is None else ()),
        network,
        settings.algorithm.extension,
        *(hook.extension for hook in settings.hooks if not hook.is_built_in),
    ]
    return [extension for extension in used if extension is not None]


def _environment(settings: ExperimentSettings, *, plays: bool) -> Extension[Any] | None:
    try:
        return find_class(settings.env.id)
    except UnknownEnvironment as error:
        if plays or not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        return None


def _wrappers(settings: ExperimentSettings, *, plays: bool) -> list[Extension[Any]]:
    env = settings.env
    try:
        face = face_of(env.id)
        return [] if face is None else extensions(env.own_settings[KEY], face, env.id)
    except EnvError as error:
        if plays or not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        return []


def with_hooks(settings: ExperimentSettings) -> ExperimentSettings:
    """Return settings with all of the hooks' own; raises a RattleError that names the hook."""
    taken = [*COLUMNS, *(metric.name for metric in settings.algorithm.metrics)]
    full = []
    for number, hook in enumerate(settings.hooks):
        try:
            extension = hook.extension
            _check_methods(extension)
            check_metrics(extension, taken)
            own = settings_of(extension, hook.own_settings, beside=("use",))
        except RattleError as error:
            raise SettingsError(f"hooks[{number}]: {error}") from error
        taken += [metric.name for metric in extension.cls.metrics]
        full.append(HookSection.model_validate({"use": hook.use, **own.model_dump(mode="json")}))
    return settings.model_copy(update={"hooks": tuple(full)})


def _check_methods(extension: Extension[Hook]) -> None:
    """Raise ExtensionError for a hook with a method that nobody calls, and whose name is nearly that of one."""
    known = [name for name in vars(Hook) if name.startswith("on_")]
    for name in dir(extension.cls):
        if name.startswith("on_") and name not in known and (hint := nearest(name, known)):
            raise ExtensionError(f"{extension.path}: nobody calls the method {name}{hint}")


def with_code(settings: ExperimentSettings, *, plays: bool = True) -> ExperimentSettings:
    """Return settings whose section `code` says of all classes of users what they are.

    `plays`: see `used_code`. Raises SettingsError where it says already that one of them was another.
    """
    before = {section.name: section for section in settings.code}
    found = []
    for used in used_code(settings, plays=plays):
        one = CodeSection(name=used.path, sha256=used.sha256, version=used.version)
        said = before.get(used.path, one)
        if said.sha256 != one.sha256:
            raise SettingsError(
                f"the code of '{used.path}' has changed since the run began (sha256 {said.sha256[:12]}…, now "
                f"{one.sha256[:12]}…): put it back, or resume with --allow-changed-code; a new run needs --set code=[]"
            )
        found.append(one)
    return settings.model_copy(update={"code": tuple(dict.fromkeys(found))})
