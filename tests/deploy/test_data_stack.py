"""The chart data-stack: its users, and the values by which the chart platform finds it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import find, of_kind, pods, variables
from tests.rabbitmq import PASSWORD, USER, RabbitMQ, needs_rabbitmq

pytestmark = [pytest.mark.integration, pytest.mark.promised]

CHART = ROOT / "k8s" / "data-stack"


@pytest.mark.parametrize("name", ["", "dev", "external", "everything"])
def test_the_platform_takes_the_values_that_lead_to_it(helm: Helm, tmp_path: Path, name: str) -> None:
    values = [CHART / f"values-{name}.yaml"] if name else []
    made = helm.template(CHART, *values, release="rattle-data")
    (text,) = (one["data"]["values.yaml"] for one in of_kind(made, "ConfigMap") if "values.yaml" in one["data"])
    (tmp_path / "telemetry.yaml").write_text(text)
    assert of_kind(helm.template(ROOT / "k8s" / "platform", tmp_path / "telemetry.yaml"), "StatefulSet")
    about = yaml.safe_load(text)["telemetry"]
    if name != "external":
        for place in (about["broker"], about["store"]):
            service = find(made, "Service", place["host"])
            assert place["port"] in [port["port"] for port in service["spec"]["ports"]]
    if name in {"", "dev"}:
        assert "clickhouse-password" in find(made, "Secret", about["existingSecret"])["data"]


def test_servers_start_with_the_passwords_of_the_secret_and_show_them_nowhere_else(helm: Helm) -> None:
    made = helm.template(CHART, release="rattle-data")
    held = {pod.name: variables(pod, pod.spec["containers"][0], made) for pod in pods(made)}
    passwords = {
        held["rattle-data-rabbitmq-0"]["RABBITMQ_DEFAULT_PASS"],
        held["rattle-data-clickhouse-0"]["CLICKHOUSE_PASSWORD"],
    }
    assert len(passwords) == 2
    assert all(one.isalnum() and len(one) == 32 for one in passwords)
    rest = str([one for one in made if one["kind"] != "Secret"])
    assert not any(one in rest for one in passwords)
    users = find(made, "ConfigMap", "rattle-data-clickhouse")["data"]["users.xml"]
    assert '<default remove="remove"/>' in users
    assert "GRANT ALL ON rattle.*" in users


def test_wrong_values_are_refused_by_name(helm: Helm) -> None:
    external = CHART / "values-external.yaml"
    assert "needs credentials.existingSecret" in helm.refusal(CHART, external, sets={"credentials.existingSecret": ""})
    assert "external.store.host" in helm.refusal(CHART, external, sets={"external.store.host": ""})
    assert "mode" in helm.refusal(CHART, sets={"mode": "bitnami"})
    assert "clickhouseUsername" in helm.refusal(CHART, sets={"credentials.clickhouseUsername": "<a>"})


class TestTheUserOfRabbitMQ:
    pytestmark = needs_rabbitmq

    @pytest.mark.parametrize(("password", "status"), [(PASSWORD, 0), (f"{PASSWORD}x", 1)])
    def test_helm_test_logs_in(self, helm: Helm, rabbitmq: RabbitMQ, password: str, status: int) -> None:
        (pod,) = of_kind(helm.template(CHART, release="rattle-data"), "Pod")
        (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "rabbitmq"]
        assert {one["name"] for one in container["env"]} == {"RABBITMQ_USERNAME", "RABBITMQ_PASSWORD"}
        *words, script = container["command"]
        script = script.replace("rattle-data-rabbitmq/5672", f"127.0.0.1/{rabbitmq.gate.port}")
        known = {"PATH": os.environ["PATH"], "RABBITMQ_USERNAME": USER, "RABBITMQ_PASSWORD": password}
        done = subprocess.run([*words, script], env=known, capture_output=True, timeout=60, check=False)
        said = b"RabbitMQ refuses user or password\n" if status else b"RabbitMQ takes user and password\n"
        assert (done.returncode, done.stdout, done.stderr) == (status, said, b"")
