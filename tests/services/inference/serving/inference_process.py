"""A real Inference service in a process, serving policy files that a test writes."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rattle.policies.file import StoredPolicy, dump_policy
from tests.processes import ServiceProcess
from tests.services.inference.serving.building import DATATYPES, PATIENCE

JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP, with header names in lower case."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class InferenceProcess(ServiceProcess):
    """The service and ways to ask it over HTTP."""

    @property
    def grpc(self) -> str:
        return str(self.hello["grpc"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def cpu_seconds(self) -> float:
        """Return how long the process has computed."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, Any] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def infer(self, model: str, observation: NDArray[Any], **parameters: Any) -> Answer:
        """Ask for actions, with the numbers as JSON."""
        described = {"name": "observation", "shape": observation.shape, "datatype": DATATYPES[str(observation.dtype)]}
        body = {"inputs": [{**described, "data": observation.ravel().tolist()}], "parameters": parameters}
        return self.ask("POST", f"/v2/models/{model}/infer", json.dumps(body).encode())

    def number(self, metric: str) -> float:
        """Return what /metrics says, 0 for what it does not."""
        for line in self.ask("GET", "/metrics").raw.decode().splitlines():
            if line.startswith(f"{metric} "):
                return float(line.rpartition(" ")[2])
        return 0.0


def write(path: Path, policy: StoredPolicy) -> None:
    """Replace a policy file at once, as training does."""
    beside = path.with_suffix(".new")
    beside.write_bytes(dump_policy(policy))
    beside.rename(path)


@contextmanager
def serving(path: Path, *settings: str) -> Iterator[InferenceProcess]:
    """Serve a policy file."""
    with InferenceProcess("inference", "--policy", str(path), "--grpc-port", "0", settings=settings) as process:
        yield process
