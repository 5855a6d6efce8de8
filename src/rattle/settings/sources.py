"""Where settings come from: a YAML file, then environment variables, then `--set`; the later wins.

`RATTLE_TRAIN__STEPS=1000` and `--set train.steps=1000` are `train: {steps: 1000}`; `settings_yaml` reads values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rattle.addresses import CREDENTIALS_VARIABLE, hide_credentials, parse_address
from rattle.analytics.run_directory import RunDirectory
from rattle.envs.registry import validate
from rattle.envs.validation import complaint
from rattle.errors import RattleError
from rattle.extensions import ExtensionError
from rattle.learning.algorithms import BUILT_IN
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import SHORT_FORMS, EnvironmentSection, ExperimentSettings
from rattle.settings.services import SecuritySection
from rattle.settings.user_code import with_code, with_hooks
from rattle.settings.yaml_values import Unclear, dump, read_document, read_value
from rattle.text import one_line
from rattle.tls import keep_tls
from rattle.tokens import keep_token, read_token

ENVIRONMENT_PREFIX = "RATTLE_"
#: The files of the section `security`, which may have moved when a run goes on.
SECURITY_FILES = ("token_file", "authority", "certificate", "private_key")


def load_settings(
    path: Path | None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    default: Mapping[str, Any] | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    plays: bool = True,
) -> ExperimentSettings:
    """Return the settings of an experiment, the environment's own filled in; raises SettingsError with one line.

    `path` None means the experiment `default`, or the one of all settings' defaults. `overrides` are "key=value";
    `environ` the process's variables, of which empty ones say nothing. `flags` are values by key that need no reading,
    such as a command's own options; None says nothing. `plays`: see `check_settings`.
    """
    values = read_yaml(path) if path else deepcopy(dict(default or {}))
    for name, text in (environ or {}).items():
        if name.startswith(ENVIRONMENT_PREFIX) and name != CREDENTIALS_VARIABLE and text.strip():
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _put(values, key, _parse(text, name))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise SettingsError(
                f"--set {hide_credentials(override)}: write a key, = and a value, such as --set env.width=20"
            )
        if not text.strip():
            raise SettingsError(f"--set {key}=: a value is missing: leave it out, or write {key}=null for nothing")
        _put(values, key, _parse(text, f"--set {key}"))
    for key, value in (flags or {}).items():
        if value is not None:
            _put(values, key, value)
    settings = _checked(values, path, plays=plays)
    keep_security(settings, environ or {})
    return settings


def _checked(values: Mapping[str, Any], path: Path | None, *, plays: bool) -> ExperimentSettings:
    """Return typed settings; what is wrong with a file is said of the file, and not what is given beside it."""
    source = "settings"
    try:
        return check_settings(values, source, plays=plays)
    except SettingsError as error:
        if path is None:
            raise
        problem = str(error).removeprefix(f"{source}: ")
    try:
        check_settings(read_yaml(path), str(path), plays=plays)
    except SettingsError as of_file:
        if str(of_file) == f"{path}: {problem}":
            source = str(path)
    raise SettingsError(f"{source}: {problem}")


def with_named_files(settings: ExperimentSettings, environ: Mapping[str, str]) -> ExperimentSettings:
    """Return the settings of a stored run with the files of `security` that environment variables name in their place.

    All its other settings are those that it began with.
    """
    paths = {key: environ.get(f"{ENVIRONMENT_PREFIX}SECURITY__{key.upper()}") for key in SECURITY_FILES}
    named = {key: path for key, path in paths.items() if path}
    return settings.model_copy(update={"security": settings.security.model_copy(update=named)})


def keep_security(settings: ExperimentSettings, environ: Mapping[str, str]) -> None:
    """Have all clients of this process trust the authority, and send the token, that the settings name.

    What `rattle up` has made for a run is for the services that it starts: a server at env.url does not get it. Raises
    a RattleError.
    """
    keep_tls(settings.security.tls_files())
    file = settings.security.token_file
    folder, url = environ.get("RUN_DIR"), settings.env.url
    is_own = file is not None and bool(folder) and Path(file) == RunDirectory(Path(folder or "")).token.absolute()
    keep_token(read_token(file), [parse_address(url).url] if is_own and url is not None else [])


def load_security(overrides: Iterable[str], environ: Mapping[str, str]) -> SecuritySection:
    """Return the section `security` of a command that has no other settings; raises as `load_settings` does."""
    overrides = tuple(overrides)
    for override in overrides:
        if not override.startswith("security."):
            raise SettingsError(f"--set {hide_credentials(override)}: this command has settings of `security` only")
    return load_settings(None, overrides, environ).security


def check_settings(values: Mapping[str, Any], source: str, *, plays: bool = True) -> ExperimentSettings:
    """Return typed settings for plain values; raises SettingsError that names the first wrong key and the right one.

    Where this process `plays` nothing, it may lack the environment's package: its settings are then left as they are.
    """
    settings = validated_experiment(values, source)
    if settings.env.url is None:  # a server knows itself what its environment can be told
        settings = _with_environment(settings, source, plays=plays)
    try:
        return with_code(with_hooks(settings), plays=plays)
    except RattleError as error:
        raise SettingsError(f"{source}: {error}") from error


def _with_environment(settings: ExperimentSettings, source: str, *, plays: bool) -> ExperimentSettings:
    """Return settings with all of the environment's own."""
    try:
        own = validate(settings.env.id, settings.env.own_settings, beside=EnvironmentSection.model_fields)
    except RattleError as error:
        is_missing = isinstance(error.__cause__, ModuleNotFoundError)
        if is_missing and not plays:
            return settings
        advice = "; a server that plays it needs no package here: name it in env.url" if is_missing else ""
        raise SettingsError(f"{source}: env: {error}{advice}") from None
    given = settings.model_dump(exclude_unset=True)
    return validated_experiment({**given, "env": {**given.get("env", {}), **own}}, source)


def validated_experiment(values: Mapping[str, Any], source: str) -> ExperimentSettings:
    """Return typed settings for plain values, without a look at the environment's own; raises SettingsError.

    Their `model_fields_set` say what was given: not the algorithm's id where other settings of it alone were.
    """
    algorithm = values.get("algorithm")
    named = isinstance(algorithm, dict) and "id" not in algorithm
    try:
        settings = ExperimentSettings.model_validate(_with_algorithm_id(values))
    except ValidationError as error:
        wrong = complaint(ExperimentSettings, error.errors(include_url=False)[0])
        raise SettingsError(f"{source}: {wrong}") from None
    except ExtensionError as error:
        raise SettingsError(f"{source}: {error}") from error
    if named:
        settings.algorithm.model_fields_set.discard("id")
    return settings


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, without keys that have no value; raises SettingsError when there is none."""
    try:
        values = read_document(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path}{where}: {_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path}: expected lines such as 'seed: 7', found {'a list' if isinstance(values, list) else 'a value'}"
        )
    return values


def to_yaml(settings: ExperimentSettings) -> str:
    """Return settings as YAML that `read_yaml` and `check_settings` turn back into the same settings."""
    return dump(settings.model_dump(mode="json"))


def _with_algorithm_id(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let `algorithm.learning_rate=…` alone mean the first algorithm that has all these settings, or else the first."""
    algorithm = values.get("algorithm")
    if isinstance(algorithm, str):
        return {**values, "algorithm": {"id": algorithm}}
    if isinstance(algorithm, dict) and "id" not in algorithm:
        fitting = (name for name, kind in BUILT_IN.items() if algorithm.keys() <= set(kind.model_fields))
        return {**values, "algorithm": {"id": next(fitting, "a2c"), **algorithm}}
    return dict(values)


def _parse(text: str, source: str) -> Any:
    try:
        return read_value(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{source}={one_line(hide_credentials(text), 60)}: {_problem(error)}") from None


def _problem(error: Exception) -> str:
    """Return what a reader of YAML found wrong."""
    if isinstance(error, Unclear):
        return str(error.problem)
    return f"not valid YAML ({getattr(error, 'problem', None) or getattr(error, 'reason', 'not text')})"


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if isinstance(values.get(section), str) and section in SHORT_FORMS:
            values[section] = {SHORT_FORMS[section]: values[section]}
        inner = values.setdefault(section, {})
        if inner is None:  # a section that was set to nothing
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise SettingsError(f"{key}: '{section}' is a value, not a section")
        values = inner
    if not sections and isinstance(value, str) and last in SHORT_FORMS and isinstance(values.get(last), dict):
        values, last = values[last], SHORT_FORMS[last]
    values[last] = value
