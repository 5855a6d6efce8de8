"""A server that wants credentials: every command sends them, and nothing that is stored or shown holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rattle.services.env.app import EnvService
from rattle.settings.sources import load_settings
from tests.conformance.running import asgi_server
from tests.launch.test_plan import planned
from tests.trainer.conftest import rattle

HIDDEN = "Jq7unlikely"
ANNA = b"Basic YW5uYTpKcTd1bmxpa2VseQ=="


class Guarded:
    """The Env service for those who send Anna's password."""

    def __init__(self) -> None:
        self.app = EnvService(load_settings(None, [], {}))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self.app.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.app.stop()
            await send({"type": "lifespan.shutdown.complete"})
        elif (b"authorization", ANNA) in scope["headers"]:
            await self.app(scope, receive, send)
        else:
            kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
            await send({"type": f"{kind}.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": f"{kind}.body", "body": b""})


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with asgi_server(Guarded()) as url:
        yield url


def with_password(url: str) -> str:
    return url.replace("http://", f"http://anna:{HIDDEN}@")


@pytest.mark.integration
@pytest.mark.parametrize("command", ["train", "up"])
def test_a_run_stores_and_shows_no_credentials_and_is_resumed_with_them(
    guarded: str, tmp_path: Path, command: str
) -> None:
    settings = ("--set", f"env.url={with_password(guarded)}", "--set", "env.worlds=8", "--run-dir", "run")
    begun = rattle(command, *settings, "--steps", 300, "--json", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    refused = rattle("train", "--resume", "run", "--steps", 600, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "or in RATTLE_CREDENTIALS" in refused.stderr
    resumed = rattle(
        command, "--resume", "run", "--steps", 600, cwd=tmp_path, RATTLE_CREDENTIALS=with_password(guarded)
    )
    assert resumed.returncode == 0, resumed.stderr
    asked = rattle("query", "SELECT config.env.url AS url FROM runs", "--run", "run", cwd=tmp_path)
    assert guarded in asked.stdout
    said = "".join(done.stdout + done.stderr for done in (begun, refused, resumed, asked))
    assert HIDDEN not in said
    stored = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert stored
    assert [path.name for path in stored if HIDDEN.encode() in path.read_bytes()] == []


@pytest.mark.integration
def test_evaluation_and_the_checker_send_credentials_and_do_not_show_them(guarded: str, tmp_path: Path) -> None:
    url = with_password(guarded)
    report = tmp_path / "report.xml"
    # Requests, raw sockets, streams and WebSockets.
    checks = [part for name in ("steps.fields", "limits.body", "websocket") for part in ("--only", f"vector.{name}")]
    streams = ("--only", "agent.stream.half_close", "--only", "agent.errors.cut")
    checked = rattle("check-env", url, *checks, *streams, "--json", "--junit", report, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert HIDDEN not in checked.stdout + checked.stderr + report.read_text()
    trained = rattle("train", "--steps", 100, "--set", "env.worlds=4", "--run-dir", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    played = rattle("eval", "run", "--episodes", 2, "--url", url, cwd=tmp_path)
    assert played.returncode == 0, played.stderr
    assert HIDDEN not in played.stdout + played.stderr
    refused = rattle("check-env", guarded, cwd=tmp_path)
    assert refused.returncode == 2
    assert "wants credentials" in refused.stderr


def test_command_lines_of_services_hold_no_credentials() -> None:
    services = planned(f"env.url=http://anna:{HIDDEN}@sim:5000")
    arguments = [argument for service in services.values() for argument in service.arguments]
    assert "http://sim:5000" in arguments
    assert not [argument for argument in arguments if HIDDEN in argument]
