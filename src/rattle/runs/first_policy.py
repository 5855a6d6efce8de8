"""The policy that a run begins with, where its first weights are not drawn: learnt by another run, or given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rattle.analytics.run_directory import RunDirectory
from rattle.envs.errors import NotImported, UnknownEnvironment
from rattle.envs.registry import validate
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, load_policy
from rattle.policies.spec import PolicySpec
from rattle.runs.errors import RunError
from rattle.runs.find_policy import find_policy
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings


def load_settings_from(
    origin: str | None,
    experiment: Path | None,
    overrides: Iterable[str],
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
) -> ExperimentSettings:
    """Return the settings of an experiment that begins with what a run, or the policy in a file, has learnt.

    Weights and network are that policy's. Where no experiment is given it is that of the run, or the environment that
    the policy names. Without an origin this is `load_settings`. Raises a RattleError.
    """
    if origin is None:
        return load_settings(experiment, overrides, environ, flags=flags)
    found = find_policy(origin)
    policy = found.policy
    described = policy.spec.model_dump(mode="json", exclude={*PolicySpec.model_fields})
    network = {"weights": str(found.path.absolute()), **{n: v for n, v in described.items() if n != "num_actions"}}
    own = [f"policy.{name}={json.dumps(value)}" for name, value in network.items()]
    run = RunDirectory(found.path.parent)
    if experiment is None and run.is_run:
        experiment = run.config
        own.append("code=[]")  # a new run begins with the code of users as it is now
    elif experiment is None:
        overrides = list(overrides)
        _check_names_no_code(policy, [*overrides, *flags, *environ])
    environment = {"env": {"id": policy.environment, **policy.environment_settings}}
    return load_settings(experiment, [*own, *overrides], environ, environment, flags=flags)


def _check_names_no_code(policy: StoredPolicy, given: Iterable[str]) -> None:
    """Raise a RattleError where a policy file would have a module imported; the user may name its environment.

    `given` begin with the keys, or variables, of settings that the user has given.
    """
    if any(re.match(r"(env(\.id|\.url)?(=|$))|RATTLE_ENV(__ID|__URL)?$", one) for one in given):
        return
    try:
        validate(policy.environment, policy.environment_settings, allow_imports=False)
    except NotImported as error:
        raise RunError(f"{error}: trust it with --set env.id={policy.environment}") from None
    except UnknownEnvironment:
        return  # who reads the settings says so


def read_first_policy(path: Path, spec: PolicySpec) -> StoredPolicy:
    """Return the policy in a file; raises RunError when it cannot be read, or has another network than `spec`."""
    try:
        policy = load_policy(path.read_bytes())
    except OSError as error:
        raise RunError(f"policy.weights: cannot read {path}: {error.strerror}") from None
    except PolicyError as error:
        raise RunError(f"policy.weights: {path}: {error}") from None
    wanted, has = spec.model_dump(mode="json"), policy.spec.model_dump(mode="json")
    different = [f"{name} {has[name]}, the experiment {wanted[name]}" for name in wanted if wanted[name] != has[name]]
    if different:
        raise RunError(f"policy.weights: {path} does not fit: it has {'; '.join(different)}")
    return policy


def first_policy_file(settings: ExperimentSettings) -> bytes | None:
    """Return the file that `policy.weights` names, None where it names none; raises RunError."""
    if settings.policy.weights is None:
        return None
    path = Path(settings.policy.weights)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise RunError(f"policy.weights: cannot read {path}: {getattr(error, 'strerror', error)}") from None
