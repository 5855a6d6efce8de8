"""`rattle env` in lockstep as a process: the same run in any order of requests, over datagrams that are lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from random import Random
from typing import Any

import msgspec
import pytest

from rattle.clients.agent_protocol import MOVES, observation
from rattle.wire.history import BEGINNING, PLACED, after_line
from tests.services.env.env_process import PATIENCE, EnvProcess, env_process
from tests.services.env.fake_sync import FakeSync
from tests.services.sync.sync_process import SyncProcess, until

pytestmark = pytest.mark.integration

IDS = ("main-0", "main-1", "main-10", "main-2")
WORLD = ("env.width=9", "env.height=9", "env.num_snakes=4", "env.food=3", "env.max_steps_without_food=9", "seed=3")
TICKS = 120


@contextmanager
def environment(address: str, *more: str) -> Iterator[EnvProcess]:
    given = ("sync.mode=lockstep", f"sync.address={address}", *WORLD, *more)
    with env_process(*(part for one in given for part in ("--set", one))) as running:
        yield running


class Agent:
    """A snake's client, which moves by numbers; it keeps the history of what it is given."""

    def __init__(self, snake_id: str, service: EnvProcess) -> None:
        self.history = BEGINNING
        self._id, self._service = snake_id, service
        self._choice = Random(snake_id)  # noqa: S311 - a test's
        self._action = PLACED
        self._stream: HTTPResponse | None = None
        self._connection = HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)  # carries one life after another

    def act(self) -> None:
        """Join, or move."""
        if self._stream is not None:
            self._action = self._choice.choice([0, 0, 0, 1, 2])
            status, _ = self._service.ask("POST", f"/snake/{self._id}/move", {"move": MOVES[self._action]})
            assert status == 200
        elif self._choice.random() < 0.5:
            self._connection.request("GET", f"/snake/{self._id}?lines=all")
            self._stream = self._connection.getresponse()
            self._action = PLACED
            assert self._stream.status == 200

    def take_in(self) -> None:
        """Take in the line of the tick."""
        if self._stream is None:
            return
        line: dict[str, Any] = msgspec.json.decode(self._stream.readline())
        codes = observation(line["visible_cells"])
        self.history = after_line(
            self.history, line["tick"], self._action, line["reward"], line["length"], line["game_over"], codes
        )
        if line["game_over"]:
            assert self._stream.read() == b""
            self._stream = None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._connection.close()


def metrics(service: EnvProcess) -> dict[str, float]:
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def run(seed: int, *faults: str) -> list[dict[str, bytes]]:
    """Play a run with requests in some order; returns the hashes of every tick."""
    order, hashes = Random(seed), []  # noqa: S311 - a test's
    with FakeSync() as leader, environment(leader.address, *faults) as service:
        leader.seat()
        agents = {snake_id: Agent(snake_id, service) for snake_id in IDS}
        for _ in range(TICKS):
            for agent in order.sample(list(agents.values()), len(agents)):
                agent.act()
            hashes.append(dict(leader.step()))
            for agent in order.sample(list(agents.values()), len(agents)):
                agent.take_in()
            seen = {snake_id: agent.history for snake_id, agent in agents.items() if agent.history != BEGINNING}
            assert {subject: said for subject, said in hashes[-1].items() if subject != "env"} == seen
        shown = metrics(service)
        assert shown["rattle_env_lockstep_tick"] == TICKS
        assert shown['rattle_env_lockstep_state{state="seated"}'] == 1
        assert shown['rattle_env_lockstep_state{state="joining"}'] == 0
        status, said = service.ask("GET", "/v1/history")
        assert (status, said["tick"]) == (200, TICKS)
        assert said["snakes"] | {"env": said["world"]} == {name: said.hex() for name, said in hashes[-1].items()}
        for agent in agents.values():
            agent.close()
    return hashes


def test_a_run_is_the_same_in_any_order_with_lost_datagrams_and_delays() -> None:
    first = run(1)
    assert len({hashes["env"] for hashes in first}) == TICKS
    assert run(2, "sync.loss=0.3", "sync.delay_seconds=0.003") == first


def test_a_real_sync_service_leads_it_to_the_end_and_it_goes_on_serving() -> None:
    limits = ("--mode", "lockstep", "--members", "1", "--ticks", "200")
    assert one_run(*limits) == one_run(*limits)


def one_run(*limits: str) -> str:
    """Have an environment be led through a whole run of 200 ticks; returns the hash of its world."""
    with SyncProcess(*limits) as sync, environment("{}:{}".format(*sync.udp)) as service:
        until(lambda: service.ask("GET", "/v1/history")[1]["tick"] == 200)
        until(lambda: bool(sync.status()["finished"]))
        world: str = service.ask("GET", "/v1/history")[1]["world"]
        assert service.ask("GET", "/")[0] == 200
        assert sync.kill(signal.SIGTERM) == 0
        service.process.send_signal(signal.SIGTERM)
        _, errors = service.process.communicate(timeout=PATIENCE)
        assert service.process.returncode == 0
        assert errors.count('"event":"lockstep_over"') == 1
    return world


def test_a_member_whose_place_is_taken_ends_with_an_error() -> None:
    sync = SyncProcess("--port", "0", settings=("sync=lockstep", "sync.members=9"))
    with sync, environment(sync.hello["address"]) as earlier:
        until(lambda: "env" in str(sync.status()))
        with environment(sync.hello["address"]):
            assert earlier.process.wait(PATIENCE) == 1
            assert earlier.process.stderr is not None
            assert "Error: the Sync service leads env no more: " in earlier.process.stderr.read()
