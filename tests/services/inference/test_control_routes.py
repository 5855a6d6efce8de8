"""The control of what plays, over a socket of a real Inference service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.processes import ServiceProcess
from tests.services.env.agent_server import PATIENCE, eventually
from tests.services.inference.learner_double import LearnerDouble, policy_message

pytestmark = pytest.mark.integration


class Inference:
    """A service that plays, beside a learner that takes everything."""

    def __init__(self, process: ServiceProcess, learner: LearnerDouble, env: ServiceProcess) -> None:
        self.learner = learner
        self.env = env
        self.process = process
        self._host = process.url.removeprefix("http://")

    def ask(self, method: str, path: str = "", body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and the decoded body."""
        connection = HTTPConnection(self._host, timeout=PATIENCE)
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/v1/agents{path}", raw, {"Content-Type": "application/json", **given})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        told = {name.lower(): value for name, value in response.getheaders()}
        return response.status, told, json.loads(text) if text else None

    def agent(self, name: str) -> dict[str, Any]:
        status, _, content = self.ask("GET", f"/{name}")
        assert status == 200, content
        return dict(content)

    def eventually(self, name: str, **expected: Any) -> None:
        """Wait until an actor stands so."""
        eventually(lambda: expected.items() <= self.agent(name).items())

    def sessions(self) -> float:
        """Return how many sessions the Env service has."""
        connection = HTTPConnection(self.env.url.removeprefix("http://"), timeout=PATIENCE)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return next(float(line.split()[1]) for line in lines if line.startswith("rattle_env_sessions "))


def started(learner: LearnerDouble, env: ServiceProcess, *settings: str) -> ServiceProcess:
    given = (f"inference.training=['{learner.address}']", f"inference.envs=['{env.url}']", *settings)
    return ServiceProcess("inference", "--grpc-port", "0", settings=("env.worlds=8", *given))


def new_learner() -> Iterator[LearnerDouble]:
    learner = LearnerDouble()
    learner.send(policy_message(0))
    yield learner
    learner.stop()


learner = pytest.fixture(scope="module")(new_learner)
another_learner = pytest.fixture(new_learner)


@pytest.fixture(scope="module")
def vector(learner: LearnerDouble) -> Iterator[Inference]:
    """Two actors of four worlds each."""
    two = ("training.mode=async", "inference.actors=2", "inference.any_env=true")
    with ServiceProcess("env") as env, started(learner, env, *two) as process:
        yield Inference(process, learner, env)


def test_actors_are_listed(vector: Inference) -> None:
    vector.eventually("main-1", state="playing", policy_version=0)
    eventually(lambda: vector.agent("main-1")["receipts"]["accepted"] > 1)
    status, headers, content = vector.ask("GET")
    assert (status, headers["content-type"]) == (200, "application/json")
    first, second = content["agents"]
    assert (first["name"], first["first_world"], first["worlds"]) == ("main-0", 0, 4)
    assert (second["name"], second["first_world"], second["worlds"]) == ("main-1", 4, 4)
    assert (second["kind"], second["policy_id"], second["env_url"]) == ("vector", "main", vector.env.url)
    assert second["rollouts"] > 0
    assert second["env_steps"] == second["rollouts"] * 16 * 4
    assert second["last_error"] is None
    assert "snake" not in second


def test_metrics_say_what_actors_have_done(vector: Inference) -> None:
    eventually(lambda: vector.agent("main-1")["receipts"]["accepted"] > 1)
    connection = HTTPConnection(vector.process.url.removeprefix("http://"), timeout=PATIENCE)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = 'actor="main-1",policy="main"'
    rollouts = float(numbers[f"rattle_inference_rollouts_total{{{names}}}"])
    assert rollouts > 1
    assert float(numbers[f"rattle_inference_env_steps_total{{{names}}}"]) == rollouts * 16 * 4
    assert float(numbers[f'rattle_inference_receipts_total{{{names},verdict="accepted"}}']) > 1
    assert sum(float(n) for name, n in numbers.items() if name.startswith("rattle_inference_actors{")) == 2


def test_an_actor_is_paused_and_resumed(vector: Inference) -> None:
    status, _, content = vector.ask("POST", "/main-0/pause")
    assert (status, content["name"]) == (200, "main-0")
    vector.eventually("main-0", state="paused")
    rollouts = vector.agent("main-0")["rollouts"]
    others = vector.agent("main-1")["rollouts"]
    eventually(lambda: vector.agent("main-1")["rollouts"] > others + 5)
    assert vector.agent("main-0")["rollouts"] == rollouts
    assert vector.ask("POST", "/main-0/resume")[0] == 200
    eventually(lambda: vector.agent("main-0")["rollouts"] > rollouts)


def test_an_actor_is_removed_and_another_takes_its_worlds_over(vector: Inference) -> None:
    eventually(lambda: vector.sessions() == 4)
    status, _, content = vector.ask("POST", "", {"first_world": 4, "worlds": 4})
    assert (status, content["code"], content["field"]) == (409, "conflict", "first_world")
    assert "main-1 4 to 7)" in content["detail"]
    assert vector.ask("DELETE", "/main-1")[::2] == (204, None)
    assert [agent["name"] for agent in vector.ask("GET")[2]["agents"]] == ["main-0"]
    eventually(lambda: vector.sessions() == 2)
    status, headers, content = vector.ask("POST", "", {})
    assert (status, headers["location"]) == (201, "/v1/agents/main-of-0-added-1")
    assert (content["first_world"], content["worlds"], content["env_url"]) == (4, 4, vector.env.url)
    added = content["name"]
    vector.learner.wait_for(lambda: any(rollout.actor == added for rollout in vector.learner.rollouts))
    assert vector.agent(added)["state"] in ("playing", "waiting")
    status, _, content = vector.ask("POST", "", {})
    assert (status, content["code"]) == (409, "conflict")
    assert vector.sessions() == 4


def test_an_env_service_that_is_not_there_is_said_to_be(vector: Inference) -> None:
    *_, content = vector.ask("GET")
    vector.ask("DELETE", f"/{content['agents'][-1]['name']}")
    status, _, added = vector.ask("POST", "", {"env_url": "http://127.0.0.1:9"})
    assert status == 201
    eventually(lambda: "127.0.0.1:9" in vector.agent(added["name"])["reason"])
    assert vector.agent(added["name"])["state"] == "waiting"
    assert vector.ask("DELETE", f"/{added['name']}")[0] == 204
    assert vector.ask("POST", "", {})[0] == 201


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("GET", "/nobody", None, 404, "unknown_agent", "name"),
        ("DELETE", "/nobody", None, 404, "unknown_agent", "name"),
        ("POST", "/nobody/pause", None, 404, "unknown_agent", "name"),
        ("POST", "/nobody/resume", None, 404, "unknown_agent", "name"),
        ("POST", "/main-0/dance", None, 404, "unknown_path", None),
        ("GET", "x", None, 404, "unknown_path", None),
        ("GET", "/main-0/pause/now", None, 404, "unknown_path", None),
        ("PUT", "", None, 405, "wrong_method", None),
        ("POST", "/main-0", None, 405, "wrong_method", None),
        ("GET", "/main-0/pause", None, 405, "wrong_method", None),
        ("POST", "", b"{", 400, "bad_request", None),
        ("POST", "", b"[]", 400, "bad_request", None),
        ("POST", "", {"worlds": "many"}, 400, "bad_value", "worlds"),
        ("POST", "", {"worlds": 0}, 400, "bad_value", "worlds"),
        ("POST", "", {"speed": 9}, 400, "bad_value", "speed"),
        ("POST", "", {"snake": 1}, 400, "bad_value", "snake"),
        ("POST", "", {"policy_id": "unheard"}, 400, "bad_value", "policy_id"),
        ("POST", "", {"env_url": "127.0.0.1:5000"}, 400, "bad_value", "env_url"),
    ],
)
def test_errors_are_problems(
    vector: Inference, method: str, path: str, body: Any, status: int, code: str, field: str | None
) -> None:
    told, headers, content = vector.ask(method, path, body)
    assert (told, content["code"], content.get("field")) == (status, code, field)
    assert headers["content-type"] == "application/problem+json"
    assert content["error"] == content["detail"]
    assert (told == 405) == ("allow" in headers)


def test_a_body_of_another_type_is_refused(vector: Inference) -> None:
    for media_type in ("text/plain", "application/msgpack"):
        status, _, content = vector.ask("POST", "", b"{}", Content_Type=media_type)
        assert (status, content["code"]) == (415, "unsupported_type")


def test_snakes_are_controlled_alike(another_learner: LearnerDouble) -> None:
    world = ("env_service.clock=turns", "env_service.snakes=2", "env_service.leave_seconds=0.05")
    own = ("inference.api=agent", "inference.snakes=2", "training.mode=async")
    with ServiceProcess("env", settings=world) as env, started(another_learner, env, *own) as process:
        snakes = Inference(process, another_learner, env)
        eventually(lambda: snakes.agent("main-1")["rollouts"] > 0)
        agent = snakes.agent("main-1")
        assert (agent["kind"], agent["snake"]) == ("agent", 1)
        assert "first_world" not in agent
        assert snakes.ask("POST", "/main-0/pause")[0] == 200
        snakes.eventually("main-0", state="paused")
        snakes.ask("DELETE", "/main-1")
        status, _, added = snakes.ask("POST", "", {"snake": 1})
        assert (status, added["snake"]) == (201, 1)
        eventually(lambda: snakes.agent(added["name"])["rollouts"] > 0)
        assert snakes.agent("main-0")["state"] == "paused"
        assert process.kill(15) == 0
