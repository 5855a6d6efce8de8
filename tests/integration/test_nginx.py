"""A real nginx in front of the Env service, with the lines that docs/env-api.md gives and without them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from rattle.clients.agent_client import AgentClient
from rattle.clients.errors import RequestRefused
from rattle.clients.remote_worlds import RemoteWorlds
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


def documented() -> str:
    """Return the configuration that the page gives."""
    page = (REPOSITORY / "docs" / "env-api.md").read_text()
    found = re.search(r"```nginx\n(.*?)```", page, re.DOTALL)
    assert found
    return found[1]


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


def test_a_path_and_a_password_are_nginx_s_to_ask_for(tmp_path: Path, env: ServiceProcess) -> None:
    (tmp_path / "users").write_text("anna:{PLAIN}secret\n")
    guard = f"auth_basic rattle; auth_basic_user_file {tmp_path / 'users'};"
    below = documented().replace("location / {", f"location /sim/ {{ {guard}").replace(":5000;", ":5000/;")
    with nginx(tmp_path, below, env.url) as url:
        play(f"{url}/sim".replace("http://", "http://anna:secret@"))
        wrong = f"{url}/sim".replace("http://", "http://anna:wrong@")
        with AgentClient(wrong, "anna") as client, pytest.raises(RequestRefused, match="wants credentials"):
            client.health()
