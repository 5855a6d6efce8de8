"""The chart, rendered from what `rattle manifests` prints, starts the services of the plan with its settings."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

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
    found = {pod.name: pod for pod in pods(of_kind(made, "StatefulSet", "Job"))}
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
    plain = printed_plain(helm, tmp_path, experiment, *sets, "--name", "one", "--registry", "r.example.org")
    assert {about(one) for one in made} - {about(one) for one in plain} == {
        ("Secret", "rattle-token"),
        ("ConfigMap", "rattle-tests"),
        *(("Pod", f"rattle-test-{name}") for name in ("check-env", "inference")),
    }


def about(manifest: dict[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def printed_plain(helm: Helm, folder: Path, experiment: str, *more: str) -> list[dict[str, Any]]:
    """Return what `rattle manifests --plain` prints, which Kubernetes takes and which is the same each time."""
    runner = CliRunner(env={"PATH": f"{helm.folder}:{os.environ['PATH']}"})
    chart = ("--chart", str(ROOT / "k8s" / "platform"), "--namespace", "rattle")
    done = [runner.invoke(main, ["manifests", experiment, "--plain", *chart, *more]) for _ in range(2)]
    assert done[0].exit_code == 0, done[0].output
    assert done[0].stdout == done[1].stdout
    assert "helm.sh/chart" not in done[0].stdout
    assert "create secret generic" in done[0].stderr
    manifests = [one for one in yaml.safe_load_all(done[0].stdout) if one]
    for manifest in manifests:
        validate(manifest)
    return manifests


def test_a_run_without_an_end_is_no_job_and_more_values_count(helm: Helm, tmp_path: Path) -> None:
    values = tmp_path / "more.yaml"
    values.write_text("training: {persistence: {size: 3Gi}}\n")
    more = ("--values", str(values), "--release", "mine")
    made = printed_plain(helm, tmp_path, "snake", *more, "--set", "train.steps=null")
    training = find(made, "StatefulSet", "mine-training")["spec"]
    assert training["volumeClaimTemplates"][0]["spec"]["resources"]["requests"] == {"storage": "3Gi"}
    assert not of_kind(made, "Job", "PersistentVolumeClaim")
    job = find(printed_plain(helm, tmp_path, "snake", *more), "Job", "mine-training")["spec"]["template"]
    assert job["spec"]["restartPolicy"] == "Never"
    claims = [one["persistentVolumeClaim"]["claimName"] for one in job["spec"]["volumes"] if one["name"] == "runs"]
    assert claims == ["runs-mine-training-0"]


def test_what_helm_refuses_is_said_in_a_line(helm: Helm, tmp_path: Path) -> None:
    runner = CliRunner(env={"PATH": f"{helm.folder}:{os.environ['PATH']}"})
    (tmp_path / "more.yaml").write_text("training: {kind: cronjob}\n")
    chart, more = ("--chart", str(ROOT / "k8s" / "platform")), ("--values", str(tmp_path / "more.yaml"))
    for wrong, said in (((*chart, *more), "/training/kind"), (("--chart", str(tmp_path)), "there is no chart in")):
        done = runner.invoke(main, ["manifests", "--plain", *wrong])
        assert done.exit_code == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
