"""The command by which containers ask their service how it is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from rattle.certificates import make_set
from rattle.services.utils import health
from rattle.services.utils.grpc_health import HealthServices
from rattle.services.utils.grpc_serving import bind, make_server
from rattle.services.utils.guard import Guard
from rattle.settings.services import SecuritySection
from tests.processes import ServiceProcess

HOST = "gpu-box.example.org"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where services of this test write where they listen."""
    path = tmp_path / "address.json"
    monkeypatch.setenv(health.VARIABLE, str(path))
    return path


@pytest.fixture
def mutual_tls(tmp_path: Path) -> tuple[str, ...]:
    """Settings of a service that asks all clients for a certificate, at a name that leads nowhere."""
    authority, certificate, key = make_set(tmp_path / "certificates", [HOST])
    paths = {"authority": authority, "certificate": certificate, "private_key": key}
    own = tuple(f"security.{name}={path}" for name, path in paths.items())
    return (*own, "security.mutual=true", f"security.allowed_hosts=[{HOST}]", "security.trust_network=true")


def ask(*arguments: str) -> tuple[int, str]:
    """Run the command as a container does, and return its exit status and what it said."""
    command = [sys.executable, "-m", "rattle.services.utils.health", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_service_is_well_until_it_is_killed(file: Path) -> None:
    assert ask() == (1, "the service is starting: it listens nowhere yet\n")
    with ServiceProcess("mock-env", "--host", "0.0.0.0", settings=("security.trust_network=true",)) as service:  # noqa: S104
        assert service.hello["url"].endswith(f":{json.loads(file.read_text())['port']}")
        assert [ask(), ask("--ready")] == [(0, ""), (0, "")]
        service.kill()
        assert ask()[0] == 1


def test_nobody_can_be_asked_without_the_file(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.write_text("{")
    status, said = ask()
    assert (status, said.count("\n")) == (1, 1)
    assert f"cannot read {file}" in said
    monkeypatch.delenv(health.VARIABLE)
    assert ask() == (1, "ADDRESS_FILE names no file, so nobody knows where the service listens\n")


def test_a_service_with_mutual_tls_is_asked_with_its_own_certificate(file: Path, mutual_tls: tuple[str, ...]) -> None:
    with ServiceProcess("mock-env", "--host", "0.0.0.0", settings=mutual_tls) as service:  # noqa: S104
        assert service.hello["url"].startswith(f"https://{HOST}:")
        assert [ask(), ask("--ready")] == [(0, ""), (0, "")]


@pytest.mark.integration
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "mutual TLS"])
def test_training_is_asked_over_grpc(file: Path, mutual_tls: tuple[str, ...], secured: bool, tmp_path: Path) -> None:
    settings = mutual_tls if secured else ("security.trust_network=true",)
    arguments = ("--host", "0.0.0.0", "--run-dir", str(tmp_path / "run"))  # noqa: S104
    with ServiceProcess("training", *arguments, settings=settings) as service:
        assert [ask(), ask("--ready")] == [(0, ""), (0, "")]
        service.kill()
        assert ask() == (1, f"no answer at port {json.loads(file.read_text())['port']}: UNAVAILABLE\n")


@pytest.fixture
def unready(file: Path) -> Iterator[int]:
    """Serve what lives and is not ready, and return its port."""

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": 503, "title": "Not ready", "detail": "the store\nis away"}).encode()
            self.send_response(200 if self.path == "/healthz" else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        health.tell_address("http", "0.0.0.0", server.server_port, None)  # noqa: S104
        yield server.server_port
        server.shutdown()


def test_to_live_is_not_to_be_ready(unready: int, file: Path) -> None:
    assert ask() == (0, "")
    assert ask("--ready") == (1, "/readyz answers 503: the store is away\n")
    file.write_text(json.dumps({"protocol": "http", "host": "127.0.0.1", "port": 1}))
    status, said = ask()
    assert (status, said.startswith("no answer at port 1: ")) == (1, True)


def test_a_grpc_server_that_lives_may_serve_what_is_not_ready(file: Path) -> None:
    begun, over = Event(), Event()

    async def serve() -> None:
        server = make_server(2**16, 10, Guard("127.0.0.1", SecuritySection()))
        port = int(bind(server, "127.0.0.1", 0).rpartition(":")[2])
        await HealthServices(server, ["rattle.v1.Training"], 2**16, lambda: False).say(serving=True)
        await server.start()
        health.tell_address("grpc", "127.0.0.1", port, None, "rattle.v1.Training")
        begun.set()
        await asyncio.to_thread(over.wait)
        await server.stop(0)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    begun.wait()
    try:
        assert [ask(), ask("--ready")] == [(0, ""), (1, "the service is NOT_SERVING\n")]
    finally:
        over.set()
        thread.join()


def test_a_service_goes_on_where_its_address_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(health.VARIABLE, os.devnull + "/no/folder")
    health.tell_address("http", "127.0.0.1", 5000, None)
