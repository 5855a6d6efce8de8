"""The settings of a run by their dotted keys, as its config.yaml has them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.stored_runs import AnyRun, StoredRun

#: The compiled loader is several times as fast, where PyYAML has it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def flat_settings(run: AnyRun) -> dict[str, str]:
    """Return each setting of a run as text by its key, such as `algorithm.learning_rate`; lists are JSON.

    A run whose config.yaml cannot be read has no settings.
    """
    return flatten(read_config(run))


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a configuration as `flat_settings` does."""
    return dict(_flat(config, ""))


def read_config(run: AnyRun) -> dict[str, Any]:
    """Return the settings of a run as plain values; {} where its config.yaml cannot be read."""
    if isinstance(run, StoredRun):
        return dict(run.config)
    try:
        values = _LOADER(run.config.read_bytes()).get_single_data()
    except (OSError, ValueError, yaml.YAMLError):  # ValueError is also of dates that no calendar has
        return {}
    return values if isinstance(values, dict) else {}


def described(runs: Sequence[AnyRun], keys: Sequence[str]) -> list[str]:
    """Return the `labels` of runs by these settings; raises AnalyticsError for a key that no run has."""
    settings = [flat_settings(run) for run in runs]
    known = sorted({key for own in settings for key in own})
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "docs/settings.md lists them"
            raise AnalyticsError(f"no run here has a setting '{key}': {hint}")
    return labels(settings, keys)


def labels(settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[str]:
    """Return for each run the settings under `keys` as `key=value, key=value`; a run that lacks one has a dash.

    The last part of a key stands for it where that is clear.
    """
    short = [key.rpartition(".")[2] for key in keys]
    names = short if len(set(short)) == len(short) else keys
    return [", ".join(f"{name}={own.get(key, '-')}" for name, key in zip(names, keys, strict=True)) for own in settings]


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    """Return a setting as text; plain numbers go past the encoder, which is slow for a thousand runs."""
    if type(value) in (int, float):
        return repr(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
