"""Runs whose rows go to a real broker: what has arrived is what was learnt, whatever was killed meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from tests.rabbitmq import PASSWORD, RabbitMQ, needs_rabbitmq
from tests.telemetry.receiving import StoredRows
from tests.template import RattleProcess
from tests.trainer.conftest import rattle, read_rows

pytestmark = needs_rabbitmq

SETTINGS = ["env.worlds=64", "train.checkpoint_seconds=0.1", "evaluation={every_steps: 10000, episodes: 20}"]


def arguments_of(rabbitmq: RabbitMQ, exchange: str) -> list[str]:
    telemetry = [f"telemetry.broker={rabbitmq.url()}", f"telemetry.exchange={exchange}"]
    return [part for setting in (*SETTINGS, *telemetry) for part in ("--set", setting)]


def test_what_has_arrived_is_what_was_learnt_after_kills_of_run_broker_and_connection(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    moments = random.Random(2)  # noqa: S311  # which moments, the test may choose
    arguments = ["train", "--json", "--run-dir", "run", *arguments_of(rabbitmq, exchange)]
    environment = {**os.environ, "RATTLE_CREDENTIALS": rabbitmq.url()}
    run = RunDirectory(tmp_path / "run")
    for number in range(5):
        process = RattleProcess(
            *arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.2, 1.0))
        if number == 1:
            rabbitmq.gate.cut()
            time.sleep(0.2)
        if number == 2:
            rabbitmq.kill()
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        if number == 3:
            rabbitmq.start()
        arguments = ["train", "--json", "--resume", "run"]
    done = json.loads((run.run).read_bytes())["env_steps"]
    last = rattle(*arguments, "--steps", str(done + 20_000), cwd=tmp_path, RATTLE_CREDENTIALS=rabbitmq.url())
    assert last.returncode == 0, last.stderr
    stored = StoredRows(rabbitmq.messages(f"{exchange}.rows"))
    for table in ("updates", "episodes", "evaluations"):
        assert stored.rows(table) == read_rows(run, table), table
    assert stored.rows("steps") == recorded(run)
    assert stored.rows("runs")[-1]["status"] == "finished"
    assert [row["life"] for row in stored.lives] == list(range(6))
    assert PASSWORD not in "".join(text_of(path) for path in run.path.rglob("*") if path.is_file())


def text_of(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def recorded(run: RunDirectory) -> list[dict[str, Any]]:
    import pyarrow.parquet

    files: Iterable[Path] = sorted(run.table("steps").glob("*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def test_a_run_goes_on_without_its_broker_and_publishes_when_it_is_resumed(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    sets = ["--set", "env.worlds=64"]
    own = {"XDG_STATE_HOME": str(tmp_path), "ENABLE_RABBITMQ": "true", "RABBITMQ_EXCHANGE": exchange}
    away = {**own, "RABBITMQ_HOST": "127.0.0.1", "RABBITMQ_PORT": "1"}
    first = rattle("train", "--run-dir", "run", "--steps", "20000", *sets, cwd=tmp_path, **away)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("cannot be reached") == 1
    assert "rows wait in" in first.stderr
    there = {**away, "RABBITMQ_PORT": str(rabbitmq.gate.port), "RABBITMQ_USERNAME": "rattle"}
    variables = {**there, "RABBITMQ_PASSWORD": PASSWORD}
    second = rattle("train", "--resume", "run", "--steps", "30000", cwd=tmp_path, **variables)
    assert second.returncode == 0, second.stderr
    stored = StoredRows(rabbitmq.messages(f"{exchange}.rows"))
    run = RunDirectory(tmp_path / "run")
    assert stored.rows("episodes") == read_rows(run, "episodes")
    assert stored.rows("updates") == read_rows(run, "updates")


def test_all_services_of_a_run_publish(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    settings = arguments_of(rabbitmq, exchange)
    done = rattle("up", "--run-dir", "run", "--steps", "20000", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "run")
    stored = StoredRows(rabbitmq.messages(f"{exchange}.rows"))
    for table in ("updates", "episodes", "evaluations"):
        assert stored.rows(table) == read_rows(run, table), table
    assert stored.rows("runs")[-1]["status"] == "finished"
    assert {row["service"] for row in stored.rows("logs")} >= {"up", "env-0", "training-0", "inference-0"}
    assert {row["run_id"] for row in stored.rows("logs")} == {stored.lives[0]["run_id"]}
    assert PASSWORD not in "".join(text_of(path) for path in run.path.rglob("*") if path.is_file())
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("telemetry.broker=http://here", "is no server's address: write it as amqp://HOST:PORT"),
        ("telemetry.broker=amqps://here", "cannot read the certificates"),
    ],
)
def test_a_setting_that_makes_no_sense_leaves_no_run_behind(setting: str, said: str, tmp_path: Path) -> None:
    settings = ["--set", setting, "--set", "telemetry.ca_file=nowhere.pem"]
    refused = rattle("train", "--run-dir", "run", *settings, cwd=tmp_path)
    assert refused.returncode != 0
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()
