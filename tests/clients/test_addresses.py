"""All clients treat addresses alike: proxies of the environment, credentials, redirects, refusals, lost upgrades."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest

from rattle.clients.addresses import read_address
from rattle.clients.agent_client import AgentClient, AsyncAgentClient, LinkTimeouts
from rattle.clients.errors import ClientError, ConnectionBroken
from rattle.clients.remote_worlds import Patience, RemoteWorlds, ask_spec
from rattle.launch.status_calls import StatusCalls
from rattle.services.inference.training_link import TrainingLink
from rattle.services.utils.protos import training_pb2
from tests.processes import ServiceProcess

LIMITS = LinkTimeouts(retry=0.1)


def _agent(url: str) -> None:
    with AgentClient(url, "anna", LIMITS) as client:
        client.health()


def _agent_stream(url: str) -> None:
    with AgentClient(url, "anna", LIMITS) as client:
        next(client.states())


def _async_agent(url: str) -> None:
    async def ask() -> None:
        async with AsyncAgentClient(url, "anna", LIMITS) as client:
            await client.health()

    asyncio.run(ask())


def _async_agent_stream(url: str) -> None:
    async def ask() -> None:
        async with AsyncAgentClient(url, "anna", LIMITS) as client:
            await client.follow()

    asyncio.run(ask())


def _worlds(url: str) -> None:
    ask_spec(url, Patience(retry_seconds=0.1))


Ask = Callable[[str], None]
ALL = pytest.mark.parametrize("ask", [_agent, _agent_stream, _async_agent, _async_agent_stream, _worlds])


class Server(ThreadingHTTPServer):
    """Answers every request alike and keeps what was asked."""

    status = 200
    headers: tuple[tuple[str, str], ...] = ()
    body = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.authorizations: list[str | None] = []
        self.authority = f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.authorizations.append(self.headers["Authorization"])
        self.send_response(self.server.status)
        for name, value in self.server.headers:
            self.send_header(name, value.replace("PATH", self.path))
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@ALL
def test_credentials_are_sent_and_not_shown(server: Server, ask: Ask) -> None:
    server.status = 401
    with pytest.raises(ClientError, match="wants credentials, as in http://USER:PASSWORD@HOST:PORT") as caught:
        ask(f"http://anna:s%40cret@{server.authority}")
    assert "cret" not in str(caught.value)
    assert set(server.authorizations) == {"Basic YW5uYTpzQGNyZXQ="}


@ALL
def test_a_name_that_a_server_is_not_known_by_is_said_in_its_words(server: Server, ask: Ask) -> None:
    server.status, server.body = 403, b'{"code": "forbidden", "detail": "not known as gpu-box"}'
    with pytest.raises(ClientError, match="not known as gpu-box") as caught:
        ask(f"http://{server.authority}")
    assert "credentials" not in str(caught.value)


@ALL
def test_a_redirect_names_the_address_to_use(server: Server, ask: Ask) -> None:
    server.status, server.headers = 301, (("Location", "https://u:hidden@elsewhere.example/rattlePATH"),)
    with pytest.raises(ClientError, match=r"has moved to https://elsewhere.example/rattle: use that address"):
        ask(f"http://{server.authority}")


@ALL
@pytest.mark.parametrize("status", [206, 304])
def test_a_status_that_fits_no_answer_is_named(server: Server, ask: Ask, status: int) -> None:
    server.status = status
    with pytest.raises(ClientError, match=f"answered with status {status} where 200 belongs"):
        ask(f"http://{server.authority}")


@ALL
def test_what_a_server_says_is_printable_and_short(server: Server, ask: Ask) -> None:
    server.status, server.body = 418, b'{"detail": "SECRET \\u001b]0;owned\\u0007 \\n line' + b"x" * 5000 + b'"}'
    with pytest.raises(ClientError) as caught:
        ask(f"http://{server.authority}")
    said = str(caught.value)
    assert "SECRET" in said
    assert said.isprintable()
    assert len(said) < 500


@ALL
@pytest.mark.parametrize(
    "url", ["ftp://u:hidden@host", "http://u:hidden@host:port", "u:hidden@host", "http://u:hid/den@h"]
)
def test_a_wrong_address_shows_no_password(ask: Ask, url: str) -> None:
    with pytest.raises(ClientError) as caught:
        ask(url)
    assert "hid" not in str(caught.value)


@ALL
def test_proxies_of_the_environment_are_not_taken(server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 418
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ClientError, match="answered 418"):
        ask(f"http://{server.authority}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for localhost that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    named = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", made)
    subprocess.run([*command, *named], check=True, capture_output=True)
    return made, key


@ALL
def test_a_certificate_that_is_not_accepted_is_said_at_once_with_advice(
    server: Server, ask: Ask, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # handshakes fail here
    port = server.server_address[1]
    with pytest.raises(ClientError, match=r"not accepted: self.signed certificate: name .* SSL_CERT_FILE") as e:
        ask(f"https://localhost:{port}")
    assert not isinstance(e.value, ConnectionBroken), "which is tried again"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with pytest.raises(ClientError, match=r"is not accepted: .*mismatch.*'127.0.0.1'") as e:
        ask(f"https://127.0.0.1:{port}")
    assert "SSL_CERT_FILE" not in str(e.value)
    server.status = 418
    with pytest.raises(ClientError, match="answered 418"):
        ask(f"https://localhost:{port}")


@ALL
def test_a_server_without_tls_is_said_to_be_one(server: Server, ask: Ask) -> None:
    with pytest.raises(ClientError, match=r"https://127.0.0.1:\d+ does not speak TLS: write it as http://") as caught:
        ask(f"https://{server.authority}")
    assert not isinstance(caught.value, ConnectionBroken)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_grpc_takes_no_proxy_either(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, ThreadPoolExecutor(1) as threads:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        server = grpc.server(threads)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        link = TrainingLink(address, 2**20)
        with pytest.raises(grpc.RpcError) as caught:
            link.stub.GetStatus(training_pb2.GetStatusRequest(), timeout=10)
        link.close()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # says the server itself

        async def ask() -> None:
            async with StatusCalls() as calls:
                assert await calls.ask(address) is None

        asyncio.run(ask())
        server.stop(None).wait()
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@contextmanager
def dropping_upgrades(target: str) -> Iterator[str]:
    """Run a proxy that forwards requests without their Upgrade, as nginx does by default; yields its URL."""
    upstream = read_address(target)

    def carry(source: socket.socket, sink: socket.socket, edit: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(edit(data))
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def without_upgrade(data: bytes) -> bytes:
        return re.sub(rb"(?i)\r\n(Upgrade|Connection|Sec-WebSocket-[A-Za-z]+):[^\r]*", b"", data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((upstream.host, upstream.port))
                ends.extend((client, server))
                for ways in ((client, server, without_upgrade), (server, client, bytes)):
                    threading.Thread(target=carry, args=ways, daemon=True).start()

    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for end in ends:
        end.close()


def test_worlds_are_played_by_requests_where_upgrades_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with ServiceProcess("env") as env, dropping_upgrades(env.url) as url:
        direct, proxied = RemoteWorlds(env.url, 3, seed=5), RemoteWorlds(url, 3, seed=5)
        another = RemoteWorlds(url, 3, seed=5)
        for _ in range(20):
            action = np.ones(proxied.num_slots, np.int64)
            for worlds in (direct, proxied, another):
                worlds.step(action)
            np.testing.assert_array_equal(direct.observation, proxied.observation)
        for worlds in (direct, proxied, another):
            worlds.close()
    said = [record.getMessage() for record in caplog.records if "no WebSocket passes" in record.getMessage()]
    assert len(said) == 1
    assert "proxy_set_header Upgrade $http_upgrade" in said[0]
