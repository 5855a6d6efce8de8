"""A log line's way from a pod to a row of the store, by the commands and variables of the chart."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rattle.tokens import make_token
from tests.clickhouse import ClickHouse
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import Manifest, Pod, expand, find, pods, variables
from tests.deploy.pods import command_of
from tests.ports import free_port
from tests.rabbitmq import PASSWORD, USER, RabbitMQ, needs_rabbitmq

pytestmark = needs_rabbitmq


def started(pod: Pod, container: dict[str, Any], manifests: list[Manifest], folder: Path) -> subprocess.Popen[str]:
    """Start a container as a process here, at the address of this machine."""
    known = variables(pod, container, manifests) | {"RATTLE_SECURITY__TOKEN_FILE": str(folder / "token")}
    words = [expand(word, known) for word in [*command_of(container), *container["args"]]]
    if words[0] == "python":
        script = folder / Path(words[1]).name
        script.write_text(find(manifests, "ConfigMap", "rattle-tests")["data"][script.name])
        command = [sys.executable, str(script)]
    else:
        listen = {"0.0.0.0": "127.0.0.1", "8006": str(free_port())}  # noqa: S104 (of the pod)
        command = [str(Path(sys.executable).with_name("rattle")), *(listen.get(word, word) for word in words[1:])]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **known}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def test_a_log_line_becomes_a_row(helm: Helm, rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    with ClickHouse(tmp_path / "store") as store:
        sets = {
            "telemetry.enabled": True,
            "telemetry.broker": {"host": "127.0.0.1", "port": rabbitmq.gate.port},
            "telemetry.store": {"host": "127.0.0.1", "port": store.port, "database": "default"},
            "telemetry.existingSecret": "credentials",
            "extraEnv": [{"name": "RATTLE_TELEMETRY__EXCHANGE", "value": exchange}],
        }
        manifests = helm.template(ROOT / "k8s" / "platform", sets=sets)
        said = {"rabbitmq-username": USER, "rabbitmq-password": PASSWORD}
        said |= {"clickhouse-username": "rattle", "clickhouse-password": "secret"}
        data = {key: base64.b64encode(value.encode()).decode() for key, value in said.items()}
        manifests.append({"kind": "Secret", "metadata": {"name": "credentials"}, "data": data})
        make_token(tmp_path / "token")
        by_name = {pod.name: pod for pod in pods(manifests)}
        ingest, asked = by_name["rattle-ingest-0"], by_name["rattle-test-telemetry"]
        making = started(ingest, ingest.spec["initContainers"][0], manifests, tmp_path)
        assert making.communicate(timeout=120)[0].strip().endswith(tuple("0123456789"))
        assert making.returncode == 0
        taking = started(ingest, ingest.spec["containers"][0], manifests, tmp_path)
        try:
            looking = started(asked, asked.spec["containers"][0], manifests, tmp_path)
            words = looking.communicate(timeout=200)[0]
            assert looking.returncode == 0, words
            assert "a log line was a row of the store after" in words
            taking.terminate()
            output, _ = taking.communicate(timeout=60)
            assert taking.returncode == 0, output
        finally:
            taking.kill()
            taking.communicate()
