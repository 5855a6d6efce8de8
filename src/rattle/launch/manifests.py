"""The topology of an experiment for Kubernetes: values of the chart k8s/platform that start what `rattle up` would."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from rattle.launch.plan import plan
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings

#: Settings of this machine: the chart has values of its own for them, or they are found out again in the pods.
_OF_THIS_MACHINE: dict[str, Any] = {
    "code": True,
    "security": {"token_file", "certificate", "private_key", "authority", "mutual"},
    "sync": {"key_file"},
    "telemetry": {"broker", "store", "ca_file"},
    "topology": {"prefix"},
}
#: As values.schema.json of the chart has them.
_PATTERNS = {
    "--name": r"[A-Za-z0-9._-]{1,80}",
    "--registry": r"[^/:]+(:[0-9]+)?(/[^/:]+)*",
    "--tag": r"[A-Za-z0-9_.-]{1,100}",
}


def chart_values(
    settings: ExperimentSettings, *, name: str | None = None, registry: str | None = None, tag: str | None = None
) -> dict[str, Any]:
    """Return values of the chart that start the services of an experiment; what they leave out has its default there.

    `name` is that of the run on the volume, `registry` and `tag` say where the images are. Raises SettingsError for a
    topology that does not fit the experiment, for a file of this machine that pods lack, and for names that the chart
    does not take.
    """
    for option, given in (("--name", name), ("--registry", registry), ("--tag", tag)):
        if given is not None and (given in (".", "..") or not re.fullmatch(_PATTERNS[option], given)):
            raise SettingsError(f"{option} {given!r} does not fit {_PATTERNS[option]}: choose another one")
    if settings.policy.weights is not None:
        raise SettingsError(
            f"policy.weights is {settings.policy.weights}, a file of this machine that pods do not have: leave it out"
        )
    counts = Counter(service.kind for service in plan(settings, Path("experiment.yaml")))
    values: dict[str, Any] = {
        "env": {"replicas": counts["env"]} if counts["env"] else {"enabled": False},
        "inference": {"replicas": counts["inference"]},
        "training": {"replicas": counts["training"]},
    }
    if settings.train.device == "cuda":
        values["training"]["gpu"] = {"enabled": True}
    if name is not None:
        values["run"] = {"name": name}
    image = {key: given for key, given in (("registry", registry), ("tag", tag)) if given is not None}
    if image:
        values["image"] = image
    experiment = settings.model_dump(mode="json", exclude_unset=True, exclude=_OF_THIS_MACHINE)
    return {**values, "experiment": {key: value for key, value in experiment.items() if value != {}}}
