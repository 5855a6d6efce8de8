"""The agent's client against real servers: sound ones, faulty ones, dying ones and silent ones."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from rattle.clients import agent_client
from rattle.clients.agent_client import (
    AgentClient,
    AgentState,
    AsyncAgentClient,
    BadAnswer,
    LinkTimeouts,
    NoAnswer,
    NotSent,
    SnakeLost,
    StreamBroken,
)
from rattle.clients.agent_protocol import Lines
from rattle.clients.errors import ClientError, ConnectionBroken, RequestRefused
from rattle.services.mock_env.script import line
from rattle.services.mock_env.server import MockEnv, MockSettings
from tests.ports import free_port
from tests.services.mock_env.servers import mock_env_process

PATIENT = LinkTimeouts(retry=60.0)
IMPATIENT = LinkTimeouts(connect=5.0, answer=0.3, line=0.3, retry=0.3)

#: Plays a life with a move for each state, up to so many states; returns the states.
Player = Callable[..., list[AgentState]]


def play(
    url: str, limits: LinkTimeouts = PATIENT, lines: Lines = "newest", moves: bool = True, until: int = 10_000
) -> list[AgentState]:
    states = []
    with AgentClient(url, "anna", limits) as client:
        for state in client.states(lines):
            states.append(state)
            if state.game_over or state.tick >= until:
                break
            if moves:
                client.move("forward")
    return states


def play_async(
    url: str, limits: LinkTimeouts = PATIENT, lines: Lines = "newest", moves: bool = True, until: int = 10_000
) -> list[AgentState]:
    async def playing() -> list[AgentState]:
        states = []
        async with AsyncAgentClient(url, "anna", limits) as client:
            async for state in client.states(lines):
                states.append(state)
                if state.game_over or state.tick >= until:
                    break
                if moves:
                    await client.move("forward")
        return states

    return asyncio.run(playing())


both = pytest.mark.parametrize("player", [play, play_async], ids=["sync", "asyncio"])


@both
@pytest.mark.parametrize("lines", ["newest", "all"])
def test_a_life_from_end_to_end(player: Player, lines: Lines) -> None:
    with MockEnv(MockSettings(delay=3600)) as env:
        states = player(env.url, lines=lines)
    for tick, state in enumerate(states):
        expected = line("anna", tick, 10)
        assert (state.snake_id, state.tick, state.visible_cells) == ("anna", tick, expected.visible_cells)
        assert (state.reward, state.game_over, state.length) == (expected.reward, expected.game_over, expected.length)
    assert len(states) == 11
    assert states[1].observation().shape == (60,)


def test_everything_else_that_can_be_asked() -> None:
    with MockEnv(MockSettings(delay=3600)) as env, AgentClient(env.url + "/", "anna", PATIENT) as client:
        states = client.states()
        assert next(states).tick == 0
        assert not client.move("left")
        assert client.health().agents == 1
        assert client.state()["status"]["anna"]["length"] == 3
        client.reset_snake()
        assert [state.game_over for state in states] == [False, True]
        assert client.reset(seed=5) == 5
        assert client.reset() == 5
        assert client.move("left"), "the snake is dead"


def test_the_same_with_asyncio() -> None:
    async def ask(url: str) -> None:
        async with AsyncAgentClient(url, "anna", PATIENT) as client:
            states = client.states()
            assert (await anext(states)).tick == 0
            assert not await client.move("left")
            assert (await client.health()).agents == 1
            assert (await client.state())["status"]["anna"]["length"] == 3
            await client.reset_snake()
            assert [state.game_over async for state in states] == [False, True]
            assert await client.reset(seed=5) == 5
            assert await client.move("left")

    with MockEnv(MockSettings(delay=3600)) as env:
        asyncio.run(ask(env.url))


def test_many_agents_play_at_once_with_asyncio() -> None:
    async def one(url: str, name: str) -> list[int]:
        async with AsyncAgentClient(url, name, PATIENT) as client:
            ticks = []
            async for state in client.states():
                ticks.append(state.tick)
                await client.move("left")
            return ticks

    async def all_of_them(url: str) -> list[list[int]]:
        return await asyncio.gather(*(one(url, f"snake-{number}") for number in range(8)))

    with MockEnv(MockSettings(delay=3600)) as env:
        assert asyncio.run(all_of_them(env.url)) == [list(range(11))] * 8


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent_client.__doc__ is not None
    (example,) = re.findall(r"```python\n(.*?)```", agent_client.__doc__, re.DOTALL)
    with MockEnv(MockSettings(delay=3600)) as env:
        exec(example.replace("http://127.0.0.1:5000", env.url), {})  # noqa: S102 - it is our own
    assert capsys.readouterr().out == "anna lived for 10 ticks and collected 1.0\n"


def test_a_stream_that_is_left_is_closed() -> None:
    with MockEnv(MockSettings(snakes=1, delay=3600)) as env, AgentClient(env.url, "anna", PATIENT) as client:
        for _ in range(8):  # the server has room for four
            for state in client.states():
                assert state.tick == 0
                break


def test_refusals_carry_their_parts() -> None:
    with MockEnv() as env, AgentClient(env.url, "anna") as client:
        with pytest.raises(RequestRefused, match="no snake 'anna' has joined") as unknown:
            client.move("left")
        assert (unknown.value.status, unknown.value.code) == (404, "unknown_snake")
        with pytest.raises(RequestRefused, match="seed must be") as bad:
            client.reset(-1)
        assert (bad.value.status, bad.value.code, bad.value.field) == (400, "bad_value", "seed")


@both
def test_a_full_server_is_waited_for(player: Player) -> None:
    with MockEnv(MockSettings(snakes=1, delay=0.3)) as env, AgentClient(env.url, "ben", PATIENT) as other:
        first = other.states()
        next(first)
        start = time.monotonic()
        assert len(player(env.url)) == 11
        assert time.monotonic() - start >= 1.0, "the server says: try again in a second"
        assert [state.tick for state in first] == list(range(1, 11))


@both
def test_a_server_that_stays_full_is_given_up(player: Player) -> None:
    with MockEnv(MockSettings(snakes=1, delay=3600)) as env, AgentClient(env.url, "ben", PATIENT) as other:
        next(other.states())
        with pytest.raises(RequestRefused, match="places are taken") as caught:
            player(env.url, LinkTimeouts(retry=0.5))
        assert caught.value.retry_after == 1.0


@both
@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_stream_that_breaks_off_goes_on(player: Player, every: int) -> None:
    """Every connection brings a few lines only, and none the last."""
    with MockEnv(MockSettings(length=30, delay=0.1, faults=("cut-stream",), fault_every=every)) as env:
        states = player(env.url, moves=False, until=5)
    ticks = [state.tick for state in states]
    assert ticks == sorted(set(ticks))
    assert ticks[-1] >= 5


@both
def test_a_stream_that_breaks_off_after_a_long_quiet_goes_on(player: Player) -> None:
    """Waiting for a line takes longer than the tries may take, and is not counted among them."""
    with MockEnv(MockSettings(delay=0.6, faults=("cut-stream",))) as env:
        assert player(env.url, LinkTimeouts(retry=0.5), moves=False, until=3)[-1].tick >= 3


@both
def test_a_stream_that_always_breaks_off_at_once_is_given_up(player: Player) -> None:
    answer = http(line_bytes(5))
    with (
        canned({b"/state": http(STATE), b"/snake/": answer}) as url,
        pytest.raises(StreamBroken, match="ended a stream"),
    ):
        player(url, LinkTimeouts(retry=0.5), moves=False)


@both
def test_a_life_that_ended_meanwhile_is_not_begun_anew(player: Player) -> None:
    with MockEnv(MockSettings(length=1, delay=0.01, faults=("cut-stream",), fault_every=9)) as env:
        with pytest.raises(SnakeLost, match="its life ended"):
            player(env.url, moves=False)
        with AgentClient(env.url, "ben") as client:
            assert client.health().agents == 0


def test_who_follows_a_stream_sees_it_break_off_and_may_go_on() -> None:
    async def follow(url: str) -> tuple[list[int], int]:
        ticks, breaks = list[int](), 0
        async with AsyncAgentClient(url, "anna", PATIENT) as client:
            stream = await client.follow()
            assert (await client.health()).agents == 1
            while not ticks or ticks[-1] < 5:
                try:
                    ticks.append((await stream.next_state()).tick)
                except ConnectionBroken:
                    breaks += 1
            await stream.aclose()
        return ticks, breaks

    with MockEnv(MockSettings(length=30, delay=0.1, faults=("cut-stream",), fault_every=2)) as env:
        ticks, breaks = asyncio.run(follow(env.url))
    assert ticks == sorted(set(ticks))
    assert breaks >= 1


def test_a_snake_that_cannot_join_is_not_followed() -> None:
    async def follow(url: str) -> None:
        async with AsyncAgentClient(url, "anna", LinkTimeouts(retry=0.0)) as client:
            await client.follow()

    with MockEnv(MockSettings(snakes=1, delay=3600)) as env, AgentClient(env.url, "ben", PATIENT) as other:
        next(other.states())
        with pytest.raises(RequestRefused, match="places are taken"):
            asyncio.run(follow(env.url))


BAD_STREAMS = ["malformed-line", "missing-field", "wrong-type", "out-of-order", "repeated-line", "skipped-tick"]


@both
@pytest.mark.parametrize("fault", [*BAD_STREAMS, "shared-script"])
def test_bad_lines_are_errors(player: Player, fault: str) -> None:
    with MockEnv(MockSettings(delay=0.01, faults=(fault,))) as env, AgentClient(env.url, "ben", PATIENT) as other:
        if fault == "shared-script":
            next(other.states())
        with pytest.raises(BadAnswer):
            player(env.url, lines="all", moves=False)


@pytest.mark.parametrize("fault", ["wrong-window", "no-head"])
def test_bad_windows_are_errors_for_those_who_look(fault: str) -> None:
    with MockEnv(MockSettings(delay=0.01, faults=(fault,))) as env:
        (state, *_) = play(env.url, moves=False)
    with pytest.raises(BadAnswer, match="visible_cells"):
        state.observation()


@pytest.mark.parametrize(
    ("fault", "error"),
    [("malformed-answer", BadAnswer), ("cut-answer", ConnectionBroken), ("error-500", RequestRefused)],
)
def test_bad_answers_are_errors(fault: str, error: type[ClientError]) -> None:
    settings = MockSettings(delay=3600, faults=(fault,))
    with MockEnv(settings) as env, AgentClient(env.url, "anna", LinkTimeouts(retry=0.2)) as client:
        next(client.states())
        with pytest.raises(error):
            client.move("left")


def test_questions_are_asked_again_after_a_broken_connection_and_moves_are_not() -> None:
    settings = MockSettings(delay=3600, faults=("cut-answer",), fault_every=2)
    with MockEnv(settings) as env, AgentClient(env.url, "anna", PATIENT) as client:
        states = client.states()
        assert next(states).tick == 0
        assert [client.health().agents for _ in range(4)] == [1] * 4, "of seven answers three were cut"
        with pytest.raises(ConnectionBroken):
            client.move("left")
        assert not client.move("left")
        assert [next(states).tick, next(states).tick] == [1, 2], "the move whose answer was cut has been made once"


@both
def test_a_late_answer_is_an_error(player: Player) -> None:
    with MockEnv(MockSettings(delay=3600, faults=("late",))) as env, pytest.raises(NoAnswer, match="too long"):
        player(env.url, LinkTimeouts(answer=0.3))


@both
def test_a_server_that_is_killed(player: Player) -> None:
    """Killed in the middle of a stream, and not started again."""
    with mock_env_process("--delay", "0.05", "--length", "10000") as (process, url):
        killer = threading.Timer(0.5, process.kill)
        killer.start()
        with pytest.raises((NotSent, StreamBroken, ConnectionBroken)) as caught:
            player(url, LinkTimeouts(retry=0.5), moves=False)
        killer.join()
    assert "broke" in str(caught.value) or "no connection" in str(caught.value)


@both
def test_a_server_that_comes_back_has_forgotten_the_snake(player: Player, unused_port: int) -> None:
    port = ["--port", str(unused_port), "--delay", "0.05", "--length", "10000"]
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            player(f"http://127.0.0.1:{unused_port}", PATIENT, moves=False)
        except ClientError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    with mock_env_process(*port) as (_, url):
        thread.start()
        with AgentClient(url, "looker", PATIENT) as looker:
            while looker.state()["tick"] < 40:  # two seconds of lines: anna's reader has had one of them
                time.sleep(0.02)
    with mock_env_process(*port):
        thread.join(60)
    assert [type(error) for error in outcome] == [SnakeLost]


@both
def test_a_server_that_starts_late(player: Player, unused_port: int) -> None:
    states: list[AgentState] = []
    thread = threading.Thread(target=lambda: states.extend(player(f"http://127.0.0.1:{unused_port}")))
    thread.start()
    with mock_env_process("--port", str(unused_port), "--delay", "3600"):
        thread.join(60)
    assert len(states) == 11


@pytest.fixture
def unused_port() -> int:
    return free_port()


@both
def test_no_server_at_all(player: Player, unused_port: int) -> None:
    with pytest.raises(NotSent, match=f"no connection to http://127.0.0.1:{unused_port}"):
        player(f"http://127.0.0.1:{unused_port}", IMPATIENT)


@both
def test_a_server_that_never_answers(player: Player) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NoAnswer, match="took too long"):
            player(url, IMPATIENT)
        with AgentClient(url, "anna", IMPATIENT) as client, pytest.raises(NoAnswer):
            client.health()


@both
def test_a_stream_that_stands_still(player: Player) -> None:
    with MockEnv(MockSettings(delay=3600)) as env, pytest.raises(NoAnswer):
        player(env.url, IMPATIENT, moves=False)


@contextmanager
def canned(answers: dict[bytes, bytes]) -> Iterator[str]:
    """Serve the same bytes to whoever asks for a path that begins so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    path = [*connection.recv(65536).split(b" "), b""][1]  # or it is asked whether it speaks TLS
                    fitting = (answer for start, answer in answers.items() if path.startswith(start))
                    connection.sendall(next(fitting, b""))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n".encode() + body


STATE = b'{"status": {"anna": {"game_over": false}}}'


def line_bytes(tick: int) -> bytes:
    return msgspec.json.encode(line("anna", tick, 10, "2026-01-31T12:00:00+00:00")) + b"\n"


GARBAGE: dict[str, tuple[bytes, type[ClientError]]] = {
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", ConnectionBroken),
    "nothing": (b"", ConnectionBroken),
    "a page": (http(b"<!doctype html>\n"), BadAnswer),
    "empty": (http(b""), ClientError),
    "another page": (http(b"", "302 Found", "Location: /login\r\n"), BadAnswer),
    "an error page": (http(b"<h1>no</h1>\n", "500 Internal Server Error"), RequestRefused),
    "broken gzip": (http(b"nothing of that kind\n", more="Content-Encoding: gzip\r\n"), BadAnswer),
    "endless line": (http(b"x" * (2**22 + 2**16)), BadAnswer),
}


@both
@pytest.mark.parametrize(("answer", "error"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_an_error(player: Player, answer: bytes, error: type[ClientError]) -> None:
    with canned({b"/": answer}) as url:
        with pytest.raises(error):
            player(url, LinkTimeouts(retry=0.2))
        with AgentClient(url, "anna", LinkTimeouts(retry=0.2)) as client, pytest.raises(error):
            client.health()


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://somewhere", ""])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ClientError, match="http://HOST:PORT"):
        AgentClient(url, "anna")


@pytest.mark.parametrize("make", [AgentClient, AsyncAgentClient])
def test_ids_that_are_none(make: Any) -> None:
    with pytest.raises(ClientError, match="a snake's id"):
        make("http://127.0.0.1:5000", "a/b")
