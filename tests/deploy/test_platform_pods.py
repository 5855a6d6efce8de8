"""The pods of the rendered chart run: the policy is that of one process, and pods that end come back to it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import pytest
import yaml

from rattle.analytics.run_directory import RunDirectory
from rattle.runs.run_tables import read_run_row
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import Manifest, pods
from tests.deploy.pods import Cluster
from tests.networks import NoNetworkError
from tests.template import run

pytestmark = [pytest.mark.integration, pytest.mark.promised]

CHART = ROOT / "k8s" / "platform"
EXPERIMENT = {
    "seed": 3,
    "env": {"worlds": 32, "width": 7, "height": 7, "vision_radius": 3},
    "policy": {"hidden_sizes": [16]},
    "train": {"steps": 32 * 16 * 25, "checkpoint_seconds": 0.5},
}
SETS = {"experiment": EXPERIMENT, "env.replicas": 2, "inference.replicas": 2, "inference.drainSeconds": 5}
TRAINING = "rattle-training-0"
LOCKSTEP = {
    "sync": {"mode": "lockstep", "ticks": 100},
    "env": {"width": 9, "height": 9, "num_snakes": 4, "food": 4, "max_steps_without_food": 20},
    "policy": {"hidden_sizes": [16]},
    "train": {"steps": None},
}


@pytest.fixture(scope="module")
def kind() -> type[Cluster]:
    """Return what pods are here: processes."""
    return Cluster


@pytest.fixture(scope="module")
def cluster(kind: type[Cluster], helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return the pods of the chart, with two of Env and two of Inference, started but for those of `helm test`."""
    manifests = helm.template(CHART, sets={**SETS, **kind.sets})
    try:
        made = kind(manifests, list(pods(manifests)), tmp_path_factory.mktemp("cluster"))
    except NoNetworkError as error:
        pytest.skip(str(error))
    with made:
        for pod in made.pods.values():
            if "-test-" not in pod.pod.name:
                pod.start()
        yield made


@pytest.fixture(scope="module")
def finished(cluster: Cluster) -> RunDirectory:
    """Return the run on the volume of Training, when all that it wants has been learnt."""
    for pod in cluster.running():
        for kind in ("startup", "readiness", "liveness"):
            pod.wait_until(kind)
    directory = RunDirectory(cluster.claims / f"runs-{TRAINING}" / "rattle")
    until = time.monotonic() + 600
    while read_run_row(directory)["status"] == "running":
        assert time.monotonic() < until, cluster.pods[TRAINING].log()
        time.sleep(0.2)
    return directory


def learnt(directory: RunDirectory) -> dict[str, object]:
    """Return what has come of a run, without when and where."""
    row = read_run_row(directory)
    return {key: row[key] for key in ("status", "updates", "env_steps", "episodes", "mean_return", "policy_sha256")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Return the same run of one process, beside its experiment."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    done = run("train", "experiment.yaml", "--run-dir", "alone", cwd=folder)
    assert done.returncode == 0, done.stderr
    return RunDirectory(folder / "alone")


def test_the_policy_is_that_of_one_process(finished: RunDirectory, alone: RunDirectory) -> None:
    ours = learnt(finished)
    assert ours == learnt(alone)
    assert (ours["status"], ours["updates"]) == ("finished", 25)
    assert str(read_run_row(finished)["run_id"]).startswith("rattle-")


def test_plain_manifests_run_to_the_end_of_the_job(
    helm: Helm, alone: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{helm.folder}:{os.environ['PATH']}")
    experiment = alone.path.with_name("experiment.yaml")
    done = run("manifests", str(experiment), "--plain", "--release", "first", "--chart", str(CHART), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifests = [one for one in yaml.safe_load_all(done.stdout) if one]
    manifests.append({"kind": "Secret", "metadata": {"name": "first-token"}, "stringData": {"token": "t" * 43}})
    try:
        made = Cluster(manifests, list(pods(manifests)), tmp_path / "cluster")
    except NoNetworkError as error:
        pytest.skip(str(error))
    with made:
        for pod in made.pods.values():
            pod.start()
        assert made.pods["first-training-0"].wait() == 0, made.pods["first-training-0"].log()
        directory = RunDirectory(made.claims / "runs-first-training-0" / "first")
        assert learnt(directory) == learnt(alone)
        serving = made.pods["first-inference-0"]
        serving.wait_until("liveness")
        assert serving.end() == 0, serving.log()
        said = [json.loads(line) for line in serving.log().splitlines() if line.startswith("{")]
        assert {row["run_id"] for row in said if "event" in row} <= {read_run_row(directory)["run_id"]}


def test_helm_test_passes(cluster: Cluster, finished: RunDirectory) -> None:
    for name in ("rattle-test-check-env", "rattle-test-inference"):
        assert cluster.pods[name].run_to_its_end() == 0, cluster.pods[name].log()
    assert re.search(r"[1-9]\d* passed, 0 failed", cluster.pods["rattle-test-check-env"].log())
    assert "main answers with action [" in cluster.pods["rattle-test-inference"].log()


def test_a_container_writes_to_its_volumes_only_and_is_not_root(cluster: Cluster, finished: RunDirectory) -> None:
    for pod in cluster.running():
        who = pod.run("id", "-u")
        assert who.stdout == b"10001\n", who.stderr
        for place in ("/etc/rattle/other", "/run/secrets/rattle/other", "/usr/other"):
            assert pod.run("touch", place).returncode, place
        assert pod.run("touch", "/tmp/other").returncode == 0  # noqa: S108 (of the pod)
        assert b"\nCapEff:\t0000000000000000\n" in pod.run("cat", "/proc/self/status").stdout
        assert pod.run("stat", "-c", "%a %u", "/run/secrets/rattle/token").stdout == b"440 0\n"
    assert cluster.pods[TRAINING].run("touch", "/runs/other").returncode == 0


def test_pods_that_end_leave_in_peace_and_come_back_to_the_run(cluster: Cluster, finished: RunDirectory) -> None:
    row = learnt(finished)
    training = cluster.pods[TRAINING]
    training.end(SIGKILL)
    training.start()
    training.wait_until("readiness")
    assert learnt(finished) == row
    for pod in cluster.running():
        assert pod.end() == 0, pod.log()


def secret_with_certificates(manifests: list[Manifest], folder: Path) -> Manifest:
    """Return a Secret with a certificate for the names by which the services of a release are asked."""
    ((container, *_),) = [pod.containers for pod in pods(manifests) if pod.name == TRAINING]
    (known,) = [entry["value"] for entry in container["env"] if entry["name"].endswith("__ALLOWED_HOSTS")]
    hosts = [word for name in ("localhost", *yaml.safe_load(known)) for word in ("--host", name)]
    done = run("certificates", "certs", *hosts, cwd=folder)
    assert done.returncode == 0, done.stderr
    files = {"tls.crt": "localhost.pem", "tls.key": "localhost.key", "ca.crt": "authority.pem"}
    content = {key: (folder / "certs" / name).read_text() for key, name in files.items()}
    return {"kind": "Secret", "metadata": {"name": "certificates"}, "stringData": content}


def test_in_lockstep_with_certificates_all_ticks_are_made(kind: type[Cluster], helm: Helm, tmp_path: Path) -> None:
    sets = {"experiment": LOCKSTEP, "inference.replicas": 2, "dashboard.enabled": False, **kind.sets}
    tls = {"tls.enabled": True, "tls.mutual": True, "tls.existingSecret": "certificates"}
    manifests = helm.template(CHART, sets={**sets, **tls})
    manifests.append(secret_with_certificates(manifests, tmp_path))
    try:
        made = kind(manifests, list(pods(manifests)), tmp_path / "cluster")
    except NoNetworkError as error:
        pytest.skip(str(error))
    with made:
        for pod in made.pods.values():
            if "-test-" not in pod.pod.name:
                pod.start()
        for pod in made.running():
            for kind in ("startup", "readiness", "liveness"):
                pod.wait_until(kind)
        history, until = made.claims / "runs-rattle-sync-0" / "history.jsonl", time.monotonic() + 600
        while len(lines := history.read_text().splitlines()) <= 2 * 100:
            assert time.monotonic() < until, made.pods["rattle-sync-0"].log()
            time.sleep(0.2)
        assert {"env-0", "main-0", "main-3"} <= {name for line in lines for name in json.loads(line)["hashes"]}
        assert made.pods["rattle-test-inference"].run_to_its_end() == 0, made.pods["rattle-test-inference"].log()
