"""The chart, rendered from what `rattle manifests` prints, starts the services of the plan with its settings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from rattle.cli import main
from rattle.launch.plan import plan
from rattle.settings.experiment_files import find_experiment
from rattle.settings.sources import check_settings, load_settings
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import find, of_kind, pods, validate, variables

pytestmark = [pytest.mark.integration, pytest.mark.promised]

KINDS = ("env", "inference", "training", "sync")


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        ("cartpole", ("training.mode=async", "topology.env=2", "topology.inference=3")),
        ("snake-duel", ("training.policies=[a,b]", "topology.training=2")),
        ("snake-lockstep", ()),
    ],
)
def test_the_chart_starts_what_up_would(
    helm: Helm, tmp_path: Path, experiment: str, overrides: tuple[str, ...]
) -> None:
    sets = [word for override in overrides for word in ("--set", override)]
    done = CliRunner().invoke(main, ["manifests", experiment, *sets, "--name", "one", "--registry", "r.example.org"])
    assert done.exit_code == 0, done.output
    values = tmp_path / "values.yaml"
    values.write_text(done.stdout)
    settings = load_settings(find_experiment(experiment), overrides)
    planned = plan(settings, Path("config.yaml"))

    made = helm.template(ROOT / "k8s" / "platform", values)
    for manifest in made:
        validate(manifest)
    sets_of = of_kind(made, "StatefulSet")
    found = {pod.name: pod for pod in pods(sets_of)}
    kinds = [pod.labels["app.kubernetes.io/component"] for pod in found.values()]
    assert Counter(kind for kind in kinds if kind in KINDS) == Counter(service.kind for service in planned)

    stored = yaml.safe_load(find(made, "ConfigMap", "rattle-experiment")["data"]["experiment.yaml"])
    assert check_settings(stored, "ConfigMap") == settings
    for number in range(settings.topology.inference):
        pod = found[f"rattle-inference-{number}"]
        known = variables(pod, pod.containers[0], made)
        assert known["RATTLE_INFERENCE__INDEX"] == str(number)
        assert len(json.loads(known["RATTLE_INFERENCE__ENVS"])) == settings.topology.env
        assert len(json.loads(known["RATTLE_INFERENCE__TRAINING"])) == settings.topology.training
    training = found["rattle-training-0"].containers[0]
    assert training["image"].startswith("r.example.org/snake_rl_training:")
    assert "/runs/one" in training["args"]
