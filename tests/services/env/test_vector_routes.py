"""The vector API over real sockets: both encodings, every route, every problem."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from rattle.envs.registry import make_worlds
from rattle.envs.vector import random_actions
from rattle.services.env import vector_routes
from rattle.services.utils import asgi
from rattle.wire import encoding
from rattle.wire.arrays import ReusedArray
from rattle.wire.encoding import Encoding
from tests.services.env.vector_server import JSON, MSGPACK, VectorServer, array, eventually, packed, serving
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

SNAKES = ("env.width=8", "env.height=8", "env.num_snakes=2", "env.vision_radius=2")
NOBODY = "/v1/sessions/0000000000000000"


@pytest.fixture(scope="module")
def server() -> Iterator[VectorServer]:
    with serving(*SNAKES, "env_service.max_body_bytes=65536", "env_service.max_worlds=1000") as running:
        yield running


def test_the_spec_says_what_the_server_is(server: VectorServer) -> None:
    spec = server.ask("GET", "/v1/spec").body
    assert spec["protocol"] == "rattle.vector/1"
    assert spec["environment"] == "snake"
    assert spec["settings"]["num_snakes"] == 2
    assert spec["observation_space"] == {"kind": "codes", "cells": 12, "codes": 5}
    assert (spec["num_actions"], spec["agents_per_world"], spec["metrics"]) == (3, 2, ["food"])
    assert spec["features"] == ["websocket", "state", "snapshot", "step_snapshots", "options", "owners", "crc32c"]
    assert spec["limits"] == {"sessions": 256, "worlds": 1000, "body_bytes": 65536, "session_seconds": 300.0}
    packed_spec = server.ask("GET", "/v1/spec", headers={"Accept": "application/msgpack"})
    assert packed_spec.headers["content-type"] == "application/msgpack"
    assert packed_spec.body == {**spec, "crc32c": packed_spec.raw[-4:]}


def test_both_encodings_carry_the_same_games_as_the_worlds_play_here(server: VectorServer) -> None:
    local = make_worlds("snake", server.ask("GET", "/v1/spec").body["settings"], 3, 7, 5)
    plain = server.session(worlds=3, seed=7, first_world=5)
    created = server.ask(
        "POST", "/v1/sessions", msgspec.msgpack.encode({"worlds": 3, "seed": 7, "first_world": 5}), MSGPACK
    )
    assert (created.status, created.headers["content-type"]) == (201, "application/msgpack")
    assert array(created.body["observation"]).tolist() == local.observation.tolist()
    binary = f"/v1/sessions/{created.body['session']}"
    draw = np.random.default_rng(0)
    ends = 0
    for number in range(1, 60):
        action = draw.integers(0, 3, 6)
        local.step(action)
        said = server.step(plain, number, action.tolist()).body
        dtype = ("uint8", "int32", "int64", "uint32")[number % 4]
        body = msgspec.msgpack.encode({"step": number, "action": packed(action, dtype)})
        seen = server.ask("POST", f"{binary}/step", body, MSGPACK).body
        assert said["step"] == seen["step"] == number
        for name in ("observation", "reward", "terminated", "truncated", "active", "episode"):
            own = getattr(local, name)
            assert array(seen[name]).dtype == own.dtype
            assert array(seen[name]).tolist() == said[name] == own.tolist()
        over = np.flatnonzero(local.terminated | local.truncated)
        assert array(seen["ended"]["slots"]).tolist() == said["ended"]["slots"] == over.tolist()
        assert array(seen["ended"]["observation"]).tolist() == said["ended"]["observation"]
        food = array(seen["ended"]["metrics"]["food"])
        assert food.tolist() == said["ended"]["metrics"]["food"] == local.final_metrics["food"][over].tolist()
        ends += len(over)
    assert ends > 3


@pytest.fixture(scope="module")
def steered() -> Iterator[VectorServer]:
    with serving("env.id=gym:Pendulum-v1") as running:
        yield running


def test_real_numbers_steer_the_same_in_both_encodings_as_here(steered: VectorServer) -> None:
    described = steered.ask("GET", "/v1/spec").body
    assert described["action_space"] == {"kind": "box", "low": [-2.0], "high": [2.0]}
    assert "num_actions" not in described
    local = make_worlds("gym:Pendulum-v1", {}, 3, 7, 0)
    plain = steered.session(worlds=3, seed=7)
    body = msgspec.msgpack.encode({"worlds": 3, "seed": 7})
    binary = f"/v1/sessions/{steered.ask('POST', '/v1/sessions', body, MSGPACK).body['session']}"
    draw = np.random.default_rng(0)
    for number in range(1, 20):
        action = draw.normal(scale=2, size=(3, 1)).astype(np.float32)
        local.step(action)
        said = steered.step(plain, number, action.tolist()).body
        body = msgspec.msgpack.encode({"step": number, "action": packed(action, "float32")})
        seen = steered.ask("POST", f"{binary}/step", body, MSGPACK).body
        for name in ("observation", "reward"):
            assert array(seen[name]).tolist() == said[name] == getattr(local, name).tolist()


def test_real_numbers_of_any_length_in_json_are_a_step(steered: VectorServer) -> None:
    session = steered.session(worlds=2048, seed=7)
    action = np.full((2048, 1), -1.0000000116860974e-07, np.float32)
    longest = max(len(repr(float(number))) for number in action[:, 0])
    assert longest > 22
    assert steered.step(session, 1, action.tolist()).status == 200


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([[0.5], ["a"], [1]], "action: expected `float`, got `str`"),
        ([[0.5], [True], [1]], "action: expected `float`, got `bool`"),
        ([0.5, 0.5, 0.5], "action: expected `array`, got `float`"),
        ([[0.5], [0.5]], "action must be a float32 array of shape (3, 1), got float32 (2, 1)"),
        ([[0.5], [0.5, 1], [0]], "action: lists at the same level differ in length"),
        (None, "action: expected `array`, got `null`"),
        ([[1e39], [0], [0]], "action must hold finite numbers of shape (1,), and [0, 0] is inf"),
    ],
)
def test_what_steers_nothing_is_refused(steered: VectorServer, action: Any, message: str) -> None:
    session = steered.session(worlds=3)
    refused = steered.step(session, 1, action)
    problem = refused.problem("bad_value")
    assert (problem["field"], problem["detail"].split(" - ")[0]) == ("action", message)
    assert steered.step(session, 1, [[0], [0.5], [-9]]).status == 200


def test_the_description_says_what_steers(steered: VectorServer) -> None:
    described = steered.ask("GET", "/openapi.json").body
    step = described["components"]["schemas"]["StepRequest"]["properties"]["action"]
    assert step.pop("description")
    assert step == {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    post = described["paths"]["/v1/sessions/{session}/step"]["post"]
    assert post["requestBody"]["content"]["application/json"]["example"]["action"] == [[0.0]]


def test_accept_chooses_the_encoding_of_the_answer(server: VectorServer) -> None:
    session = server.session()
    for accept, media_type in [
        ("application/msgpack", "application/msgpack"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/json;q=0.2, application/x-msgpack", "application/msgpack"),
    ]:
        answer = server.ask("GET", session, headers={"Accept": accept})
        assert answer.headers["content-type"] == media_type
        assert answer.body["worlds"] == 2
    both = server.ask("POST", f"{session}/reset", {"step": 1}, {"Accept": "application/msgpack"})
    assert array(both.body["active"]).tolist() == [True] * 4


def test_a_sessions_life(server: VectorServer) -> None:
    created = server.create(worlds=3, seed=2**64 - 1, first_world=9)
    session = f"/v1/sessions/{created['session']}"
    assert created["step"] == 0
    assert (created["seed"], created["first_world"], created["expires_seconds"]) == (2**64 - 1, 9, 300.0)
    assert created["environment"] == "snake"
    assert server.step(session, 1, [0] * 6).status == 200
    info = server.ask("GET", session).body
    assert info == {
        "session": created["session"], "step": 1, "seed": 2**64 - 1, "first_world": 9, "worlds": 3,
        "metrics": {"food": info["metrics"]["food"]},
    }  # fmt: skip
    assert len(info["metrics"]["food"]) == 6
    shot = server.ask("GET", f"{session}/worlds/2").body
    assert (shot["step"], shot["world"]) == (1, 2)
    assert len(shot["snapshot"]["bodies"]) == 2
    again = server.ask("POST", f"{session}/reset", {"step": 2}).body
    assert again["episode"] == [1, 1, 1]
    anew = server.ask("POST", f"{session}/reset", {"step": 3, "seed": 2**64 - 1}).body
    assert anew["episode"] == [0, 0, 0]
    assert anew["observation"] == created["observation"]
    gone = server.ask("DELETE", session)
    assert (gone.status, gone.raw) == (204, b"")
    assert server.ask("GET", session).problem("unknown_session")["field"] == "session"


def test_a_state_goes_on_where_it_was_taken_in_another_session(server: VectorServer) -> None:
    first, second = server.session(seed=3), server.session(seed=4)
    server.step(first, 1, [0, 1, 2, 0])
    taken = server.ask("GET", f"{first}/state", headers=MSGPACK)
    assert taken.headers["content-type"] == "application/msgpack"
    assert taken.body["step"] == 1
    body = msgspec.msgpack.encode({"step": 1, "state": taken.body["state"]})
    restored = server.ask("POST", f"{second}/state", body, MSGPACK)
    assert restored.status == 200, restored.raw
    assert server.ask("POST", f"{second}/state", body, MSGPACK).raw == restored.raw
    assert server.ask("GET", second).body["seed"] == 3
    onward = [server.step(session, 2, [1, 0, 0, 2]).body for session in (first, second)]
    assert onward[0] == onward[1]


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_long_answers_in_json_are_made_in_a_thread_and_are_the_same(
    server: VectorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = server.session(worlds=9, seed=7)
    twin = server.session(worlds=9, seed=7)
    here = server.step(session, 1, [0] * 18)
    makers: list[bool] = []

    def encode(message: Any) -> bytes:
        makers.append(in_event_loop())
        return plain.encode(message)

    plain = encoding.json
    monkeypatch.setattr(encoding, "json", Encoding(plain.media_type, encode, plain._decode))
    monkeypatch.setattr(vector_routes, "_INLINE_NUMBERS", 9 * 18)
    assert server.step(twin, 1, [0] * 18).raw == here.raw
    with server.socket(twin) as socket_of_twin:
        socket_of_twin.send(msgspec.json.encode({"step": 1, "action": [0] * 18}).decode())  # the stored answer
        assert msgspec.json.decode(socket_of_twin.recv()) == here.body
    server.ask("GET", twin)  # whose answer is short
    assert makers == [False, False, True]


def test_a_long_answer_is_not_changed_by_the_step_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_routes, "_INLINE_NUMBERS", 2)
    live, other = np.zeros(3, np.int32), np.zeros((1, 2), np.int32)

    async def encode_while_the_next_step_is_taken() -> bytes:
        encoding_it = asyncio.create_task(vector_routes._encode(encoding.json, {"a": ReusedArray(live), "b": other}))
        await asyncio.sleep(0)
        live[:] = other[:] = 1
        return await encoding_it

    assert asyncio.run(encode_while_the_next_step_is_taken()) == b'{"a":[0,0,0],"b":[[0,0]]}'


def test_a_state_is_read_in_a_thread(server: VectorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[bool] = []
    read_state = vector_routes._read_state

    def read(body: bytes) -> Any:
        readers.append(in_event_loop())
        return read_state(body)

    monkeypatch.setattr(vector_routes, "_read_state", read)
    session = server.session(worlds=2, seed=1)
    state = server.ask("GET", f"{session}/state", headers=MSGPACK).body["state"]
    body = msgspec.msgpack.encode({"step": 1, "state": state})
    assert server.ask("POST", f"{session}/state", body, MSGPACK).status == 200
    assert readers == [False]


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(server: VectorServer) -> None:
    session = server.session()
    state = server.ask("GET", f"{session}/state").body["state"]
    for name, broken in [
        ("seed", packed([1, 2], "uint64")),
        ("board", packed([[0]], "uint8")),
        ("agent", {**state["agent"], "data": bytes([255]) * len(state["agent"]["data"])}),
        ("active", {"dtype": "bool", "shape": [4], "data": b"\x02\x01\x01\x01"}),
        ("ring", {"dtype": "uint8", "shape": [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], "data": b""}),
    ]:
        body = msgspec.msgpack.encode({"step": 1, "state": {**state, name: broken}})
        problem = server.ask("POST", f"{session}/state", body, MSGPACK).problem("bad_value")
        assert problem["field"].startswith("state"), problem
    missing = msgspec.msgpack.encode({"step": 1, "state": {}})
    server.ask("POST", f"{session}/state", missing, MSGPACK).problem("bad_value")
    after = server.ask("GET", f"{session}/state")
    assert after.body == {"step": 0, "state": state, "crc32c": after.raw[-4:]}


PROBLEMS: list[tuple[str, str, Any, dict[str, str], str, str | None]] = [
    ("POST", "", b"", JSON, "bad_request", None),
    ("POST", "", b"{", {}, "unsupported_type", "Content-Type"),
    ("POST", "", b"{", JSON, "bad_request", None),
    ("POST", "", b"[]", JSON, "bad_request", None),
    ("POST", "", {}, {}, "bad_value", "worlds"),
    ("POST", "", {"worlds": 0}, {}, "bad_value", "worlds"),
    ("POST", "", {"worlds": 1001}, {}, "bad_value", "worlds"),
    ("POST", "", {"worlds": 1.5}, {}, "bad_value", "worlds"),
    ("POST", "", {"worlds": 1, "seed": -1}, {}, "bad_value", "seed"),
    ("POST", "", b'{"worlds": 1, "seed": 18446744073709551616}', JSON, "bad_value", "seed"),
    ("POST", "", {"worlds": 2, "first_world": 2**32 - 1}, {}, "bad_value", "worlds"),
    ("POST", "", {"worlds": 1, "options": {"widht": 9}}, {}, "bad_value", "options"),
    ("POST", "", {"worlds": 1, "options": {"width": 9, "rewards": {"alive": "x"}}}, {}, "bad_value", "options"),
    ("POST", "", {"worlds": 1, "world": 1}, {}, "bad_value", "world"),
    ("POST", "", b'{"worlds":1,"options":{"width":' + b"[" * 900 + b"]" * 900 + b"}}", JSON, "bad_value", "options"),
    ("POST", "", b'{"worlds":1,"options":{"width":' + b"[" * 30000 + b"]" * 30000 + b"}}", JSON, "bad_request", None),
    ("POST", "", b"\xc1", MSGPACK, "bad_request", None),
    ("POST", "", b"x" * 65537, JSON, "too_large", None),
    ("POST", "/ID/reset", b"[" * 5000, JSON, "too_large", None),
    ("POST", "", b"{}", {"Content-Type": "text/plain"}, "unsupported_type", "Content-Type"),
    ("POST", "", {"worlds": 1}, {"Accept": "text/html"}, "not_acceptable", "Accept"),
    ("GET", "", None, {}, "wrong_method", None),
    ("GET", "/ID/step", None, {}, "wrong_method", None),
    ("PUT", "/ID", None, {}, "wrong_method", None),
    ("TRACE", "/ID", None, {}, "wrong_method", None),
    ("PATCH", "/ID/state", None, {}, "wrong_method", None),
    ("POST", "/ID/worlds/0", b"", {}, "wrong_method", None),
    ("GET", "/ID/worlds/2", None, {}, "bad_value", "world"),
    ("GET", "/ID/worlds/-1", None, {}, "bad_value", "world"),
    ("GET", "/ID/worlds/99999999999", None, {}, "bad_value", "world"),
    ("GET", "/ID/worlds/%EF%BC%91", None, {}, "bad_value", "world"),
    ("GET", "/ID/worlds", None, {}, "unknown_path", None),
    ("GET", "/ID/", None, {}, "unknown_path", None),
    ("GET", "//ID", None, {}, "unknown_path", None),
    ("GET", "/ID/ws", None, {}, "upgrade_required", None),
    ("POST", "/ID/step", {"step": 2, "action": [0, 0, 0, 0]}, {}, "wrong_step", "step"),
    ("POST", "/ID/step", {"step": 0, "action": [0, 0, 0, 0]}, {}, "wrong_step", "step"),
    ("POST", "/ID/step", {"step": -1, "action": [0, 0, 0, 0]}, {}, "bad_value", "step"),
    ("POST", "/ID/step", {"step": 1}, {}, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": [0, 0, 0]}, {}, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": [0, 0, 0, 3]}, {}, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": [0, 0, 0, -1]}, {}, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": [0, 0, 0, True]}, {}, "bad_value", "action"),
    ("POST", "/ID/step", b'{"step":1,"action":[0,0,0,18446744073709551616]}', JSON, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": [0, 0, 0, 0], "seed": 1}, {}, "bad_value", "seed"),
    ("POST", "/ID/step", {"step": 1, "action": packed([0] * 4, "bool")}, MSGPACK, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": packed([0] * 4, "float32")}, MSGPACK, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": packed([[0] * 4], "int32")}, MSGPACK, "bad_value", "action"),
    ("POST", "/ID/step", {"step": 1, "action": [0] * 4}, MSGPACK, "bad_value", "action"),
    ("POST", "/ID/reset", {"step": 1, "seed": 2**64 - 1, "x": 1}, {}, "bad_value", "x"),
    ("POST", "/ID/reset", b"", {}, "bad_request", None),
    ("POST", "/ID/state", {"step": 1, "state": {}}, {}, "unsupported_type", "Content-Type"),
    ("DELETE", "/0000000000000000", None, {}, "unknown_session", "session"),
    ("POST", "/0000000000000000/step", {"step": 1, "action": []}, {}, "unknown_session", "session"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "code", "field"), PROBLEMS)
def test_problems(
    server: VectorServer, method: str, path: str, body: Any, headers: dict[str, str], code: str, field: str | None
) -> None:
    session = server.session()
    if headers is MSGPACK and isinstance(body, dict):
        body = msgspec.msgpack.encode(body)
    answer = server.ask(
        method, f"/v1/sessions{path.replace('/ID', session.removeprefix('/v1/sessions'))}", body, headers
    )
    problem = answer.problem(code)
    assert problem.get("field") == field
    if code == "wrong_method":
        allowed = answer.headers["allow"].split(", ")
        assert method not in allowed
        assert set(allowed) <= {"GET", "POST", "DELETE"}
    if code == "wrong_step":
        assert problem["expected"] == 1
    assert server.step(session, 1, [0, 0, 0, 0]).status == 200  # nothing used up the number
    assert server.ask("DELETE", session).status == 204


def test_a_repeated_request_gets_the_stored_answer_whatever_the_encoding_of_answers(server: VectorServer) -> None:
    session = server.session(worlds=700)
    steps = server.metric("rattle_env_steps_total")
    action = [0] * 1400  # a body that is remembered by its hash
    first = server.step(session, 1, action)
    assert server.step(session, 1, action).raw == first.raw
    assert server.step(session, 1, [*action[:-1], 1]).problem("wrong_step")["expected"] == 2
    server.ask("POST", f"{session}/reset", {"step": 1}).problem("wrong_step")
    assert server.metric("rattle_env_steps_total") == steps + 700
    assert server.step(session, 2, action).status == 200
    server.step(session, 1, action).problem("wrong_step")
    server.ask("DELETE", session)


def test_sessions_have_limits_that_say_when_to_come_again() -> None:
    with serving("env_service.max_sessions=2", "env_service.session_seconds=0.2") as server:
        for _ in range(2):
            last = server.session()
        eventually(lambda: server.metric("rattle_env_sessions") == 0)  # nobody has to ask for that
        server.step(last, 1, [0, 0]).problem("unknown_session")
        server.session()
    with serving("env_service.max_sessions=2") as server:
        first = server.session()
        server.session()
        answer = server.ask("POST", "/v1/sessions", {"worlds": 1})
        answer.problem("full")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        server.ask("DELETE", first)
        server.session()


def test_worlds_beyond_the_memory_are_refused_before_they_are_made() -> None:
    with serving("env_service.max_memory_bytes=1048576") as server:
        huge = {"width": 128, "height": 128, "num_snakes": 8}
        problem = server.ask("POST", "/v1/sessions", {"worlds": 65536, "options": huge}).problem("bad_value")
        assert problem["field"] == "worlds"
        one = server.session(worlds=600)
        server.ask("POST", "/v1/sessions", {"worlds": 600}).problem("full")
        server.ask("DELETE", one)
        server.session(worlds=600)


def test_what_other_environments_are_served() -> None:
    with serving("env.id=gym:CartPole-v1") as server:
        created = server.create(worlds=2, seed=5)
        assert created["observation_space"] == {"kind": "floats", "size": 4}
        local = make_worlds("gym:CartPole-v1", {}, 2, 5)
        assert np.allclose(created["observation"], local.observation)
        session = f"/v1/sessions/{created['session']}"
        for number in range(1, 40):
            said = server.step(session, number, [0, 1]).body
            local.step(np.array([0, 1]))
            assert np.array_equal(np.array(said["observation"], np.float32), local.observation)
            assert said["terminated"] == local.terminated.tolist()
        server.ask("GET", "/state").problem("no_agent_api")
        assert server.ask("GET", "/").body["capacity"] == 0
        bad = server.ask("POST", "/v1/sessions", {"worlds": 1, "options": {"entry_point": "os:system"}})
        assert bad.problem("bad_value")["field"] == "options"
        for wrapper in ("os:system", {"use": "RecordVideo", "video_folder": "v"}, {"use": "TimeLimit", "x": 1}, []):
            bad = server.ask("POST", "/v1/sessions", {"worlds": 1, "options": {"wrappers": [wrapper]}})
            assert bad.problem("bad_value")["field"] == "options"
        stacked = [{"use": "FrameStackObservation", "stack_size": 3}, {"use": "FlattenObservation"}]
        created = server.create(worlds=1, seed=5, options={"wrappers": stacked})
        assert created["observation_space"] == {"kind": "floats", "size": 12}
        assert created["settings"] == {"wrappers": stacked}
        deep = b'{"worlds":1,"options":{"render_mode":' + b"[" * 900 + b"]" * 900 + b"}}"
        assert server.ask("POST", "/v1/sessions", deep, JSON).problem("bad_value")["field"] == "options"


@pytest.mark.parametrize("settings", [{}, {"masked": "well"}])  # which raises where infos forbid an action
def test_a_pettingzoo_game_is_served_with_all_its_agents(settings: dict[str, str]) -> None:
    own = [f"env.{name}={value}" for name, value in settings.items()]
    with serving("env.id=pettingzoo:tests.envs.parallel_party", *own) as server:
        created = server.create(worlds=2, seed=5)
        agents = created["agents_per_world"]
        assert agents > 1
        session = f"/v1/sessions/{created['session']}"
        local = make_worlds("pettingzoo:tests.envs.parallel_party", settings, 2, 5)
        random = np.random.default_rng(0)
        for number in range(1, 20):
            actions = random_actions(local, random)
            said = server.step(session, number, actions.tolist()).body
            local.step(actions)
            for name in ("observation", "reward", "terminated", "truncated", "active", "episode"):
                assert said[name] == getattr(local, name).tolist()


def test_bodies_that_are_too_large_or_never_come(server: VectorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=240) as client:
        head = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * 5)
        assert b" 413 " in client.recv(65536)
    with socket.create_connection(("127.0.0.1", server.port), timeout=240) as client:
        client.sendall(head + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.1)
    for begun in (b"", b"{"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=240) as client:
            client.sendall(head + b"Content-Length: 9\r\n\r\n" + begun)
            answer = b"".join(iter(lambda client=client: client.recv(65536), b""))  # until it closes
            assert b" 400 " in answer
            assert b"did not arrive" in answer


def test_many_clients_make_and_step_sessions_at_once(server: VectorServer) -> None:
    failures: list[BaseException] = []

    def play(seed: int) -> None:
        try:
            session = server.session(seed=seed)
            for number in range(1, 20):
                assert server.step(session, number, [0] * 4).status == 200
            assert server.ask("DELETE", session).status == 204
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def crc32c(content: bytes) -> bytes:
    """Return the checksum bit by bit, as the standard defines it."""
    remainder = 0xFFFFFFFF
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ 0x82F63B78 * (remainder & 1)
    return (remainder ^ 0xFFFFFFFF).to_bytes(4, "little")


def checked(message: dict[str, Any]) -> bytes:
    """Return a message in MessagePack that ends in its checksum, as the documents say."""
    blank = msgspec.msgpack.encode({**message, "crc32c": bytes(4)})
    return blank[:-4] + crc32c(blank[:-4])


def test_every_answer_in_messagepack_ends_in_its_checksum(server: VectorServer) -> None:
    accept = {"Accept": "application/msgpack"}
    session = server.session()
    action = packed([0] * 4, "uint8")
    answers = [
        server.ask("GET", "/v1/spec", headers=accept),
        server.ask("POST", "/v1/sessions", checked({"worlds": 1, "seed": 1}), MSGPACK),
        server.ask("POST", f"{session}/step", checked({"step": 1, "action": action}), MSGPACK),
        server.ask("POST", f"{session}/step", msgspec.msgpack.encode({"step": 2, "action": action}), MSGPACK),
        server.ask("POST", f"{session}/reset", checked({"step": 3}), MSGPACK),
        server.ask("GET", session, headers=accept),
        server.ask("GET", f"{session}/worlds/0", headers=accept),
        server.ask("GET", f"{session}/state"),
    ]
    state = answers[-1].body["state"]
    answers.append(server.ask("POST", f"{session}/state", checked({"step": 4, "state": state}), MSGPACK))
    assert [answer.status for answer in answers] == [200, 201, *[200] * 7]
    for answer in answers:
        assert answer.raw[-13:-4] == b"\xa6crc32c\xc4\x04"
        assert answer.raw[-4:] == crc32c(answer.raw[:-4]) == answer.body["crc32c"]
    assert "crc32c" in answers[0].body["features"]
    assert "crc32c" not in server.ask("GET", session).body


def test_a_damaged_request_is_refused_changes_nothing_and_is_counted(server: VectorServer) -> None:
    session, before = server.session(), server.metric("rattle_damaged_messages_total")
    whole = checked({"step": 1, "action": packed([1] * 4, "uint8")})
    damaged = [
        whole.replace(b"\x01" * 4, b"\x01\x01\x00\x01"),
        whole[:-1] + bytes([whole[-1] ^ 1]),
        b"\xff" + whole[1:],
    ]
    for content in damaged:
        assert server.ask("POST", f"{session}/step", content, MSGPACK).problem("damaged")["status"] == 400
    with server.socket(session) as socket:
        for content in damaged:
            socket.send(content)
            assert msgspec.json.decode(socket.recv())["code"] == "damaged"
        socket.send(whole)
        assert msgspec.msgpack.decode(socket.recv())["step"] == 1
    assert server.metric("rattle_damaged_messages_total") == before + 2 * len(damaged)


def test_a_checksum_that_is_not_the_last_member_or_of_json_is_refused(server: VectorServer) -> None:
    session = server.session()
    first = msgspec.msgpack.encode({"crc32c": bytes(4), "step": 1, "action": packed([1] * 4, "uint8")})
    assert server.ask("POST", f"{session}/step", first, MSGPACK).problem("bad_value")["field"] == "crc32c"
    listed = {"step": 1, "action": [1] * 4, "crc32c": "AAAAAA=="}
    assert server.ask("POST", f"{session}/step", listed).problem("bad_value")["field"] == "crc32c"


def test_clients_change_settings_beside_wrappers_of_a_user(user_module: UserModule) -> None:
    user_module(
        "halved",
        """
        import gymnasium

        class Halved(gymnasium.RewardWrapper):
            def reward(self, reward):
                return reward / 2
        """,
    )
    with serving("env.id=gym:CartPole-v1", "env.wrappers=[halved:Halved]") as server:
        session = server.session(options={"sutton_barto_reward": False}, worlds=1)
        assert server.step(session, 1, [0]).body["reward"] == [0.5]
        short = {"use": "TimeLimit", "max_episode_steps": 1}
        session = server.session(options={"wrappers": [{"use": "halved:Halved"}, short]}, worlds=1)
        said = server.step(session, 1, [0]).body
        assert (said["reward"], said["truncated"]) == ([0.5], [True])
        other = {"worlds": 1, "options": {"wrappers": [{"use": "halved:gymnasium"}]}}
        assert "halved:gymnasium" in server.ask("POST", "/v1/sessions", other).problem("bad_value")["detail"]
