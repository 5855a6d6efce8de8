"""Each check of the vector API fails on a server that is broken for it, and passes on the same server unbroken."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from rattle.conformance.table import CHECKS
from tests.conformance.broken_env import MSGPACK, PROBLEM, Body, Broken, Exchange, Fault
from tests.conformance.running import asgi_server, results
from tests.conformance.vector_faults import (
    FAULTS,
    SEVERAL_FAULTS,
    STEERED_FAULTS,
    WAITING_FAULTS,
    next_for_last,
    old_for_last,
    zeros_for_last,
)

pytestmark = pytest.mark.integration

#: Two snakes on a small board, for a short time: worlds end often, and agents die before their worlds.
SMALL = (
    "env.num_snakes=2",
    "env.width=7",
    "env.height=7",
    "env.vision_radius=2",
    "env.max_steps_without_food=12",
    "env.max_steps=11",
    "env_service.max_sessions=6",
    "env_service.max_body_bytes=32768",
)
FIRST_OBSERVATION = "vector.steps.first_observation"


def test_every_check_has_a_server_that_breaks_it() -> None:
    assert {*FAULTS, *STEERED_FAULTS, *(name for name, _ in SEVERAL_FAULTS)} == {
        check.id for check in CHECKS if check.face == "vector"
    }


def test_the_unbroken_server_passes_every_check_but_that_of_lacking_features() -> None:
    with asgi_server(Broken(Fault(), *SMALL)) as url:
        found = results(url, "vector")
    assert {name: result for name, result in found.items() if result.result == "fail"} == {}
    assert [name for name, result in found.items() if result.result == "skip"] == [
        "vector.actions.bounds",
        "vector.actions.numbers",
        "vector.state.absent",
    ]


@pytest.mark.parametrize("name", STEERED_FAULTS)
def test_a_broken_server_of_real_numbers_fails_the_check_that_is_meant_for_it(name: str) -> None:
    with asgi_server(Broken(STEERED_FAULTS[name], "env.id=gym:Pendulum-v1")) as url:
        result = results(url, name, timeout=3.0)[name]
    assert result.result == "fail", result.sentence
    assert "not of the shape" not in result.sentence, "the check stumbled instead of judging"


@pytest.mark.parametrize(("name", "fault"), SEVERAL_FAULTS)
def test_a_broken_server_of_several_numbers_fails_the_check_that_is_meant_for_it(name: str, fault: Fault) -> None:
    with asgi_server(Broken(fault, "env.id=tests.envs.combination_lock:CombinationLock")) as url:
        result = results(url, name, timeout=20.0)[name]
    assert result.result == "fail", result.sentence
    assert result.evidence


@pytest.mark.parametrize(("name", "fault"), WAITING_FAULTS)
def test_a_broken_server_of_agents_that_wait_fails_the_check_that_is_meant_for_it(name: str, fault: Fault) -> None:
    with asgi_server(Broken(fault, "env={id: 'pettingzoo:tests.envs.countdown', players: 3}")) as url:
        result = results(url, name, timeout=20.0)[name]
    assert result.result == "fail", result.sentence


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_server_fails_the_check_that_is_meant_for_it(name: str) -> None:
    with asgi_server(Broken(FAULTS[name], *SMALL)) as url:
        result = results(url, name, timeout=3.0)[name]
    assert result.result == "fail", result.sentence
    assert "not of the shape" not in result.sentence, "the check stumbled instead of judging"
    assert result.evidence


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (next_for_last, "the first observation of the next episode"),
        (zeros_for_last, "zeros"),
        (old_for_last, "what the slot saw before that step"),
    ],
)
@pytest.mark.parametrize("environment", ["snake", "cartpole"])
def test_a_wrong_last_observation_is_found_and_named(
    answer: Callable[[Exchange, Body], None], said: str, environment: str
) -> None:
    # Without a time limit of its own, CartPole is cut by that of the check only.
    settings = SMALL if environment == "snake" else ("env.id=gym:CartPole-v1",)
    checks = ("vector.steps.time_limit", *(["vector.steps.last_observation"] if environment == "snake" else []))
    with asgi_server(Broken(Fault(answer=answer), *settings)) as url:
        found = results(url, *checks)
    for name in checks:
        assert found[name].result == "fail"
        assert said in found[name].sentence


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [(Fault(answer=next_for_last), ", and ended.observation is"), (FAULTS[FIRST_OBSERVATION], ", and observation is")],
)
def test_of_two_equal_observations_the_wrong_one_is_named(fault: Fault, wrong: str) -> None:
    with asgi_server(Broken(fault, *SMALL)) as url:
        result = results(url, FIRST_OBSERVATION)[FIRST_OBSERVATION]
    assert result.result == "fail"
    assert wrong in result.sentence


def test_a_server_of_json_only_is_judged_in_json() -> None:
    def refuse(exchange: Exchange, state: Body) -> None:
        del state
        for header, status, code in (("content-type", 415, "unsupported_type"), ("accept", 406, "not_acceptable")):
            if exchange.headers.get(header) == MSGPACK:
                exchange.status, exchange.answer_type = status, PROBLEM
                exchange.answer = msgspec.json.encode(
                    {"type": "about:blank", "title": "Refused", "status": status, "code": code}
                    | dict.fromkeys(("detail", "error"), "JSON only")
                )

    with asgi_server(Broken(Fault(request=refuse), *SMALL)) as url:
        found = results(url, "vector", timeout=10.0)
    failed = {name for name, result in found.items() if result.result == "fail"}
    assert failed == {"vector.spec.messagepack", "vector.encodings.same"}
    assert all("JSON only" in found[name].sentence for name in failed)
    assert {name for name, result in found.items() if result.result == "skip"} == {
        "vector.encodings.problems",
        "vector.actions.bounds",
        "vector.actions.numbers",
        "vector.actions.integers",
        "vector.actions.packed",
        "vector.state.restore",
        "vector.state.refused",
        "vector.state.absent",
        "vector.websocket.binary",
        "vector.checksums.answers",
        "vector.checksums.requests",
        "vector.checksums.websocket",
    }
