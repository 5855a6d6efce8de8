"""Values of the chart that start what `rattle up` would."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from rattle.cli import main
from rattle.launch.manifests import chart_values
from rattle.settings.sources import check_settings, load_settings


def test_replicas_are_those_of_the_plan_and_the_experiment_is_whole() -> None:
    given = ("env.num_snakes=2", "training.policies=[a,b]", "topology.training=2", "topology.env=3", "seed=7")
    settings = load_settings(None, given)
    values = chart_values(settings, name="first", registry="registry.example.org:5000/team", tag="1.0")
    assert {kind: values[kind]["replicas"] for kind in ("env", "inference", "training")} == {
        "env": 3,
        "inference": 1,
        "training": 2,
    }
    assert values["run"] == {"name": "first"}
    assert values["image"] == {"registry": "registry.example.org:5000/team", "tag": "1.0"}
    assert check_settings(values["experiment"], "values") == settings


def test_a_server_elsewhere_and_a_gpu() -> None:
    values = chart_values(load_settings(None, ("env.url=http://games.example.org:5000", "train.device=cuda")))
    assert values["env"] == {"enabled": False}
    assert values["training"] == {"replicas": 1, "kind": "job", "gpu": {"enabled": True}}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (("train.steps=null",), "service"),
        (("train.steps=null", "train.seconds=60"), "job"),
        (("train.steps=null", "train.stop_at_return=0"), "job"),
        (("sync.mode=lockstep",), "job"),
        (("sync.mode=lockstep", "sync.ticks=100"), "service"),  # Sync ends it, and Training cannot know
    ],
)
def test_training_is_a_job_where_the_run_ends_by_itself(given: tuple[str, ...], kind: str) -> None:
    assert chart_values(load_settings(None, given))["training"]["kind"] == kind


def test_what_is_of_this_machine_stays_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("t" * 43)
    monkeypatch.setenv("RATTLE_TELEMETRY__BROKER", "amqp://me:s3cret@broker.example.org:5672/%2F")
    monkeypatch.setenv("RATTLE_SECURITY__TOKEN_FILE", str(token))
    done = CliRunner().invoke(main, ["manifests", "cartpole", "--set", "topology.prefix.env=[ssh, host]"])
    assert done.exit_code == 0, done.output
    experiment = yaml.safe_load(done.stdout)["experiment"]
    assert "s3cret" not in done.stdout
    assert str(tmp_path) not in done.stdout
    assert not {"telemetry", "security", "topology", "code"} & experiment.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere"),
        (["--name", "a/b"], "--name 'a/b'"),
        (["--name", ".."], "--name '..'"),
        (["--tag", "one two"], "--tag 'one two'"),
        (["--registry", "https://r.example.org"], "--registry"),
        (["--set", "topology.training=2"], "topology.training is 2"),
        (["--set", "sync.mode=lockstep", "--set", "env.url=http://e:5000"], "leave env.url out"),
        (["--set", "policy.weights=/tmp/policy.safetensors"], "pods do not have"),
        (["--plain"], "there is no helm on the PATH: install it by curl -fsSL"),
        (["--chart", "k8s/platform"], "go with --plain"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(main, ["manifests", *arguments])
    assert done.exit_code != 0
    assert said in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
