"""Every service asks for the token, and listens for other machines only with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RUNS_ROOT
from rattle.services.dashboard import serve as dashboard
from rattle.services.dashboard.directories import RunDirectories
from rattle.services.env import serve as env
from rattle.services.env.app import EnvService
from rattle.services.inference import serve as inference
from rattle.services.ingest import serve as ingest
from rattle.services.mock_env.app import Board, make_app
from rattle.services.mock_env.faults import Faults
from rattle.services.mock_env.game import ScriptedGame
from rattle.services.mock_env.server import MockEnv, MockSettings
from rattle.services.sync import serve as sync
from rattle.services.training import serve as training
from rattle.services.utils.guard import Guard
from rattle.services.utils.sockets import ServiceError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.services import SecuritySection
from rattle.settings.sources import load_settings
from rattle.telemetry.broker import Broker
from rattle.wire.problems import RequestError


def at(section: str, *more: str) -> ExperimentSettings:
    return load_settings(None, [f"{section}.host=0.0.0.0", *more], {})


SERVICES: dict[str, Callable[[], object]] = {
    "env": lambda: env.run(at("env_service")),
    "training": lambda: training.run(at("training"), None),
    "inference": lambda: inference.run(at("inference"), None),
    "lockstep": lambda: sync.run(at("sync", "sync.mode=lockstep"), None),
    "pace": lambda: sync.run(at("sync", "sync.mode=pace"), None),
    "ingest": lambda: ingest.run(
        at("ingest"), Broker("amqp://localhost", "localhost", 5672, "/", "guest", "guest"), "chdb:///nowhere"
    ),
    "dashboard": lambda: dashboard.run(RunDirectories(RUNS_ROOT), "0.0.0.0", 0, SecuritySection()),  # noqa: S104
    "mock-env": lambda: MockEnv(MockSettings(host="0.0.0.0")),  # noqa: S104
}


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_listens_for_other_machines_without_a_token(service: str) -> None:
    with pytest.raises(ServiceError, match=r"^listening on 0\.0\.0\.0 without a token lets everybody in"):
        SERVICES[service]()


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("the-token-of-these-tests")
    return Guard("127.0.0.1", SecuritySection(token_file=str(tmp_path / "token")))


def test_of_all_routes_of_an_env_service_health_and_files_alone_are_answered_without_a_token(guard: Guard) -> None:
    def is_open(method: str, path: str) -> bool:
        try:
            guard.check(method.upper(), path, {})
        except RequestError as error:
            return error.code != "unauthenticated"
        return True

    described = EnvService(load_settings(None, [], {}))._describe_routes()["paths"]
    routes = [(method, path) for path, methods in described.items() for method in methods if method != "parameters"]
    assert len(routes) > 12
    assert {path for method, path in routes if is_open(method, path)} == {"/healthz", "/readyz"}


def test_no_route_of_the_mock_environment_but_health_is_answered_without_a_token(guard: Guard) -> None:
    app = make_app(Board(ScriptedGame(2, 3, 0.1), max_streams=4), Faults((), 1), guard)
    routes = [(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods or ()]
    assert len(routes) > 5
    client = app.test_client()
    for method, rule in routes:
        answer = client.open(rule.replace("<snake_id>", "anna"), method=method)
        if rule in ("/healthz", "/readyz") and method != "OPTIONS":
            assert answer.status_code == 200, (method, rule)
            continue
        assert answer.status_code == 401, (method, rule)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/state", headers={"Authorization": "Bearer the-token-of-these-tests"}).status_code == 200
