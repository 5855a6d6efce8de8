"""Where settings come from: a YAML file, then environment variables, then `--set`; the later wins.

`RATTLE_TRAIN__STEPS=1000` and `--set train.steps=1000` are `train: {steps: 1000}`; values are read as YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rattle.envs.errors import EnvError
from rattle.envs.registry import validate
from rattle.trainer.errors import SettingsError
from rattle.trainer.settings import SHORT_FORMS, ExperimentSettings

ENVIRONMENT_PREFIX = "RATTLE_"


def load_settings(
    path: Path | None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    default: Mapping[str, Any] | None = None,
) -> ExperimentSettings:
    """Return the settings of an experiment, the environment's own filled in; raises SettingsError with one line.

    `path` None means the experiment `default`, or the one of all settings' defaults. `overrides` are "key=value";
    `environ` the process's variables.
    """
    values = read_yaml(path) if path else deepcopy(dict(default or {}))
    for name, text in (environ or {}).items():
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _put(values, key, _parse(text, name))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {override}: write it as key=value, such as --set env.width=20")
        _put(values, key, _parse(text, f"--set {key}"))
    return check_settings(values, str(path) if path else "settings")


def check_settings(values: Mapping[str, Any], source: str) -> ExperimentSettings:
    """Return typed settings for plain values; raises SettingsError that names the first wrong key and the right one."""
    values = _with_algorithm_id(values)
    try:
        settings = ExperimentSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{source}: {_explain(error)}") from None
    if settings.env.url is not None:
        return settings  # the server knows what its environment can be told
    try:
        own = validate(settings.env.id, settings.env.own_settings)
    except EnvError as error:
        raise SettingsError(f"{source}: env: {error}") from None
    section = {"id": settings.env.id, "worlds": settings.env.worlds, **own}
    return ExperimentSettings.model_validate({**settings.model_dump(), "env": section})


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises SettingsError when there is none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "not text")
        raise SettingsError(f"{path}{where}: not valid YAML ({problem})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    return values


def to_yaml(settings: ExperimentSettings) -> str:
    """Return settings as YAML that `read_yaml` and `check_settings` turn back into the same settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _with_algorithm_id(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let `algorithm.learning_rate=…` alone mean the default algorithm."""
    algorithm = values.get("algorithm")
    if isinstance(algorithm, dict) and "id" not in algorithm:
        return {**values, "algorithm": {"id": "a2c", **algorithm}}
    return dict(values)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingsError(f"{source}: '{text}' is not a YAML value") from None


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if isinstance(values.get(section), str) and section in SHORT_FORMS:
            values[section] = {SHORT_FORMS[section]: values[section]}
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{key}: '{section}' is a value, not a section")
        values = inner
    values[last] = value


def _explain(error: ValidationError) -> str:
    """Return one line about the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return unknown_key(_key(location), location[-1], known)
    if first["type"] == "union_tag_invalid":
        return f"{_key(location)}.id: unknown '{first['ctx']['tag']}'; choose one of {first['ctx']['expected_tags']}"
    message = first["msg"].removeprefix("Value error, ")
    if not location:  # about several sections together: the message names them
        return message
    return f"{_key(location)}: {message[0].lower()}{message[1:]} (got {first['input']!r})"


def unknown_key(key: str, name: str, known: Iterable[str]) -> str:
    """Return a line about an unknown key that names the nearest right one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(names)}"
    return f"unknown key '{key}': {hint}"


def _key(location: list[str]) -> str:
    """Return a location as the user wrote it: without the tag that the algorithm's id adds."""
    tags = {"a2c", "reinforce"}
    return ".".join(part for i, part in enumerate(location) if not (i == 1 and part in tags))


def _fields_at(location: list[str]) -> list[str]:
    """Return the names of the settings in a section."""
    model: type[BaseModel] = ExperimentSettings
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        choices = [annotation, *get_args(annotation)]
        models = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
        if len(models) == 1:
            model = models[0]
        elif models:  # the algorithm: the next part of the location is its id
            chosen = [choice for choice in models if choice.model_fields["id"].default == location[-1]]
            return list((chosen or models)[0].model_fields)
    return list(model.model_fields)
