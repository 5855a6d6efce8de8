"""compose.yaml with the images, as `make up` starts it. `.ci/images` builds them and runs this; else it is skipped."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.rollouts.complete import complete
from rattle.runs.run_tables import read_run_row
from rattle.settings.sources import load_settings
from rattle.trainer.train import train
from tests.deploy.containers import (
    REPOSITORY,
    TAG,
    USER,
    Stack,
    build,
    build_on_top,
    docker,
    inspect,
    needs_images,
    wait_for,
)
from tests.test_requirements import listed
from tests.trainer.conftest import Silence, read_rows

#: Runs until it is stopped; small, so that what it has done can be done again in one process.
EXPERIMENT = """
env: {id: snake, worlds: 64, width: 9, height: 9}
policy: {hidden_sizes: [16]}
train: {steps: null, checkpoint_seconds: 2}
"""
#: An environment and an algorithm of the user's, and an end. The environment is in the image of Env alone, and the
#: algorithm, which imports PyTorch, in that of Training.
OWN = """
env: {id: "my_world:Pond", worlds: 64, size: 5}
algorithm: {id: "my_algorithm:Clipped", clip: 0.1, ticks: 8}
policy: {hidden_sizes: [16]}
train: {steps: 24576, checkpoint_seconds: 1}
"""
#: ClickHouse's engine in place of its image, which no registry has here: the store that compose.yaml names answers.
OWN_IMAGES = """
version: "3.8"
services:
  env: {image: rattle_test_env_own}
  training: {image: rattle_test_training_own}
  rabbitmq: {image: rattle_test_rabbitmq}
  clickhouse:
    image: rattle_test_clickhouse
    ulimits: {nofile: {soft: 1024, hard: 1024}} # more is not granted everywhere
    healthcheck:
      test: [CMD, python, -c, "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8123/ping')"]
      interval: 1s
"""
CLICKHOUSE = """
FROM rattle_test_ingest_embedded
COPY tests /opt/rattle/extensions/tests
ENTRYPOINT ["python", "-m", "tests.clickhouse", "/tmp/store", "8123", "1", "0.0.0.0"]
CMD []
"""
#: Slow enough that a service can be killed at a tick.
LOCKSTEP = """
sync: {mode: lockstep, ticks: 1500, frequency: 50}
env: {id: snake, width: 9, height: 9, num_snakes: 2, food: 4, max_steps_without_food: 20}
inference: {snakes: 2}
policy: {hidden_sizes: [16]}
train: {steps: null}
"""
TIMES = ("time", "seconds", "env_steps_per_second", "run_id")
CORE = ("env", "training", "inference")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600), needs_images]


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build the images of a broker, and of ingest with a store in it."""
    build("rattle_test_rabbitmq", REPOSITORY / "tests" / "deploy" / "rabbitmq")
    chdb = f"chdb{listed('users.txt')['chdb'][0].specifier}"
    build_on_top("rattle_test_ingest_embedded", "ingest", {"chdb": chdb}, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, telemetry: None) -> Iterator[Stack]:
    """Start the profile core, with a broker beside it."""
    override = (REPOSITORY / "tests" / "deploy" / "compose.override.yaml").read_text()
    folder = tmp_path_factory.mktemp("stack")
    with Stack(folder, EXPERIMENT, "core,telemetry", override, "chdb:///runs/store") as stack:
        yield stack


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory, telemetry: None) -> Iterator[Stack]:
    """Yield compose.yaml with classes of a user in images of their own, and a store that is asked over HTTP."""
    own, tests = (tmp_path_factory.mktemp(name) for name in ("own", "tests"))
    for name in ("my_world", "my_algorithm"):
        shutil.copy(REPOSITORY / "examples" / "extend" / f"{name}.py", own)
    package = f"iniconfig{listed('developers.txt')['iniconfig'][0].specifier}"
    build_on_top("rattle_test_env_own", "env", {"my-simulator": package}, own)
    docker("run", "--rm", "--entrypoint=python", "rattle_test_env_own", "-c", "import iniconfig")
    copied = f"FROM snake_rl_training:{TAG}\nCOPY my_algorithm.py /opt/rattle/extensions/\n"
    build("rattle_test_training_own", own, copied)
    (tests / "tests").mkdir()
    for name in ("__init__", "clickhouse", "ports"):
        shutil.copy(REPOSITORY / "tests" / f"{name}.py", tests / "tests")
    build("rattle_test_clickhouse", tests, CLICKHOUSE)
    with Stack(tmp_path_factory.mktemp("stack"), OWN, "core,telemetry", OWN_IMAGES) as stack:
        yield stack


def logged(directory: RunDirectory) -> list[dict[str, Any]]:
    """Return the events of a run."""
    files = sorted(directory.table("logs").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def version(stack: Stack) -> int:
    """Return the version of the policy that Inference plays, -1 as long as there is none."""
    try:
        models = stack.ask("INFERENCE", "/v1/models")["models"]
    except OSError:
        return -1  # it is starting
    return max((int(version) for model in models for version in model["versions"]), default=-1)


def run_row(stack: Stack) -> dict[str, Any]:
    """Return what Training has last written of its run."""
    return dict(json.loads(docker("exec", stack.container("training"), "cat", "/runs/run/run.json")))


def test_a_run_goes_on_whatever_dies_and_learns_on(stack: Stack, tmp_path: Path) -> None:
    stack.compose("up", "-d", "--no-deps", "env", "training")
    assert {stack.health(service) for service in ("env", "training")} == {"starting"}
    stack.script("up", *CORE)
    stack.wait_until_healthy(*CORE)
    wait_for("ten updates", lambda: version(stack) >= 10)
    before = {}
    for service in ("env", "inference", "training"):
        before[service] = version(stack)
        stack.kill(service)
        reached = max(before[service], version(stack))
        wait_for(f"the run goes on without {service}'s memory", lambda reached=reached: version(stack) > reached)
    reached = version(stack)
    stack.script("down")
    stack.script("up", *CORE)
    wait_for("the run goes on after down and up", lambda: version(stack) > reached)
    stack.compose("stop", "inference", "training")
    assert stack.state("training")["ExitCode"] == 0
    there, here = stack.copied("run", tmp_path / "there"), RunDirectory(tmp_path / "here")
    updates = read_rows(there, "updates", *TIMES)
    assert [row["policy_version"] for row in updates] == list(range(1, len(updates) + 1))
    # With Env the games that it plays are lost: from there on, others are played.
    resumed = [json.loads(row["fields"])["update"] for row in logged(there) if row["event"] == "run_resumed"]
    exact = before["env"]
    assert 10 <= exact < min(resumed)
    settings = load_settings(stack.folder / "experiment.yaml", [f"train.steps={updates[exact - 1]['env_steps']}"], {})
    train(complete(settings), here.path, Silence())
    assert read_rows(here, "updates", *TIMES) == updates[:exact]
    episodes = [row["return"] for row in read_rows(there, "episodes")]
    assert sum(episodes[-500:]) > sum(episodes[:500])
    stack.script("up", *CORE)


def test_containers_have_no_rights_that_they_do_not_need(stack: Stack) -> None:
    stack.script("up", *CORE)
    for service in CORE:
        found, name = inspect(stack.container(service)), stack.container(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert docker("exec", name, "id", "-u") == str(os.getuid() or USER)
        refused = docker("exec", name, "sh", "-c", "touch /x /opt/rattle/x /opt/rattle/packages/x 2>&1", check=False)
        assert refused.count("Read-only file system") == 3
        status = docker("exec", name, "sh", "-c", "grep -h ^Cap /proc/1/status")
        assert set(re.findall(r"CapEff:\s+(\w+)", status)) == {"0" * 16}
        ports = [binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings]
        assert set(ports) == {"127.0.0.1"}


def test_rows_of_the_run_reach_a_store_over_the_broker(stack: Stack) -> None:
    stack.script("up", *CORE)
    stack.compose("up", "-d", "--no-deps", "rabbitmq", "tables", "ingest")
    stack.wait_until_healthy("ingest")

    def stored() -> int:
        return int(stack.ask("INGEST", "/v1/status")["rows"])

    wait_for("rows are stored", lambda: stored() > 100)
    stack.compose("stop", "ingest")
    assert stack.state("ingest")["ExitCode"] == 0
    sql = "SELECT count() AS updates, uniqExact(run_id) AS runs FROM updates"
    command = ["run", "--rm", "--no-deps", "--entrypoint", "rattle", "ingest", "query", sql]
    answer = stack.compose(*command, "--store", "chdb:///runs/store", "--format", "json")
    row = json.loads(answer)
    assert row["runs"] == 1
    assert row["updates"] > 10


def test_a_run_of_the_users_classes_ends_and_its_services_stay(own_stack: Stack) -> None:
    stack = own_stack
    stack.script("up", *CORE)
    stack.wait_until_healthy(*CORE)
    wait_for("the run is over", lambda: run_row(stack)["status"] == "finished")
    row, last = run_row(stack), version(stack)
    assert (row["env_steps"], row["environment"], row["run_id"]) == (24576, "my_world:Pond", stack.run_id)
    assert (row["algorithm"], row["updates"]) == ("my_algorithm:Clipped", 24576 // 64 // 8)
    for service in ("training", "inference"):
        stack.kill(service)
        stack.wait_until_healthy(service)
        wait_for("the last policy is there", lambda: version(stack) == last)
        assert run_row(stack) == row
    assert [stack.restarts(service) for service in CORE] == [0, 1, 1]
    stack.script("down")
    stack.script("up", *CORE)
    stack.wait_until_healthy(*CORE)
    wait_for("the last policy is there", lambda: version(stack) == last)
    assert run_row(stack) == row
    stack.script("down")
    (stack.folder / "experiment.yaml").write_text(OWN.replace("steps: 24576", "steps: 49152"))
    stack.script("up", *CORE)
    stack.wait_until_healthy("training")
    wait_for(
        "the run has gone on",
        lambda: (run_row(stack)["status"], run_row(stack)["env_steps"]) == ("finished", 49152),
    )


def test_the_dashboard_shows_a_run_of_the_store(own_stack: Stack) -> None:
    stack = own_stack
    stack.script("up", *CORE)
    stack.compose("up", "-d", "--no-deps", "rabbitmq", "clickhouse")
    stack.wait_until_healthy("rabbitmq", "clickhouse")
    stack.compose("up", "-d", "--no-deps", "tables", "ingest", "dashboard")
    stack.wait_until_healthy("ingest", "dashboard")

    def shown(path: str) -> str:
        try:
            return stack.page("DASHBOARD", path)
        except OSError:
            return ""  # there are no tables yet, or no run

    wait_for("the run is in the list", lambda: "<td>my_algorithm:Clipped</td>" in shown(f"/?q={stack.run_id}"))
    wait_for("the run has a page", lambda: stack.run_id in shown(f"/run?run={stack.run_id}"))

    def of_the_run() -> set[str]:
        sql = "SELECT DISTINCT run_id, service FROM logs ORDER BY service"
        store = ("--store", "http://clickhouse:8123/rattle", "--format", "json")
        answer = docker("exec", stack.container("dashboard"), "rattle", "query", sql, *store)
        rows = [json.loads(line) for line in answer.splitlines()]
        return {row["service"] for row in rows if row["run_id"] == stack.run_id}

    wait_for("all services have logged", lambda: of_the_run() >= set(CORE))
    stack.compose("stop", "dashboard")
    assert stack.state("dashboard")["ExitCode"] == 0


def played_in_lockstep(stack: Stack, run: str, kills: Sequence[int], folder: Path) -> RunDirectory:
    """Play a run to its last tick, kill Sync at some ticks, and return the run."""

    def status() -> dict[str, Any]:
        try:
            return stack.ask("SYNC", "/v1/status")
        except OSError:
            return {"tick": -1, "finished": False}  # it is starting

    stack.script("up", RUN=run)
    for tick in kills:
        wait_for(f"tick {tick}", lambda tick=tick: status()["tick"] >= tick)
        stack.kill("sync")
    wait_for("the last tick", lambda: status()["finished"])
    stack.wait_until_healthy("sync", *CORE)
    assert [stack.restarts(service) for service in ("sync", *CORE)] == [len(kills), 0, 0, 0]
    stack.script("down")
    stack.script("up", RUN=run)  # a run that is over stays so
    stack.wait_until_healthy("sync", *CORE)
    assert status()["finished"]
    stack.compose("stop", "inference", "training")
    directory = stack.copied(run, folder)
    stack.script("down")
    return directory


def test_in_lockstep_a_sync_service_that_dies_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    with Stack(tmp_path / "stack", LOCKSTEP, "core,sync") as stack:
        calm = read_run_row(played_in_lockstep(stack, "calm", (), tmp_path / "calm"))
        killed = read_run_row(played_in_lockstep(stack, "killed", (50, 400), tmp_path / "killed"))
    assert calm["updates"] > 3
    what = ("updates", "env_steps", "episodes", "mean_return", "policy_sha256")
    assert {name: killed[name] for name in what} == {name: calm[name] for name in what}
