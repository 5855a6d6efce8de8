"""The topology of an experiment for Kubernetes: values of the chart k8s/platform that start what `rattle up` would.

Plain manifests are the chart's, rendered by Helm, so that the topology is described once.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rattle.launch.plan import plan
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.yaml_values import dump
from rattle.text import one_line

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
#: Where the chart is in a clone of the sources.
_CHART = Path("k8s", "platform")
#: Labels that say of a release of Helm what plain manifests are not.
_OF_HELM = re.compile(r"^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)


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
        "training": {"replicas": counts["training"], "kind": "job" if _ends(settings) else "service"},
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


def _ends(settings: ExperimentSettings) -> bool:
    """Whether Training itself ends a run; one whose ticks are counted by the Sync service is ended by who reads it."""
    own, counted = settings.train, settings.sync.mode == "lockstep" and settings.sync.ticks is not None
    return not counted and not own.steps is own.seconds is own.stop_at_return is None


def plain_manifests(
    values: dict[str, Any],
    *,
    release: str = "rattle",
    namespace: str = "default",
    chart: Path | None = None,
    more: Sequence[Path] = (),
) -> str:
    """Return the manifests of a chart with values, and those of the files `more`, which win, as YAML.

    The pods expect the token in the Secret RELEASE-token, which is not among the manifests: they can be stored, and
    applied again. Raises SettingsError where there is no Helm or no chart, and for what Helm refuses.
    """
    helm = shutil.which("helm")
    if helm is None:
        raise SettingsError(
            "--plain has Helm render the chart, and there is no helm on the PATH: install it by "
            "curl -fsSL https://raw.githubusercontent.com/helm/helm/main/scripts/get-helm-3 | bash, or as "
            "https://helm.sh/docs/intro/install/ says"
        )
    places = [chart] if chart else [_CHART, Path(__file__).parents[3] / _CHART]
    found = next((place for place in places if (place / "Chart.yaml").is_file()), None)
    if found is None:
        raise SettingsError(
            f"there is no chart in {chart or _CHART}: name the folder k8s/platform of the sources in --chart"
        )
    own = {"security": {"token": {"existingSecret": f"{release}-token"}}, "tests": {"enabled": False}}
    named = [word for path in ("-", *map(str, more)) for word in ("--values", path)]
    done = subprocess.run(  # noqa: S603 (Helm, with the user's own arguments)
        [helm, "template", release, str(found), "--namespace", namespace, *named],
        input=dump({**values, **own}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SettingsError(f"helm template: {one_line(done.stderr, 2000).removeprefix('Error: ')}")
    return _OF_HELM.sub("", done.stdout)
