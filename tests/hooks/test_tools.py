"""Runs are shown in Weights & Biases and MLflow, offline, with their real clients."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.runs.run_tables import read_run_row
from rattle.settings.hook import RunInfo
from rattle.settings.sources import load_settings
from rattle.trainer.train import resume, train
from tests.trainer.conftest import Silence, read_rows, small_settings

#: Bytes of a block in a file of Weights & Biases.
_BLOCK = 32768

#: The clients warn of what changes in libraries that they use.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def records(folder: Path) -> list[Any]:
    """Return what an offline run of Weights & Biases holds: its file is a log as LevelDB writes it."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.glob("run-*.wandb")
    content, place, begun, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        begun += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            found.append(Record.FromString(begun))
            begun = b""
    return found


def test_weights_and_biases(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb", reason="pip install 'rattle[wandb]'")
    hooks = "hooks=[{use: wandb, project: mine, every_seconds: 0}]"
    summary = train(small_settings(hooks, "name=snake", "evaluation.every_steps=2000"), tmp_path / "run", Silence())
    [folder] = (tmp_path / "run" / "wandb").glob("offline-run-*")
    found = records(folder)
    [run] = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_id, run.run_group) == ("mine", summary.run_id, "snake")
    assert "env" in {item.key for item in run.config.update}
    history = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    rows = read_rows(RunDirectory(tmp_path / "run"), "updates")
    updates = [row for row in history if "learning/entropy" in row]
    assert [int(row["env_steps"]) for row in updates] == [row["env_steps"] for row in rows]
    assert float(updates[-1]["learning/entropy"]) == pytest.approx(rows[-1]["entropy"])
    assert any("evaluations/mean_return" in row for row in history)
    assert capfd.readouterr().out == ""


def test_mlflow(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'rattle[mlflow]'")
    where = tmp_path / "tracked"
    hooks = f"hooks=[{{use: mlflow, tracking_uri: '{where}', every_seconds: 0}}]"
    run = RunDirectory(tmp_path / "run")
    summary = train(small_settings(hooks, "name=snake", "train.steps=2000"), run.path, Silence())
    client = mlflow.MlflowClient(tracking_uri=str(where))
    experiment = client.get_experiment_by_name("snake")

    def shown() -> Any:
        [only] = client.search_runs([experiment.experiment_id])
        return only

    first = shown()
    assert (first.info.run_name, first.info.status) == (summary.run_id, "FINISHED")
    assert first.data.params["algorithm.learning_rate"] == "0.001"
    resume(str(run.path), 4608, None, Silence())
    assert shown().info.run_id == first.info.run_id
    history = client.get_metric_history(first.info.run_id, "learning/entropy")
    rows = read_rows(run, "updates")
    assert [metric.step for metric in history] == [row["env_steps"] for row in rows]
    assert history[-1].value == pytest.approx(rows[-1]["entropy"])
    assert capfd.readouterr().out == ""


def test_mlflow_has_once_what_a_killed_run_plays_again(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'rattle[mlflow]'")
    from rattle.hooks.mlflow import MLflow, MLflowSettings

    for begin in (0, 2):
        hook = MLflow(MLflowSettings(tracking_uri=str(tmp_path)))
        hook.open(RunInfo("id", tmp_path, 0, begin, {}))
        for version in range(begin, begin + 4):  # it is killed after four updates, the last two without a checkpoint
            hook.send({"speed/env_steps_per_second": 1.0, "learning/entropy": 1.0}, version * 10, version)
            hook.send({"evaluations/mean_return": 2.0, "evaluations/mean_food": 3.0}, version * 10, version)
    client = mlflow.MlflowClient(tracking_uri=str(tmp_path))
    [run] = client.search_runs([client.get_experiment_by_name("rattle").experiment_id])
    for name in ("learning/entropy", "evaluations/mean_return", "evaluations/mean_food"):
        assert [one.step for one in client.get_metric_history(run.info.run_id, name)] == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_client_is_named_before_a_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer" if name == "tensorboard" else name, None)
    with pytest.raises(RattleError, match=rf"pip install 'rattle\[{name}\]'"):
        train(small_settings(f"hooks=[{name}]"), tmp_path / "run", Silence())
    assert not (tmp_path / "run").exists()


def test_tools_without_their_clients_leave_the_settings_as_they_are(tmp_path: Path) -> None:
    settings = small_settings("hooks=[wandb, {use: mlflow, experiment: x}]")
    assert settings.code == ()  # what comes with Rattle is no code of a user
    assert settings.hooks[0].own_settings["project"] == "rattle"


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("{use: wandb, projet: x}", "did you mean 'project'"),
        ("{use: wandb, mode: cloud}", "'offline' or 'online'"),
        ("{use: mlflow, tracking_uri: 'http://me:secret@host'}", "without user and password"),
        ("wanbd", "did you mean 'wandb'"),
    ],
)
def test_mistakes_are_said_in_one_line_without_secrets(hook: str, said: str) -> None:
    with pytest.raises(RattleError, match=said) as wrong:
        load_settings(None, [f"hooks=[{hook}]"], {})
    assert "secret" not in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_the_setting_for_tensorboard_is_short_for_its_hook(tmp_path: Path) -> None:
    train(small_settings("log.tensorboard=true"), tmp_path / "short", Silence())
    train(small_settings("hooks=[tensorboard]", "log.tensorboard=true"), tmp_path / "both", Silence())
    for name in ("short", "both"):
        assert len(list((tmp_path / name / "tensorboard").iterdir())) == 1
        assert read_run_row(RunDirectory(tmp_path / name))["status"] == "finished"
