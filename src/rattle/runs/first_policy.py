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
from rattle.policies.mlp.spec import LayeredSpec
from rattle.policies.spec import PolicySpec
from rattle.runs.errors import RunError
from rattle.runs.find_policy import find_policy
from rattle.samples.spaces import SquashedBoxSpace
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings, read_yaml

#: What follows from the class of a graph, and would fill pages.
_COMPUTED = ("graph", "parameters", "work")


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
    policy, run = found.policy, RunDirectory(found.path.parent)
    overrides = list(overrides)
    network = _network(policy, run)  # of an experiment's, where it is nothing
    own = [f"policy={json.dumps(network)}"] if network else []
    if not any(one.startswith("policy.weights=") for one in overrides):  # after a `policy={...}`, which has none
        overrides.append(f"policy.weights={json.dumps(str(found.path.absolute()))}")
    if experiment is None and run.is_run:
        experiment = run.config
        own.append("code=[]")  # a new run begins with the code of users as it is now
    elif experiment is None:
        _check_names_no_code(policy, [*overrides, *flags, *environ])
    environment = {"env": {"id": policy.environment, **policy.environment_settings}}
    return load_settings(experiment, [*own, *overrides], environ, environment, flags=flags)


def _network(policy: StoredPolicy, run: RunDirectory) -> dict[str, Any]:
    """Return the settings of a policy's network; a graph knows none, so they are those of its run, if it has one."""
    if isinstance(policy.spec, LayeredSpec):
        own = set(type(policy.spec).model_fields) - set(PolicySpec.model_fields)
        network = policy.spec.model_dump(mode="json", include={"network", *own})
        network = {"inputs": [], **network}  # a spec without says nothing, and an experiment would choose them
        return {**network, "bounds": "squash"} if isinstance(policy.spec.action, SquashedBoxSpace) else network
    return dict(read_yaml(run.config).get("policy", {})) if run.is_run else {}


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
    if different := _differences(policy.spec, spec):
        raise RunError(f"policy.weights: {path} does not fit: it has {'; '.join(different)}")
    return policy


def _differences(has: PolicySpec, wanted: PolicySpec) -> list[str]:
    """Say what one spec has that the other has not; of graphs and their parameters only that they are different."""
    ours, theirs = wanted.model_dump(mode="json"), has.model_dump(mode="json")
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if has.network != wanted.network:
        return [f"a network of kind {has.network}, and policy.network names one of kind {wanted.network}"]
    said = [
        f"{name} {theirs.get(name, 'none')}, the experiment {ours.get(name, 'none')}"
        for name in names
        if name not in _COMPUTED
    ]
    return said or ["another network than policy.network names"] if names else []


def first_policy_file(settings: ExperimentSettings) -> bytes | None:
    """Return the file that `policy.weights` names, None where it names none; raises RunError."""
    if settings.policy.weights is None:
        return None
    path = Path(settings.policy.weights)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise RunError(f"policy.weights: cannot read {path}: {getattr(error, 'strerror', error)}") from None
