"""The agent API over real sockets: requests and their problems, streams, clocks, clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
from http.client import IncompleteRead
from itertools import pairwise
from typing import Any

import pytest

from rattle.services.env.agent_routes import NoAgentApi, agent_routes
from rattle.services.env.clocks import SyncClock
from rattle.wire.problems import RequestError
from tests.services.env.agent_server import ENDLESS, AgentServer, eventually, serving

SLOW = {"clock": "turns", "turn_seconds": 1000.0}  # no tick unless all move


def test_health_and_state_as_the_contract_shows_them() -> None:
    with serving(**SLOW) as server:
        status, headers, health = server.ask("GET", "/")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert list(health) == [
            "service", "environment", "version", "game_over", "agents", "capacity", "tick", "clock",
        ]  # fmt: skip
        server.follow("anna").ticks(1)
        state = server.ask("GET", "/state")[2]
        assert set(state) == {
            "grid", "visions", "status", "global_game_over", "tick", "episode", "seed", "width", "height",
            "vision_radius", "clock",
        }  # fmt: skip
        assert state["status"]["anna"]["game_over"] is False
        x, y = state["status"]["anna"]["head"]
        assert state["grid"][f"{x},{y}"] == [{"type": "HEAD", "snake_id": "anna"}]
        assert len(state["visions"]["anna"]) == 61
        assert [{"type": "FOOD", "snake_id": None}] in state["grid"].values()


def test_a_stream_begins_with_how_things_stand_and_brings_every_tick() -> None:
    with serving(fps=100) as server:
        stream = server.follow("anna")
        assert stream.response.getheader("content-type") == "application/x-ndjson"
        first = stream.line()
        assert list(first) == ["snake_id", "tick", "visible_cells", "reward", "game_over", "datetime", "length"]
        assert (first["snake_id"], first["tick"], first["reward"], first["length"]) == ("anna", 0, 0.0, 3)
        assert stream.ticks(20) == list(range(1, 21))


def test_a_move_turns_the_snake_and_a_dead_snake_is_told() -> None:
    with serving({"width": 9, "height": 9, "max_steps_without_food": 3}, clock="turns", turn_seconds=1000) as server:
        stream = server.follow("anna")
        stream.line()
        heading = server.ask("GET", "/state")[2]["status"]["anna"]["heading"]
        assert server.move("anna", "left") == {"snake_id": "anna", "game_over": False}
        line = stream.line()
        turned = {"north": "west", "west": "south", "south": "east", "east": "north"}
        if not line["game_over"]:
            assert server.ask("GET", "/state")[2]["status"]["anna"]["heading"] == turned[heading]
        while not line["game_over"]:
            server.move("anna")
            line = stream.line()
        assert stream.rest() == []
        assert server.move("anna") == {"snake_id": "anna", "game_over": True}
        assert server.ask("GET", "/")[2]["game_over"] is True
        again = server.follow("anna", connection=stream.connection)  # on the same connection
        assert again.line()["tick"] == 0
        assert server.ask("GET", "/state")[2]["episode"] == 1


def test_reset_ends_all_streams_properly() -> None:
    with serving(**SLOW, snakes=3) as server:
        streams = [server.follow("anna"), server.follow("ben"), server.follow("ben", "?lines=all")]
        assert server.ask("POST", "/reset", {"seed": 2**63 - 1})[2] == {"game_over": False, "seed": 2**63 - 1}
        for stream in streams:
            lines = stream.rest()
            assert lines[-1]["game_over"]
        server.follow("anna")
        assert server.ask("GET", "/state")[2]["seed"] == 2**63 - 1
        assert server.ask("POST", "/reset")[2]["game_over"] is False


def test_reset_of_a_snake_gives_it_a_new_life() -> None:
    with serving(**SLOW, snakes=2) as server:
        anna, ben = server.follow("anna"), server.follow("ben")
        assert server.ask("POST", "/snake/anna/reset")[2] == {"snake_id": "anna", "game_over": False}
        assert anna.rest()[-1]["game_over"]
        assert server.agents() == 2
        ben.line()
        server.follow("anna").line()


PROBLEMS: list[tuple[str, str, Any, dict[str, str], int, str, str | None]] = [
    ("POST", "/snake/anna/move", b"{", {}, 400, "bad_request", None),
    ("POST", "/snake/anna/move", b"", {}, 400, "bad_request", None),
    ("POST", "/snake/anna/move", b"\xff", {}, 400, "bad_request", None),
    ("POST", "/snake/anna/move", ["left"], {}, 400, "bad_request", None),
    ("POST", "/snake/anna/move", b"null", {}, 400, "bad_request", None),
    ("POST", "/snake/anna/move", b"[" * 900, {}, 400, "bad_request", None),
    ("POST", "/snake/anna/move", {}, {}, 400, "bad_value", "move"),
    ("POST", "/snake/anna/move", {"move": "up"}, {}, 400, "bad_value", "move"),
    ("POST", "/snake/anna/move", {"move": 1}, {}, 400, "bad_value", "move"),
    ("POST", "/snake/anna/move", {"move": "left", "speed": 2}, {}, 400, "bad_value", "speed"),
    ("POST", "/snake/anna/move", {"move": "left" * 300}, {}, 413, "too_large", None),
    ("POST", "/snake/anna/move", {"move": "left"}, {"Content-Type": "text/plain"}, 415, "unsupported_type", None),
    ("POST", "/snake/nobody/move", {"move": "left"}, {}, 404, "unknown_snake", None),
    ("POST", "/snake/a%20b/move", {"move": "left"}, {}, 400, "bad_value", "id"),
    ("POST", "/snake/nobody/reset", None, {}, 404, "unknown_snake", None),
    ("POST", "/snake/anna/reset", {"seed": 1}, {}, 400, "bad_value", "seed"),
    ("POST", "/reset", {"seed": -1}, {}, 400, "bad_value", "seed"),
    ("POST", "/reset", {"seed": None}, {}, 400, "bad_value", "seed"),
    ("POST", "/reset", {"seed": 2**64}, {}, 400, "bad_value", "seed"),
    ("POST", "/reset", {"sed": 1}, {}, 400, "bad_value", "sed"),
    ("GET", "/snake/a%22b", None, {}, 400, "bad_value", "id"),
    ("GET", "/snake/" + "x" * 65, None, {}, 400, "bad_value", "id"),
    ("GET", "/snake/", None, {}, 400, "bad_value", "id"),
    ("GET", "/snake/anna?lines=some", None, {}, 400, "bad_value", "lines"),
    ("GET", "/snake/ben", None, {}, 503, "full", None),
    ("GET", "/snake/anna/eyes", None, {}, 404, "unknown_path", None),
    ("GET", "/nothing", None, {}, 404, "unknown_path", None),
    ("GET", "/reset", None, {}, 405, "wrong_method", None),
    ("POST", "/", None, {}, 405, "wrong_method", None),
    ("DELETE", "/snake/anna", None, {}, 405, "wrong_method", None),
    ("GET", "/snake/anna/move", None, {}, 405, "wrong_method", None),
]


def test_problems_say_what_is_wrong_and_change_nothing() -> None:
    with serving(**SLOW, max_body_bytes=1024) as server:
        stream = server.follow("anna")
        for method, path, body, headers, status, code, field in PROBLEMS:
            got, got_headers, problem = server.ask(method, path, body, headers)
            assert (got, problem["code"]) == (status, code), (method, path, body)
            assert problem.get("field") == field or code == "unsupported_type", (method, path, body)
            assert got_headers["content-type"] == "application/problem+json"
            assert problem["error"] == problem["detail"]
            assert problem["status"] == status
            assert ("retry-after" in got_headers) == (status == 503)
            assert ("allow" in got_headers) == (status == 405)
        assert server.agents() == 1
        server.move("anna")
        assert stream.ticks(2) == [0, 1]


@pytest.mark.parametrize(
    ("content_type", "status"), [("", 415), ("application/json", 200), ("Application/JSON; charset=utf-8", 200)]
)
def test_moves_are_json_and_say_so(content_type: str, status: int) -> None:
    with serving(**SLOW) as server:
        server.follow("anna")
        headers = {"Content-Type": content_type}
        assert server.ask("POST", "/snake/anna/move", {"move": "left"}, headers)[0] == status


def test_several_readers_follow_one_snake() -> None:
    with serving(fps=200, leave_seconds=0.0) as server:
        first = server.follow("anna")
        first.ticks(3)
        others = [server.follow("anna") for _ in range(5)]
        starts = [other.ticks(1)[0] for other in others]
        first.close()  # its snake stays: others read it
        for other, start in zip(others, starts, strict=True):
            assert other.ticks(30) == list(range(start + 1, start + 31))
        assert server.agents() == 1


def test_snakes_come_and_go_while_others_play() -> None:
    with serving(ENDLESS | {"food": 20}, fps=100, snakes=8, leave_seconds=0.05) as server:
        visitors = 0
        stays = server.follow("stays", "?lines=all")
        last = stays.line()["tick"]
        for round_ in range(4):
            streams = [server.follow(f"v{round_}-{number}") for number in range(5)]
            visitors += len(streams)
            for stream in streams:
                stream.line()
                stream.close()
            for _ in range(15):
                line = stays.line()
                if line["game_over"]:  # bitten by a visitor
                    stays = server.follow("stays", "?lines=all")
                    line = stays.line()
                else:
                    assert line["tick"] == last + 1
                last = line["tick"]
        stays.close()
        eventually(lambda: server.agents() == 0)
        eventually(lambda: len(server.face.streams) == 0)


@pytest.mark.parametrize("way", ["half closed", "reset", "closed"])
def test_a_client_that_goes_is_noticed(way: str) -> None:
    with serving(fps=50, leave_seconds=0.05) as server:
        stream = server.follow("anna")
        stream.ticks(3)
        if way == "half closed":
            assert stream.connection.sock is not None
            stream.connection.sock.shutdown(socket.SHUT_WR)
        elif way == "reset":
            stream.reset_connection()
        else:
            stream.close()
        eventually(lambda: len(server.face.streams) == 0)
        eventually(lambda: server.agents() == 0)
        server.follow("anna").ticks(3)


def test_a_world_that_was_full_takes_in_the_next_when_one_has_gone() -> None:
    with serving(fps=100, leave_seconds=0.0) as server:
        anna = server.follow("anna")
        status, headers, problem = server.ask("GET", "/snake/ben")
        assert (status, problem["code"]) == (503, "full")
        assert int(headers["retry-after"]) >= 1
        anna.close()
        eventually(lambda: server.agents() == 0)
        assert server.follow("ben").ticks(3) == [0, 1, 2]


WIDE = ENDLESS | {"vision_radius": 32}  # lines of 30 KB: buffers are full soon


def test_a_slow_reader_gets_the_newest_and_delays_nobody() -> None:
    with serving(WIDE, fps=300, snakes=1) as server:
        slow = server.follow("anna", buffer=4096)
        quick = server.follow("anna")
        start = slow.line()["tick"]
        behind = quick.line()["tick"]
        ticks = quick.ticks(600)
        assert ticks == sorted(set(ticks))
        assert ticks[-1] >= behind + 600
        newest = ticks[-1]
        seen = [start]
        while seen[-1] < newest:
            seen.append(slow.line()["tick"])
        assert seen == sorted(set(seen))
        largest_step = max(after - before for before, after in pairwise(seen))
        assert largest_step > 100  # what lay in buffers, and then the newest


def test_a_slow_reader_of_all_lines_is_cut_off_and_its_connection_is_not_ended_properly() -> None:
    with serving(WIDE, fps=1000, snakes=1) as server:
        slow = server.follow("anna", "?lines=all", buffer=4096)
        quick = server.follow("anna")
        eventually(lambda: len(server.face.streams) == 2)
        while len(server.face.streams) == 2:
            quick.line()
        with pytest.raises((IncompleteRead, ConnectionError)):
            slow.rest()
        quick.ticks(3)


def test_a_reader_of_all_lines_that_pauses_misses_none() -> None:
    with serving(WIDE, fps=300) as server:
        all_lines, quick = server.follow("anna", "?lines=all", buffer=4096), server.follow("anna")
        first = all_lines.line()["tick"]
        quick.ticks(400)
        assert all_lines.ticks(400) == list(range(first + 1, first + 401))


def test_shutting_down_gives_every_stream_its_last_line() -> None:
    with serving(fps=50, snakes=3) as server:
        streams = [server.follow(name, query) for name in ("anna", "ben") for query in ("", "?lines=all")]
        stuck = server.follow("carl", "?lines=all", buffer=4096)
        for stream in streams:
            stream.ticks(2)
        server.begin_shutdown()
        for stream in streams:
            lines = stream.rest()
            assert lines[-1]["game_over"]
            assert lines[-1]["visible_cells"]["5,5"] == "HEAD"
        stuck.close()


def test_a_face_that_is_stopped_lets_nobody_join() -> None:
    with serving(fps=50) as server:
        server.face.game.closed = True
        status, headers, problem = server.ask("GET", "/snake/anna")
        assert (status, problem["code"]) == (503, "shutting_down")
        assert "retry-after" in headers


def test_turns_wait_for_all_that_somebody_reads() -> None:
    with serving(ENDLESS, **SLOW, snakes=3) as server:
        anna, ben = server.follow("anna"), server.follow("ben")
        anna.line()
        ben.line()
        assert server.ask("POST", "/snake/anna/reset")[0] == 200  # its new life is read by nobody
        for tick in range(1, 4):
            server.move("ben")
            assert ben.line()["tick"] == tick
        anna = server.follow("anna")
        assert anna.line()["tick"] == 3
        server.move("ben")
        assert server.ask("GET", "/")[2]["tick"] == 3
        server.move("anna")
        assert anna.line()["tick"] == ben.line()["tick"] == 4
        server.move("ben")
        anna.close()  # nobody is left that has not moved
        assert ben.line()["tick"] == 5


def test_turns_end_at_their_deadline() -> None:
    with serving(ENDLESS, clock="turns", turn_seconds=0.02) as server:
        assert server.follow("anna").ticks(6) == list(range(6))


def test_the_clock_stands_still_while_nobody_lives_and_starts_anew() -> None:
    for clock in ({"clock": "realtime", "fps": 200.0}, {"clock": "turns", "turn_seconds": 0.01}):
        with serving({"max_steps_without_food": 2, "width": 30, "height": 30}, **clock) as server:
            for _ in range(3):
                lines = server.follow("anna").rest()
                assert [line["tick"] for line in lines] == list(range(len(lines)))
                assert lines[-1]["game_over"]


def sync_port(server: AgentServer) -> int:
    clock = server.face.clock
    assert isinstance(clock, SyncClock)
    return clock.port


def send_tick(server: AgentServer, sequence: object, second: int) -> None:
    data = json.dumps({"sequence": sequence, "timestamp": f"2026-01-31T12:00:{second:02d}+00:00"}).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, ("127.0.0.1", sync_port(server)))


def test_sync_ticks_with_each_new_datagram() -> None:
    with serving(ENDLESS, clock="sync", sync_port=0, leave_seconds=0.05) as server:
        clock = server.face.clock
        assert isinstance(clock, SyncClock)
        stream = server.follow("anna", "?lines=all")
        assert stream.line()["tick"] == 0
        for tick, sequence in enumerate((1, 2, 5), start=1):
            send_tick(server, sequence, tick)
            assert stream.line()["tick"] == tick
        for old in (5, 3, 1, "six"):
            send_tick(server, old, 1)
        eventually(lambda: clock.datagrams.ignored == 4)
        assert server.ask("GET", "/")[2]["tick"] == 3
        send_tick(server, 1, 30)  # the sender has started anew
        assert stream.line()["tick"] == 4
        stream.close()
        eventually(lambda: server.agents() == 0)  # it leaves, though no tick comes


def test_routes_cover_the_api_and_say_so_where_there_is_none() -> None:
    routes = agent_routes(NoAgentApi())
    assert {route.path for route in routes} == {
        "/", "/state", "/reset", "/v1/history",
        "/snake/{snake_id}", "/snake/{snake_id}/move", "/snake/{snake_id}/reset",
    }  # fmt: skip
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(NoAgentApi()({"type": "http"}, receive, send))
    assert sent[0]["status"] == RequestError("no_agent_api", "").status == 404
    assert json.loads(sent[1]["body"])["code"] == "no_agent_api"
