"""The description of the routes says what there is, and a service holds to it whatever it is asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from rattle.services.env.app import EnvService
from rattle.settings.sources import load_settings
from rattle.wire.problems import STATUS
from tests.services.env.env_process import env_process
from tests.services.env.vector_server import VectorServer, serving

SMALL = ("env.width=8", "env.height=8", "env.num_snakes=2")


@pytest.fixture(scope="module")
def server() -> Iterator[VectorServer]:
    with serving(*SMALL, "env_service.clock=turns") as running:
        yield running


@pytest.fixture(scope="module")
def description(server: VectorServer) -> dict[str, Any]:
    described: dict[str, Any] = server.ask("GET", "/openapi.json").body
    return described


def operations(description: dict[str, Any]) -> set[tuple[str, str]]:
    """Return (method, path) of all that is described; parameters have no names."""
    return {
        (method.upper(), re.sub(r"{\w+}", "{}", path))
        for path, item in description["paths"].items()
        for method in item
        if method != "parameters"
    }


def test_every_route_is_described_and_every_description_is_a_route(
    server: VectorServer, description: dict[str, Any]
) -> None:
    described = operations(description)
    paths = {path for _, path in described}
    app = server.service._cold_routes()
    own = {re.sub(r"{\w+}", "{}", route.path) for route in app.routes if isinstance(route, Route)}
    pages = {path for path in own if path.startswith(("/docs", "/watch"))} | {"/openapi.json"}
    vector = {path for path in paths if path.startswith("/v1/sessions")}
    assert own - pages == (paths - vector) | {"/v1/history"}  # which says that there is none
    for path in paths:
        allowed = server.ask("PUT", path.format(*["anna" if path.startswith("/snake") else "0"] * 2)).headers["allow"]
        assert {(method, path) for method in allowed.split(", ")} == {one for one in described if one[1] == path}


def test_the_contract_names_the_routes_that_are_described(description: dict[str, Any]) -> None:
    contract = (Path(__file__).parents[3] / "docs" / "env-api.md").read_text()
    written = set(re.findall(r"`(GET|POST|DELETE) (/[^`\s]*)`", contract))
    named = {(method, re.sub(r"{\w+}", "{}", path)) for method, path in written}
    websocket = {("GET", "/v1/sessions/{}/ws")}  # an upgrade, which the description cannot say
    operation = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}
    lockstep = {("GET", "/v1/history")}
    described = operations(description) | lockstep
    assert {one for one in named if "?" not in one[1]} - websocket == described - operation


def test_all_references_lead_somewhere(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    used: set[str] = set()

    def follow(part: Any) -> None:
        if isinstance(part, dict):
            if "$ref" in part:
                used.add(part["$ref"].removeprefix("#/components/schemas/"))
            for value in part.values():
                follow(value)
        elif isinstance(part, list):
            for value in part:
                follow(value)

    follow(description)
    assert used == set(schemas)
    assert set(schemas["Problem"]["properties"]["code"]["enum"]) == set(STATUS)


def test_only_routes_are_described_that_the_environment_has(description: dict[str, Any]) -> None:
    other = EnvService(load_settings(None, ["env.id=gym:CartPole-v1"], {}))._cold_routes().openapi()
    agents = {path for path in description["paths"] if path.startswith("/snake")} | {"/state", "/reset"}
    assert set(other["paths"]) == set(description["paths"]) - agents
    assert {"Line", "MoveRequest"} <= set(description["components"]["schemas"]) - set(other["components"]["schemas"])
    test_all_references_lead_somewhere(other)
    lockstep = ["sync.mode=lockstep", "sync.address=127.0.0.1:1"]
    led = EnvService(load_settings(None, lockstep, {}))._cold_routes().openapi()
    assert set(led["paths"]) == {*description["paths"], "/v1/history"}


@pytest.mark.whole(suite="slow")
@pytest.mark.integration
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """It runs as a command: it changes how hypothesis and warnings behave."""
    here = Path(__file__).parent
    given = ("env.width=8", "env.height=8", "env_service.max_worlds=64", "env_service.max_sessions=100000")
    with env_process("--clock", "turns", *(part for one in given for part in ("--set", one))) as running:
        follower = running.connect()  # a snake by a name that is soon guessed, so that moves are taken
        follower.sendall(b"GET /snake/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        ended = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                f"--config-file={here / 'schemathesis.toml'}",
                "run",
                f"{running.url}/openapi.json",
                "--no-color",
            ],
            env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(here)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert running.ask("GET", "/healthz")[0] == 200
    assert ended.returncode == 0, ended.stdout[-12000:] + ended.stderr[-3000:]
    assert re.search(r"Tested: *17", ended.stdout), ended.stdout
