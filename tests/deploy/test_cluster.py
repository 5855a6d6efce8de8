"""The commands of the cold setup on a cluster, against stand-ins of kubectl and helm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import validate

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
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, command: str, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        known = {"PATH": str(self.folder / "bin"), "FAKE_CLUSTER": str(self.folder), "HOME": str(self.folder)}
        return subprocess.run(
            [ROOT / "scripts" / "cluster.sh", command],
            env={**known, **self.variables, **variables},
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
        return {key: value for one in both for key, value in one["values"].items() if "username" not in key}

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
        "upgrade --install rattle-data k8s/data-stack",
        "upgrade --install rattle k8s/platform",
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
    (telemetry,) = cluster.state["releases"]["rattle"]["values"]
    assert yaml.safe_load(telemetry)["telemetry"]["existingSecret"] == "rattle-data-credentials"
    cluster.works("quick-deploy")
    assert cluster.secrets == first
    assert cluster.state["namespaces"] == ["rattle"]


def test_an_upgrade_keeps_what_was_set_before(cluster: Cluster) -> None:
    own = cluster.folder / "own.yaml"
    own.write_text("experiment: mine\n")
    cluster.works("quick-deploy", REGISTRY="registry.example.org/me", TAG="1.2", VALUES=str(own))
    cluster.works("upgrade", TAG="1.3")
    release = cluster.state["releases"]["rattle"]
    assert release["sets"] == {"image.registry": "registry.example.org/me", "image.tag": "1.3"}
    assert own.read_text() in release["values"]
    cluster.works("deploy", TAG="1.4")  # begins anew, as it says
    assert cluster.state["releases"]["rattle"]["sets"] == {"image.tag": "1.4"}


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
        (["template", "k8s/data-stack"], "k8s/data-stack does not take these values"),
        (["template", "k8s/platform"], "k8s/platform does not take these values"),
        (["upgrade", "k8s/data-stack"], "release rattle-data was not installed"),
        (["upgrade", "k8s/platform"], "release rattle was not installed"),
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
    for verb in ("health", "create-tables", "how-to-connect", "passwords", "port-forward", "upgrade"):
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


@pytest.mark.integration
@pytest.mark.promised
class TestWithTheChartsThemselves:
    """Names and Secrets are those of the charts with the values that they are given."""

    @pytest.fixture
    def cluster(self, cluster: Cluster, helm: Helm) -> Cluster:
        cluster.variables = {"REAL_HELM": str(helm.folder / "helm")}
        return cluster

    @staticmethod
    def given(cluster: Cluster, values: dict[str, Any], data: dict[str, Any]) -> None:
        """Give both charts values."""
        for variable, name, one in (("VALUES", "mine", values), ("DATA_VALUES", "data", data)):
            (cluster.folder / name).write_text(yaml.safe_dump(one))
            cluster.variables[variable] = str(cluster.folder / name)

    @staticmethod
    def keep(cluster: Cluster, **secrets: dict[str, str]) -> None:
        """Have Secrets of the user's own in the cluster."""
        path = cluster.folder / "state.json"
        state = json.loads(path.read_text())
        state["secrets"] |= {name: {"labels": {}, "values": values} for name, values in secrets.items()}
        path.write_text(json.dumps(state))

    def test_what_is_installed_has_its_addresses_and_passwords(self, cluster: Cluster) -> None:
        cluster.works("quick-deploy")
        assert set(cluster.state["secrets"]) == {"rattle-token", "rattle-data-credentials"}
        said = cluster.works("how-to-connect")
        for name, port in (("dashboard", 8080), ("env-any", 5000), ("inference-any", 8000), ("data-clickhouse", 8123)):
            assert f"port-forward service/rattle-{name} {port}\n" in said
            assert f"http://127.0.0.1:{port}" in said
        assert "elsewhere" not in said
        shown = cluster.works("passwords")
        values = cluster.state["secrets"]["rattle-data-credentials"]["values"]
        assert dict(line.split() for line in shown.splitlines()[1:]) == values

    def test_services_of_others_have_no_secret_of_ours_and_are_named(self, cluster: Cluster) -> None:
        cluster.works("secrets")
        left = cluster.secrets  # of which nobody reads all when services of others are used
        self.given(cluster, {}, yaml.safe_load((ROOT / "k8s/data-stack/values-external.yaml").read_text()))
        where = "users of RabbitMQ and ClickHouse: in your Secret telemetry\n"
        assert where in cluster.works("secrets")
        cluster.works("deploy")
        shown = cluster.works("passwords")
        assert where in shown
        assert left["token"] in shown
        assert not any(left[key] in shown for key in ("rabbitmq-password", "clickhouse-password"))
        said = cluster.works("how-to-connect")
        assert "8123" not in said
        assert "elsewhere, at clickhouse.data.svc, user and password in your Secret telemetry\n" in said
        copy = cluster.folder / "copy"
        assert "back the store up where it runs" in cluster.works("backup", TO=str(copy))
        assert [one.name for one in copy.iterdir()] == ["rattle-training.tar"]
        (copy / "clickhouse.zip").touch()
        assert "rattle-data has no ClickHouse" in cluster.refuses("restore", "RESTORE\n", FROM=str(copy))
        cluster.works("destroy", "DELETE\n")
        cluster.works("secrets")
        assert set(cluster.state["secrets"]) == {"rattle-token"}

    def test_other_names_are_found(self, cluster: Cluster) -> None:
        self.given(cluster, {"fullnameOverride": "games"}, {"fullnameOverride": "kept"})
        for verb in ("secrets", "deploy", "create-tables"):
            cluster.works(verb)
        assert set(cluster.state["secrets"]) == {"games-token", "kept-credentials"}
        (tables,) = [call for call in cluster.calls if "create-tables" in call[-1]]
        assert "deployment.apps/games-ingest" in tables
        token, password = cluster.secrets["token"], cluster.secrets["clickhouse-password"]
        said = cluster.works("how-to-connect")
        assert "service/games-dashboard 8080" in said
        assert "service/kept-clickhouse 8123" in said
        assert token in said
        assert {token, password} <= set(cluster.works("passwords").split())
        folder = cluster.folder / "copy"
        cluster.works("backup", TO=str(folder))
        assert {one.name for one in folder.iterdir()} == {"games-training.tar", "clickhouse.zip"}
        cluster.works("restore", "RESTORE\n", FROM=str(folder))
        asked = [call[call.index("--") - 1] for call in cluster.calls if "tar -C /runs -cf" in call[-1]]
        assert asked == ["training"]
        cluster.works("destroy", "DELETE\n")
        assert cluster.state["secrets"] == {}

    def test_secrets_of_the_users_own_are_read_and_left_alone(self, cluster: Cluster) -> None:
        own = {"security": {"token": {"existingSecret": "mine"}}}
        self.given(cluster, own, {"credentials": {"existingSecret": "theirs"}})
        said = cluster.works("init") + cluster.works("secrets")
        assert cluster.state["secrets"] == {}
        assert "token: in your Secret mine\n" in said
        assert "users of RabbitMQ and ClickHouse: in your Secret theirs\n" in said
        self.keep(cluster, mine={"token": "own-token"}, theirs={"clickhouse-password": "own-password"})
        cluster.works("deploy")
        assert "#token=own-token\n" in cluster.works("how-to-connect")
        shown = cluster.works("passwords")
        assert "own-" not in shown
        assert "token: in your Secret mine\n" in shown
        cluster.works("destroy", "DELETE\n")
        assert set(cluster.state["secrets"]) == {"mine", "theirs"}

    def test_without_a_token_none_is_made_or_shown(self, cluster: Cluster) -> None:
        self.given(cluster, {"security": {"token": {"enabled": False}}, "dashboard": {"enabled": False}}, {})
        assert "token: none is asked for\n" in cluster.works("secrets")
        cluster.works("deploy")
        assert set(cluster.state["secrets"]) == {"rattle-data-credentials"}
        said = cluster.works("how-to-connect")
        assert "http://127.0.0.1:5000/watch\n" in said
        assert "dashboard" not in said
        assert "Bearer" not in said
        assert cluster.works("passwords").startswith("token: none is asked for\n")

    def test_certificates_go_with_the_release(self, cluster: Cluster) -> None:
        self.given(cluster, {"tls": {"enabled": True, "certManager": {"enabled": True}}}, {})
        cluster.works("deploy")
        assert {"rattle-tls", "rattle-authority"} <= set(cluster.state["secrets"])
        self.keep(cluster, mine={"token": "own"})
        assert "certificates" in cluster.works("destroy", "DELETE\n")
        assert set(cluster.state["secrets"]) == {"mine"}

    def test_the_pod_that_restores_is_pulled_and_placed_as_training_is(self, cluster: Cluster) -> None:
        self.given(cluster, yaml.safe_load((ROOT / "k8s/platform/values-everything.yaml").read_text()), {})
        cluster.works("deploy")
        folder = cluster.folder / "copy"
        cluster.works("backup", TO=str(folder))
        cluster.works("restore", "RESTORE\n", FROM=str(folder))
        pods = cluster.state["pods"]
        assert [pod["metadata"]["name"] for pod in pods] == ["rattle-training-volume", "rattle-training-1-volume"]
        objects = cluster.state["releases"]["rattle"]["objects"]
        for pod in pods:
            validate(pod)
            name = pod["metadata"]["name"].removesuffix("-volume")
            (training,) = [one for one in objects if one["metadata"]["name"] == name and one["kind"] == "StatefulSet"]
            like = training["spec"]["template"]["spec"]
            for one in ("imagePullSecrets", "nodeSelector", "tolerations", "securityContext", "serviceAccountName"):
                assert pod["spec"][one] == like[one]
            assert pod["spec"]["containers"][0]["image"] == like["containers"][0]["image"]
