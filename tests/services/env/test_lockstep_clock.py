"""The agent API in lockstep, over real sockets: joins that wait, steps, hashes, and the end of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rattle.clients.agent_protocol import observation
from rattle.clients.errors import ClientError
from rattle.clients.keys import KeyFileError
from rattle.envs.snake.settings import SnakeSettings
from rattle.services.env.agent_routes import AgentFace
from rattle.services.env.lockstep_clock import LockstepClock
from rattle.settings.services import EnvServiceSection, SyncSection
from rattle.wire.history import BEGINNING, PLACED, after_line
from tests.services.env.agent_server import AgentServer, eventually, serving
from tests.services.env.fake_sync import FakeSync


def clock_of(server: AgentServer) -> LockstepClock:
    clock = server.face.clock
    assert isinstance(clock, LockstepClock)
    return clock


def waiting(server: AgentServer) -> int:
    return len(server.face.game._waiting)  # type: ignore[attr-defined]


@contextmanager
def led(key: bytes | None = None, sync: dict[str, Any] | None = None) -> Iterator[tuple[AgentServer, FakeSync]]:
    """Serve a world with room for two that is led by a Sync service."""
    with FakeSync(key) as leader:
        section = SyncSection(mode="lockstep", address=leader.address, **(sync or {}))
        with serving(sync=section, snakes=2) as server:
            leader.seat()
            yield server, leader
            server.begin_shutdown()
            if not leader.left:
                leader.say_goodbye()


def test_headers_come_at_once_and_the_first_line_with_the_next_tick() -> None:
    with led() as (server, leader):
        anna = server.follow("anna", "?lines=all")  # returns when the headers are there
        assert server.agents() == 0
        leader.step()
        assert anna.line()["tick"] == 0
        assert server.agents() == 1
        leader.step(2)
        assert anna.ticks(2) == [1, 2]
        assert server.ask("GET", "/")[2]["clock"] == "lockstep"


def test_both_sides_have_the_same_history_and_can_be_asked_for_it() -> None:
    with led() as (server, leader):
        anna, history = server.follow("anna", "?lines=all"), BEGINNING
        hashes = leader.step()
        for action, name in ((PLACED, ""), (0, "forward"), (1, "right"), (2, "left"), (0, "")):
            if action != PLACED:
                if name:
                    server.move("anna", name)
                hashes = leader.step()
            line = anna.line()
            codes = observation(line["visible_cells"])
            history = after_line(history, line["tick"], action, line["reward"], line["length"], False, codes)
            assert hashes["anna"] == history
        assert set(hashes) == {"env", "anna"}
        status, _, said = server.ask("GET", "/v1/history")
        assert (status, said) == (200, {"tick": 5, "world": hashes["env"].hex(), "snakes": {"anna": history.hex()}})


def test_a_repeated_tick_is_answered_and_not_stepped_again() -> None:
    with led() as (server, leader):
        anna = server.follow("anna", "?lines=all")
        hashes = leader.step(3)
        assert leader.repeat() == hashes
        leader.step()
        assert anna.ticks(4) == [0, 1, 2, 3]


def test_a_step_with_nobody_there_is_answered() -> None:
    with led(sync={"name": "world-3"}) as (server, leader):
        first, second = leader.step(), leader.step()
        assert set(first) == {"world-3"}
        assert first != second
        assert server.ask("GET", "/v1/history")[2]["tick"] == 2


def test_who_goes_away_while_waiting_is_not_placed_and_leaves_room() -> None:
    with led() as (server, leader):
        anna, ben = server.follow("anna"), server.follow("ben")
        status, headers, problem = server.ask("GET", "/snake/cleo")
        assert (status, problem["code"]) == (503, "full")
        assert "retry-after" in headers
        anna.reset_connection()
        eventually(lambda: waiting(server) == 1)
        cleo = server.follow("cleo")
        leader.step()
        assert ben.line()["tick"] == cleo.line()["tick"] == 0
        assert sorted(server.ask("GET", "/v1/history")[2]["snakes"]) == ["ben", "cleo"]


def test_a_reader_that_was_cut_off_goes_on_where_it_was() -> None:
    with led() as (server, leader):
        anna = server.follow("anna", "?lines=all")
        leader.step(2)
        assert anna.ticks(2) == [0, 1]
        anna.reset_connection()
        again = server.follow("anna", "?lines=all")
        assert again.line()["tick"] == 1
        leader.step()
        assert again.line()["tick"] == 2


def test_streams_end_in_good_order_when_the_service_stops() -> None:
    with led() as (server, leader):
        anna = server.follow("anna", "?lines=all")
        leader.step()
        ben = server.follow("ben", "?lines=all")
        server.begin_shutdown()
        leader.say_goodbye()
        assert [line["game_over"] for line in anna.rest()] == [False, True]
        assert ben.rest() == []


def test_who_is_refused_says_why_and_goes_on_serving(caplog: pytest.LogCaptureFixture) -> None:
    with FakeSync() as leader, serving(sync=SyncSection(mode="lockstep", address=leader.address)) as server:
        assert clock_of(server).member.state == "joining"
        said = server.ask("GET", "/v1/history")[2]
        assert said == {"tick": 0, "world": BEGINNING.hex(), "snakes": {}}
        with caplog.at_level(logging.WARNING):
            leader.refuse("nobody of this name is waited for")
            eventually(lambda: clock_of(server).member.state == "ended")
        assert "nobody of this name is waited for" in caplog.text
        assert server.ask("GET", "/")[0] == 200  # it goes on serving


def test_sealed_datagrams_lead_and_others_do_not(tmp_path: Path) -> None:
    key = b"a key that nobody guesses, so far"
    file = tmp_path / "key"
    file.write_bytes(key)
    file.chmod(0o600)
    with led(key, {"key_file": str(file)}) as (server, leader):
        leader.step()
        assert clock_of(server).tick == 1


@pytest.mark.parametrize(
    ("sync", "error"), [({"address": "nowhere"}, ClientError), ({"key_file": "/no/such/file"}, KeyFileError)]
)
def test_settings_that_lead_nowhere_are_refused_at_once(sync: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="sync\\."):
        AgentFace(EnvServiceSection(), SnakeSettings(), 1, SyncSection(mode="lockstep", **sync))


def test_there_is_no_history_outside_of_lockstep() -> None:
    with serving() as server:
        status, _, problem = server.ask("GET", "/v1/history")
        assert (status, problem["code"]) == (404, "no_history")
