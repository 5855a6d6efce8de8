"""A real nginx in front of the Env service, with the lines that docs/env-api.md gives and without them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from rattle.certificates import make_set
from rattle.clients.agent_client import AgentClient
from rattle.clients.errors import ClientError, RequestRefused
from rattle.clients.remote_worlds import RemoteWorlds, ask_spec
from rattle.services.inference.training_link import TrainingLink
from rattle.services.utils.protos import training_pb2
from rattle.tls import TlsFiles, keep_tls
from rattle.tokens import keep_token, make_token, read_token
from tests.processes import ServiceProcess
from tests.trainer.conftest import REPOSITORY, last_json, rattle

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.promised,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="there is no nginx: apt-get install nginx-light"),
]
BARE = "server { listen 127.0.0.1:8080; location / { proxy_pass http://127.0.0.1:5000; } }"
#: A world that waits for its snakes: a line that is held back would be waited for until the test fails.
SETTINGS = (
    "env_service.clock=turns",
    "env_service.turn_seconds=3600",
    "env_service.snakes=1",
    "security.allowed_hosts=[rattle.example.org]",
)


def documented(which: int = 0) -> str:
    """Return the configuration that the page gives: the first without TLS, the second with it."""
    page = (REPOSITORY / "docs" / "env-api.md").read_text()
    return re.findall(r"```nginx\n(.*?)```", page, re.DOTALL)[which]


@contextmanager
def nginx(folder: Path, configuration: str, upstream: str) -> Iterator[str]:
    """Run nginx before a server and yield its URL.

    It is handed its listening socket, so that no port is lost; its workers may read the folder.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for old, new in (("127.0.0.1:8080", address), ("http://127.0.0.1:5000", upstream)):
            assert old in configuration
            configuration = configuration.replace(old, new)
        (folder / "logs").mkdir(exist_ok=True)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
        http = f"access_log off; client_body_buffer_size 64k;\n{paths}{configuration}"
        (folder / "nginx.conf").write_text(
            f"daemon off; user root; worker_processes 1; error_log stderr; pid {folder / 'pid'};\n"
            f"events {{}}\nhttp {{ {http} }}"
        )
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")],
            pass_fds=[listener.fileno()],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            stderr=subprocess.DEVNULL,
        )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def env() -> Iterator[ServiceProcess]:
    with ServiceProcess("env", settings=SETTINGS) as process:
        yield process


def play(url: str, steps: int = 20) -> RemoteWorlds:
    worlds = RemoteWorlds(url, 3, seed=5)
    for _ in range(steps):
        worlds.step(np.zeros(worlds.num_slots, np.int64))
    worlds.close()
    return worlds


def test_websockets_and_streams_pass_with_the_documented_lines(
    tmp_path: Path, env: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with nginx(tmp_path, documented(), env.url) as url:
        np.testing.assert_array_equal(play(url).observation, play(env.url).observation)
        assert not caplog.records, "which would say that no WebSocket passes"
        with AgentClient(url, "anna") as client:
            states = client.states()
            for _ in range(5):
                next(states)  # comes though nothing follows it
                client.move("forward")
            states.close()
        checked = rattle("check-env", url, "--only", "vector", "--skip", "vector.steps", "--json", cwd=tmp_path)
        failed = [check["sentence"] for check in last_json(checked.stdout)["checks"] if check["result"] == "fail"]
        assert failed == []


def test_pages_are_told_from_those_of_other_sites_through_nginx(tmp_path: Path, env: ServiceProcess) -> None:
    with nginx(tmp_path, documented(), env.url) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.post("/reset", json={}, headers={"Origin": url}).status_code == 200
        assert client.get("/state", headers={"Host": "rattle.example.org"}).status_code == 200
        own = {"Host": "rattle.example.org", "Origin": "https://rattle.example.org"}
        assert client.post("/reset", json={}, headers=own).status_code == 200
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": env.url}):
            answer = client.post("/reset", json={}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    with nginx(tmp_path, BARE, env.url) as url:
        assert httpx.post(f"{url}/reset", json={}).status_code == 200


def test_worlds_are_played_by_requests_through_a_bare_proxy(
    tmp_path: Path, env: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with nginx(tmp_path, BARE, env.url) as url:
        np.testing.assert_array_equal(play(url).observation, play(env.url).observation)
    assert [record.getMessage().count("no WebSocket passes") for record in caplog.records] == [1]


def test_a_run_learns_through_a_bare_proxy_and_says_once_that_no_websocket_passes(tmp_path: Path) -> None:
    settings = ("--set", "env.worlds=8", "--set", "policy.hidden_sizes=[8]", "--steps", "2000")
    with ServiceProcess("env") as env, nginx(tmp_path, BARE, env.url) as url:
        done = rattle("train", "--json", "--run-dir", "run", "--set", f"env.url={url}", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_json(done.stdout)["env_steps"] >= 2000
    assert done.stderr.count("no WebSocket passes") == 1


def test_a_path_and_a_password_are_nginx_s_to_ask_for(tmp_path: Path, env: ServiceProcess) -> None:
    (tmp_path / "users").write_text("anna:{PLAIN}secret\n")
    guard = f"auth_basic rattle; auth_basic_user_file {tmp_path / 'users'};"
    below = documented().replace("location / {", f"location /sim/ {{ {guard}").replace(":5000;", ":5000/;")
    with nginx(tmp_path, below, env.url) as url:
        play(f"{url}/sim".replace("http://", "http://anna:secret@"))
        wrong = f"{url}/sim".replace("http://", "http://anna:wrong@")
        with AgentClient(wrong, "anna") as client, pytest.raises(RequestRefused, match="wants credentials"):
            client.health()


def test_tls_a_client_s_certificate_and_the_token_for_http_and_grpc(tmp_path: Path) -> None:
    make_set(tmp_path / "certs", ["gpu-box"])
    token = tmp_path / "token"
    make_token(token)
    own = (f"security.token_file={token}", "env.worlds=4", "training.host=127.0.0.1")
    client = TlsFiles(*(str(tmp_path / "certs" / name) for name in ("authority.pem", "client.pem", "client.key")))
    with (
        ServiceProcess("env", settings=own) as env,
        ServiceProcess("training", "--run-dir", str(tmp_path / "run"), settings=own) as training,
    ):
        both = documented(0).split("server {")[0] + documented(1)
        both = both.replace("127.0.0.1:8443", "127.0.0.1:8080").replace("127.0.0.1:50051", training.hello["address"])
        with nginx(tmp_path, both.replace("certs/", f"{tmp_path}/certs/"), env.url) as url:
            url = url.replace("http://", "https://")
            try:
                with pytest.raises(ClientError, match=r"the certificate of https.* is not accepted"):
                    ask_spec(url)
                keep_tls(replace(client, certificate=None, private_key=None))
                with pytest.raises(ClientError, match=r"No required SSL certificate was sent|answered 400"):
                    ask_spec(url)
                keep_tls(client)
                with pytest.raises(ClientError, match="token"):
                    ask_spec(url)
                keep_token(read_token(str(token)))
                np.testing.assert_array_equal(play(url).observation, play(env.url).observation)
                link = TrainingLink(url.removeprefix("https://"), 2**20)
                assert link.stub.GetStatus(training_pb2.GetStatusRequest(), timeout=60).policies
                policies = link.stub.WatchPolicy(training_pb2.WatchPolicyRequest(policy_id="main"), timeout=60)
                assert next(iter(policies)).version == 0
                policies.cancel()
                link.close()
            finally:
                keep_tls(None)
                keep_token(None)
