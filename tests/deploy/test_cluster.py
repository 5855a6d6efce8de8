"""The commands of the cold setup on a cluster, against stand-ins of kubectl and helm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.helm import ROOT

#: What the scripts need besides kubectl and helm.
TOOLS = (
    *("bash", "base64", "cat", "date", "dirname", "env", "grep", "head", "mkdir", "mktemp", "mv"),
    *("rm", "sed", "sh", "sleep", "tr", "wc"),
)
VERBS = (
    *("quick-deploy", "init", "secrets", "deploy", "health", "create-tables", "how-to-connect", "status"),
    *("logs", "passwords", "port-forward", "upgrade", "backup", "restore", "destroy"),
)


@dataclass
class Cluster:
    """A folder with the programs and what they keep."""

    folder: Path

    def run(self, command: str, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        known = {"PATH": str(self.folder / "bin"), "FAKE_CLUSTER": str(self.folder), "HOME": str(self.folder)}
        return subprocess.run(
            [ROOT / "scripts" / "cluster.sh", command],
            env={**known, **variables},
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def works(self, command: str, typed: str = "", **variables: str) -> str:
        done = self.run(command, typed, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refuses(self, command: str, typed: str = "", **variables: str) -> str:
        """Return the one line that says why a command has failed."""
        done = self.run(command, typed, **variables)
        assert done.returncode == 1, done.stdout
        (line,) = [line for line in done.stderr.splitlines() if line != "Error: as the test wants it"]
        return line

    def fail(self, *words: str) -> None:
        (self.folder / "faults.json").write_text(json.dumps([words] if words else []))

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    @property
    def secrets(self) -> dict[str, str]:
        both = self.state["secrets"].values()
        return {key: value for one in both for key, value in one["stringData"].items() if "username" not in key}

    def order(self, *marks: str) -> list[str]:
        """Return which marks calls had, in their order, each once."""
        found = [mark for call in self.calls for mark in marks if mark in " ".join(call)]
        return list(dict.fromkeys(found))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    for name in ("kubectl", "helm"):
        text = (ROOT / "tests" / "deploy" / "cluster_stand_in.py").read_text()
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    return Cluster(tmp_path)


def test_quick_deploy_goes_in_order_and_a_second_one_keeps_passwords(cluster: Cluster) -> None:
    assert "make how-to-connect" in cluster.works("quick-deploy", REGISTRY="registry.example.org/me", TAG="1.2")
    marks = (
        "create namespace",
        "create --filename",
        "k8s/data-stack",
        "k8s/platform",
        "rollout status",
        "create-tables",
    )
    assert cluster.order(*marks) == list(marks)
    first = cluster.secrets
    assert len(first) == len(set(first.values())) == 3
    assert all(value.isalnum() and len(value) >= 32 for value in first.values())
    words = cluster.state["releases"]["rattle"]["words"]
    assert "image.registry=registry.example.org/me" in words
    assert "image.tag=1.2" in words
    assert cluster.state["releases"]["rattle"]["values"] == ["telemetry: {enabled: true}\n"]
    cluster.works("quick-deploy")
    assert cluster.secrets == first
    assert cluster.state["namespaces"] == ["rattle"]


def test_no_password_is_in_an_argument_or_an_output(cluster: Cluster) -> None:
    said = [cluster.works(verb) for verb in ("quick-deploy", "upgrade", "status", "logs", "health")]
    said += [cluster.works("backup", TO=str(cluster.folder / "copy")), json.dumps(cluster.calls)]
    shown = cluster.works("passwords")
    for secret in cluster.secrets.values():
        assert not any(secret in text for text in said)
        assert secret in shown
    assert cluster.secrets["token"] in cluster.works("how-to-connect")
    assert not any(secret in json.dumps(cluster.calls) for secret in cluster.secrets.values())


@pytest.mark.parametrize("program", ["kubectl", "helm"])
def test_a_missing_program_is_said_before_anything_is_done(cluster: Cluster, program: str) -> None:
    (cluster.folder / "bin" / program).unlink()
    for verb in VERBS:
        assert cluster.refuses(verb).startswith(f"Error: {program} is missing: https://")
    assert not cluster.calls


def test_no_cluster_is_said_in_one_line(cluster: Cluster) -> None:
    cluster.fail("/version")
    assert "the cluster of lab does not answer" in cluster.refuses("quick-deploy", KUBE_CONTEXT="lab")
    assert len(cluster.calls) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "namespace"], "namespace rattle cannot be made"),
        (["create", "--filename"], "Secret rattle-token cannot be made"),
        (["k8s/data-stack"], "release rattle-data was not installed"),
        (["k8s/platform"], "release rattle was not installed"),
        (["rollout", "rattle-training"], "rattle-training is not ready after 10m"),
        (["exec", "create-tables"], "the tables were not made"),
    ],
)
def test_a_failure_half_way_is_named_and_the_next_run_ends_it(cluster: Cluster, words: list[str], said: str) -> None:
    cluster.fail(*words)
    assert said in cluster.refuses("quick-deploy")
    marks = [call for call in cluster.calls if all(any(word in one for one in call) for word in words)]
    assert marks
    cluster.fail()
    cluster.works("quick-deploy")


def test_every_call_names_namespace_and_context(cluster: Cluster) -> None:
    names = {"NAMESPACE": "games", "KUBE_CONTEXT": "lab"}
    cluster.works("quick-deploy", **names)
    for program, *words in cluster.calls:
        flag = "--context" if program == "kubectl" else "--kube-context"
        assert words[:4] == [flag, "lab", "--namespace", "games"]
    assert "--context lab --namespace games port-forward service/rattle-dashboard" in cluster.works(
        "how-to-connect", **names
    )


def test_what_needs_an_installation_says_how_to_get_one(cluster: Cluster) -> None:
    for verb in ("health", "create-tables", "how-to-connect", "port-forward", "upgrade"):
        assert "make deploy" in cluster.refuses(verb)


def test_values_are_handed_to_their_charts(cluster: Cluster) -> None:
    for name in ("mine", "data"):
        (cluster.folder / name).write_text(name)
    cluster.works("deploy", VALUES=str(cluster.folder / "mine"), DATA_VALUES=str(cluster.folder / "data"))
    assert cluster.state["releases"]["rattle"]["values"][-1] == "mine"
    assert cluster.state["releases"]["rattle-data"]["values"] == ["data"]


def test_destroy_says_what_is_lost_and_wants_the_word(cluster: Cluster) -> None:
    cluster.works("quick-deploy")
    for typed in ("", "delete\n", "yes\n", "DELETE it\n"):
        assert cluster.refuses("destroy", typed) == "Error: nothing was changed"
    assert not [call for call in cluster.calls if "uninstall" in call or "delete" in call]
    said = cluster.works("destroy", "DELETE\n")
    assert "all runs, checkpoints and policies" in said
    assert cluster.state["releases"] == cluster.state["secrets"] == {}
    cluster.works("destroy", "DELETE\n")  # what is gone already is no error


def test_a_copy_comes_back(cluster: Cluster) -> None:
    cluster.works("quick-deploy")
    folder = cluster.folder / "copy"
    cluster.works("backup", TO=str(folder))
    assert {one.name: one.read_text() for one in folder.iterdir()} == {
        "rattle-training.tar": "runs of old",
        "clickhouse.zip": "store of old",
    }
    assert folder.stat().st_mode & 0o077 == 0
    assert "is there already" in cluster.refuses("backup", TO=str(folder))
    assert cluster.refuses("restore", "yes\n", FROM=str(folder)) == "Error: nothing was changed"
    cluster.works("restore", "RESTORE\n", FROM=str(folder))
    files = cluster.state["files"]
    assert (files["runs"], files["store"]) == ("runs of old", "store of old")
    assert cluster.state["scaled"] == [["statefulset.apps/rattle-training", number] for number in ("0", "1")]


@pytest.mark.parametrize(("job", "said"), [("ready", "is ready"), ("Complete", "is complete")])
def test_training_may_be_a_job(cluster: Cluster, job: str, said: str) -> None:
    (cluster.folder / "job").write_text(job)
    assert f"rattle-training {said}\n" in cluster.works("quick-deploy")
    folder = cluster.folder / "copy"
    cluster.works("backup", TO=str(folder))
    assert (folder / "rattle-training.tar").read_text() == "runs of old"
    (copied,) = [call for call in cluster.calls if "exec" in call and "tar -C /runs -cf" in call[-1]]
    held = "pod/rattle-training-volume"
    assert ("pod/rattle-training-x7" if job == "ready" else held) in copied, "a Job that has ended has no pod"
    ended = cluster.works("restore", "RESTORE\n", FROM=str(folder))
    assert ("kubectl delete job/rattle-training" in ended) == (job == "Complete")
    assert cluster.state["files"]["runs"] == "runs of old"
    assert cluster.state["scaled"] == [["job.batch/rattle-training", suspend] for suspend in (True, False)]
    marks = ("delete pod/rattle-training-x7", f"exec --stdin {held}", "delete pod rattle-training-volume\n")
    called = "".join(f"{' '.join(call)}\n" for call in cluster.calls)
    assert [mark in called for mark in marks] == [job == "ready", True, True]


@pytest.mark.parametrize(("job", "patience"), [("Failed", "10m"), ("", "0s")])
def test_a_job_that_is_not_as_it_should_be_is_named(cluster: Cluster, job: str, patience: str) -> None:
    (cluster.folder / "job").write_text(job)
    said = cluster.refuses("quick-deploy", TIMEOUT=patience)
    assert f"rattle-training is not ready after {patience}, or has failed: kubectl" in said


def test_a_copy_that_breaks_off_is_none(cluster: Cluster) -> None:
    cluster.works("quick-deploy")
    cluster.fail("exec", "tar -C /runs -cf")
    folder = cluster.folder / "copy"
    assert "were not copied" in cluster.refuses("backup", TO=str(folder))
    assert not list(folder.glob("*.tar"))
    assert "has no copy" in cluster.refuses("restore", FROM=str(folder))
    assert "make restore FROM=" in cluster.refuses("restore")


def test_a_restore_that_breaks_off_starts_nothing_on_half_a_run(cluster: Cluster) -> None:
    cluster.works("quick-deploy")
    folder = cluster.folder / "copy"
    cluster.works("backup", TO=str(folder))
    cluster.fail("exec", "tar -C /runs -xf")
    assert "stays stopped: run make restore again" in cluster.refuses("restore", "RESTORE\n", FROM=str(folder))
    assert cluster.state["scaled"][-1][1] == "0"
    cluster.fail()
    cluster.works("restore", "RESTORE\n", FROM=str(folder))
    assert cluster.state["scaled"][-1][1] == "1"


def test_make_lists_every_target_and_hands_variables_on(cluster: Cluster) -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for verb in (*VERBS, "up", "down", "train"):
        assert f"  make {verb} " in said
    environment = {"PATH": f"{cluster.folder / 'bin'}:{os.environ['PATH']}", "FAKE_CLUSTER": str(cluster.folder)}
    subprocess.run(["make", "init", "TARGET=k8s", "NAMESPACE=games"], cwd=ROOT, env=environment, check=True)
    assert cluster.state["namespaces"] == ["games"]
    subprocess.run(["make", "secrets", "RELEASE=mine", "NAMESPACE=games"], cwd=ROOT, env=environment, check=True)
    assert "mine-token" in cluster.state["secrets"]
