"""Images and compose in real containers. `.ci/images` builds the images and runs this; elsewhere it is skipped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.settings.sources import load_settings
from rattle.trainer.train import train
from tests.deploy.containers import REPOSITORY, SERVICES, Stack, docker, inspect, wait_for
from tests.test_requirements import listed
from tests.trainer.conftest import Silence, read_rows

TAG = os.environ.get("RATTLE_IMAGES", "")
MEGABYTE = 1_000_000
#: What images without PyTorch may hold besides what all share.
MOST_MEGABYTES = 250
#: Runs until it is stopped; small, so that what it has done can be done again in one process.
EXPERIMENT = """
env: {id: snake, worlds: 64, width: 9, height: 9}
policy: {hidden_sizes: [16]}
train: {steps: null, checkpoint_seconds: 2}
"""
TIMES = ("time", "seconds", "env_steps_per_second", "run_id")
CORE = ("env", "training", "inference")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not TAG, reason="needs the images that .ci/images builds, with Docker"),
]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_what_its_service_needs_and_no_more(service: str) -> None:
    base, image = inspect(f"snake_rl_base:{TAG}"), inspect(f"snake_rl_{service}:{TAG}")
    size = (image["Size"] - base["Size"]) // MEGABYTE
    lists = [listed("services/base.txt"), listed(f"services/{service}.txt")]
    assert size <= MOST_MEGABYTES or service == "training"
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["rattle", service.replace("_", "-")]
    assert config["Healthcheck"]["Test"][-1] == "--ready"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"snake_rl_{service}"
    assert labels["org.opencontainers.image.version"] == TAG
    names = {name for packages in lists for name, (wanted, _) in packages.items() if fits(wanted.marker)}
    held = json.loads(
        docker(
            "run",
            "--rm",
            "--read-only",
            "--entrypoint=python",
            f"snake_rl_{service}:{TAG}",
            "-c",
            "import json, re; from importlib.metadata import distributions; print(json.dumps(sorted({"
            "re.sub('[-_.]+', '-', one.metadata['Name']).lower() for one in distributions(path=["
            "'/opt/rattle/packages'])})))",
        )
    )
    assert set(held) == names | {"rattle"} | ({"torch"} if service == "training" else set())


def fits(marker: object) -> bool:
    """Tell whether a package is for the machines that images run on."""
    return marker is None or bool(marker.evaluate({"sys_platform": "linux"}))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image of ingest with the embedded store as the page says, and return its name."""
    page = (REPOSITORY / "docs" / "deployment.md").read_text()
    (dockerfile,) = re.findall(r"```dockerfile\n(FROM snake_rl_ingest.*?)```", page, re.DOTALL)
    assert dockerfile.count("\n") <= 3
    name = "rattle_test_ingest_embedded"
    pinned = f"chdb{listed('users.txt')['chdb'][0].specifier}"
    build(name, tmp_path_factory.mktemp("own"), dockerfile.replace(":latest", f":{TAG}").replace("chdb", pinned))
    return name


def build(name: str, folder: Path, dockerfile: str | None = None) -> None:
    """Build an image from a folder, by the Dockerfile in it, or by another one."""
    file = str(folder / "Dockerfile") if dockerfile is None else "-"
    docker("build", "--quiet", "--tag", name, "--file", file, str(folder), seconds=400, stdin=dockerfile)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, embedded: str) -> Iterator[Stack]:
    """Start the profile core, with a broker beside it."""
    build("rattle_test_rabbitmq", REPOSITORY / "tests" / "deploy" / "rabbitmq")
    with Stack(tmp_path_factory.mktemp("stack"), TAG, EXPERIMENT, "core,telemetry") as stack:
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


def test_a_run_goes_on_whatever_dies_and_learns_on(stack: Stack, tmp_path: Path) -> None:
    stack.compose("up", "-d", "--no-deps", "env", "training")
    assert {stack.health(service) for service in ("env", "training")} == {"starting"}
    stack.script("up", *CORE)
    for service in CORE:
        wait_for(f"{service} is healthy", lambda service=service: stack.health(service) == "healthy")
    wait_for("ten updates", lambda: version(stack) >= 10)
    before = {}
    for service in ("env", "inference", "training"):
        before[service] = reached = version(stack)
        stack.kill(service)
        wait_for(f"the run goes on without {service}'s memory", lambda reached=reached: version(stack) > reached)
    reached = version(stack)
    stack.script("down")
    stack.script("up", *CORE)
    wait_for("the run goes on after down and up", lambda: version(stack) > reached)
    stack.compose("stop", "inference", "training")
    assert stack.state("training")["ExitCode"] == 0
    docker("cp", f"{stack.container('training')}:/runs/run", str(tmp_path / "there"))

    there, here = RunDirectory(tmp_path / "there"), RunDirectory(tmp_path / "here")
    updates = read_rows(there, "updates", *TIMES)
    assert [row["policy_version"] for row in updates] == list(range(1, len(updates) + 1))
    # Env comes back with the same games. Those that Inference plays are lost with it, and so is what Training has not
    # stored yet: from there on, others are played.
    resumed = [json.loads(row["fields"])["update"] for row in logged(there) if row["event"] == "run_resumed"]
    exact = min(before["inference"], *resumed)
    assert exact > before["env"]
    settings = load_settings(stack.folder / "experiment.yaml", [f"train.steps={updates[exact - 1]['env_steps']}"], {})
    train(settings, here.path, Silence())
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
        assert docker("exec", name, "id", "-u") == str(os.getuid() or 10001)
        refused = docker("exec", name, "sh", "-c", "touch /x /opt/rattle/x /opt/rattle/packages/x 2>&1", check=False)
        assert refused.count("Read-only file system") == 3
        status = docker("exec", name, "sh", "-c", "grep -h ^Cap /proc/1/status")
        assert set(re.findall(r"CapEff:\s+(\w+)", status)) == {"0" * 16}
        ports = [binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings]
        assert set(ports) == {"127.0.0.1"}


def test_rows_of_the_run_reach_a_store_over_the_broker(stack: Stack, embedded: str) -> None:
    stack.script("up", *CORE)
    stack.compose("up", "-d", "--no-deps", "rabbitmq", "tables", "ingest")
    wait_for("ingest is ready", lambda: stack.health("ingest") == "healthy")

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
