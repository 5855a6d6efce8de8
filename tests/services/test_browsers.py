"""Every service over its real server: pages of other sites ask in vain, its own and programs do not."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ServiceProcess
from tests.services.inference.serving.building import policy
from tests.services.inference.serving.inference_process import write

NAME = "gpu-box.example.org"
ALLOWED = f"security.allowed_hosts=[{NAME}]"
#: What each is started with, a path to read, and one to POST to, which some of them do not take.
SERVICES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
    "env": ((), ("env_service.clock=turns",), "/state", "/reset"),
    "inference": (
        ("--policy", "FOLDER/snake.safetensors", "--grpc-port", "0"),
        (),
        "/v1/models",
        "/v2/models/snake/infer",
    ),
    "sync": (("--participant", "127.0.0.1:9"), ("sync.http_port=PORT",), "/v1/status", "/v1/status"),
    "ingest": (("--store", "chdb:///FOLDER/store", "--broker", "amqp://127.0.0.1:9"), (), "/v1/status", "/v1/status"),
    "dashboard": (("FOLDER",), (), "/", "/sql"),
    "mock-env": ((), (), "/state", "/reset"),
}
NO_POST = ("sync", "ingest", "dashboard")


class Asked:
    """A service, and ways to ask it as browsers and others do."""

    def __init__(self, name: str, url: str, read: str, change: str) -> None:
        self.name, self.read, self.change = name, read, change
        self.authority = url.removeprefix("http://")

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the problem, if it is one."""
        connection = HTTPConnection(self.authority, timeout=60)
        try:
            connection.request(method, path, None, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            is_problem = method != "HEAD" and answer.getheader("content-type") == "application/problem+json"
            said: dict[str, Any] = json.loads(answer.read()) if is_problem else {}
            return answer.status, said
        finally:
            connection.close()


@pytest.fixture(scope="module", params=SERVICES)
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("served")
    write(folder / "snake.safetensors", policy())
    arguments, settings, read, change = SERVICES[request.param]
    arguments = tuple(word.replace("FOLDER", str(folder)) for word in arguments)
    settings = tuple(word.replace("PORT", "0") for word in settings)
    if socket.has_dualstack_ipv6():  # else the test of that is skipped
        arguments = (*arguments, "--host", "::", "--advertise", "::1")
        settings = (*settings, "security.trust_network=true")
    with ServiceProcess(request.param, *arguments, settings=(*settings, ALLOWED)) as process:
        yield Asked(request.param, process.url, read, change)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_both_versions_of_ip_are_answered(asked: Asked) -> None:
    assert asked.authority.startswith("[::1]:")
    over_4 = Asked(asked.name, "http://127.0.0.1" + asked.authority.removeprefix("[::1]"), asked.read, asked.change)
    for way in (asked, over_4):
        assert way.ask("GET", asked.read)[0] == 200


def test_head_is_answered_as_get_and_does_nothing(asked: Asked) -> None:
    for path in (asked.read, "/healthz", "/readyz", "/metrics"):
        assert asked.ask("HEAD", path)[0] == asked.ask("GET", path)[0], path
    assert asked.ask("HEAD", "/no-such-path")[0] == 404
    if asked.read == "/state":  # of the agent API
        assert asked.ask("HEAD", "/snake/passerby")[0] == 200
        connection = HTTPConnection(asked.authority, timeout=60)
        connection.request("GET", "/state")
        assert b"passerby" not in connection.getresponse().read()
        connection.close()


def test_programs_and_own_pages_are_answered(asked: Asked) -> None:
    for headers in ({}, {"Host": f"{NAME}:80"}, {"Host": "localhost"}, {"Sec_Fetch_Site": "same-origin"}):
        assert asked.ask("GET", asked.read, **headers)[0] == 200
    assert asked.ask("GET", asked.read, Host=f"{NAME}:80", Origin=f"http://{NAME}:80")[0] == 200
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert asked.ask("GET", asked.read, **link)[0] == 200


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Host": "evil.example"}, "Host"),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, "Host"),
        ({"Origin": "http://evil.example"}, "Origin"),
        ({"Sec_Fetch_Site": "cross-site"}, "Sec-Fetch-Site"),
        ({"Sec_Fetch_Site": "same-site"}, "Sec-Fetch-Site"),
    ],
)
def test_pages_of_other_sites_read_and_change_nothing(asked: Asked, headers: dict[str, str], field: str) -> None:
    for method, path in (("GET", asked.read), ("GET", "/healthz"), ("POST", asked.change), ("GET", "/no-such-path")):
        status, problem = asked.ask(method, path, Content_Type="application/json", **headers)
        assert (status, problem["code"], problem["field"]) == (403, "forbidden", field)


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_post_needs_a_type(asked: Asked, media_type: str) -> None:
    headers = {"Content_Type": media_type} if media_type else {}
    status, problem = asked.ask("POST", asked.change, **headers)
    if asked.name in NO_POST:  # which take no POST at all
        assert status == 405
    elif asked.name == "inference" and not media_type:  # clients of its protocol send none
        assert (status, problem["code"]) == (400, "bad_request")
    else:
        assert (status, problem["code"], problem["field"]) == (415, "unsupported_type", "Content-Type")


def test_a_wrong_path_or_method_is_said_before_a_type_that_is_missing(asked: Asked) -> None:
    assert asked.ask("POST", asked.read)[0] == 405
    assert asked.ask("POST", "/no-such-path")[0] == 404


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_pages_of_other_sites_open_no_websocket(asked: Asked, headers: dict[str, str]) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    key = base64.b64encode(os.urandom(16)).decode()
    status, problem = asked.ask("GET", "/v1/sessions/0/ws", **upgrade, Sec_WebSocket_Key=key, **headers)
    assert (status, problem["code"]) == (403, "forbidden")


def test_a_connection_goes_on_after_a_refusal(asked: Asked) -> None:
    """Also where the refused request had a body, which nobody has read."""
    connection = HTTPConnection(asked.authority, timeout=60)
    for _ in range(3):
        connection.request("POST", asked.change, b"x" * 300_000, {"Content-Type": "text/plain"})
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (405 if asked.name in NO_POST else 415, True)
        connection.request("GET", asked.read)
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (200, True)
    connection.close()


@pytest.mark.parametrize("command", ["dashboard", "mock-env"])
def test_commands_without_an_experiment_say_which_settings_they_have(command: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from rattle.cli import main

    for setting, said in (
        ("env.width=9", "settings of `security` only"),
        ("security.allowed_host=[x]", "allowed_hosts"),
    ):
        result = CliRunner().invoke(main, [command, "--port", "0", "--set", setting])
        assert result.exit_code == 1
        assert said in result.output
