"""`rattle inference` in lockstep as a process, beside real Env and Sync services: its routes, deaths and goodbyes."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any, cast

import numpy as np
import pytest

from rattle.clients.lockstep_member import MemberSettings, Work
from rattle.services.inference.lockstep_agents import LockstepAgents
from rattle.services.inference.lockstep_snake import LockstepSnake
from rattle.services.inference.snake_loop import SnakeLoop
from rattle.wire.lockstep import Codec, Join, Role
from tests.processes import ServiceProcess
from tests.services.env.agent_server import PATIENCE, eventually
from tests.services.inference.learner_double import LearnerDouble
from tests.services.inference.test_lockstep_snakes import array, policy_message
from tests.services.sync.relay import Address, Relay
from tests.services.sync.sync_process import SyncProcess
from tests.trainer.conftest import RATTLE

pytestmark = pytest.mark.integration

BOARD = ("env.width=9", "env.height=9", "env.num_snakes=2", "env.food=3", "env.max_steps_without_food=12")
RUN = ("sync=lockstep", "inference.snakes=2", "algorithm.id=reinforce", *BOARD)


@dataclass
class Lockstep:
    """A lockstep run of one Env and one Inference service."""

    sync: SyncProcess
    env: ServiceProcess
    inference: ServiceProcess

    def ask(self, method: str, path: str, service: ServiceProcess | None = None) -> tuple[int, Any]:
        """Return status and the decoded body."""
        url = (service or self.inference).url
        connection = HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
        try:
            connection.request(method, path, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def tick(self) -> int:
        return int(self.sync.status()["tick"])

    def members(self) -> list[str]:
        return sorted(member["name"] for member in self.sync.status()["members"])

    def agents(self) -> list[dict[str, Any]]:
        return list(self.ask("GET", "/v1/agents")[1]["agents"])


@contextmanager
def running(
    learner: LearnerDouble, *more: str, history: tuple[str, ...] = (), between: Callable[[Address], Relay] | None = None
) -> Iterator[Lockstep]:
    """Have the services take part in a run until the block ends; `between` stands between Sync and members."""
    with (
        SyncProcess("--port", "0", *history, settings=(*RUN, *more)) as sync,
        nullcontext() if between is None else between(sync.udp) as relay,
    ):
        shared = (*RUN, *more, f"sync.address={sync.hello['address'] if relay is None else relay.address}")
        with ServiceProcess("env", settings=shared) as env:
            where = (f"inference.training=['{learner.address}']", f"inference.envs=['{env.url}']")
            with ServiceProcess("inference", "--grpc-port", "0", settings=(*shared, *where)) as inference:
                yield Lockstep(sync, env, inference)


@pytest.fixture
def learner() -> Iterator[LearnerDouble]:
    learner = LearnerDouble()
    yield learner
    learner.stop()


def test_players_are_listed_and_fixed_and_outlive_the_run(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with running(learner, "sync.ticks=60", "training.mode=async") as run:
        eventually(lambda: run.sync.status()["state"] == "finished")
        eventually(lambda: {agent["state"] for agent in run.agents()} == {"stopped"})
        first, second = run.agents()
        assert (first["name"], first["kind"], first["snake"]) == ("main-0", "agent", 0)
        assert (second["name"], second["policy_version"]) == ("main-1", 0)
        assert "over" in second["reason"]
        assert first["rollouts"] == first["receipts"]["accepted"] > 0
        for method, path in (
            ("POST", ""),
            ("POST", "/main-0/pause"),
            ("POST", "/main-0/resume"),
            ("DELETE", "/main-0"),
        ):
            status, problem = run.ask(method, f"/v1/agents{path}")
            assert (status, problem["code"]) == (409, "conflict")
            assert "fixed players" in problem["detail"]
        assert run.ask("GET", "/v1/agents/main-1")[0] == 200
        assert run.ask("GET", "/v1/agents/main-9")[0] == 404
        status, history = run.ask("GET", "/v1/history")
        own, theirs = history, run.ask("GET", "/v1/history", run.env)[1]
        assert status == 200
        assert (own["tick"], own["snakes"]) == (theirs["tick"], theirs["snakes"])
        assert own["tick"] == 60
        assert run.ask("POST", "/v1/history")[0] == 405
        assert run.ask("GET", "/v2/models/main")[0] == 200  # its policy is served as before
        assert run.sync.status()["disagreements"] == []
        assert run.inference.kill(SIGTERM) == 0


def test_a_run_is_the_same_whatever_strangers_send(tmp_path: Path) -> None:
    """Joins of a high life without the key, and copies of all that was said in this run and in the one before."""
    recorded: list[tuple[bool, bytes]] = []
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    forged = [
        Codec(made_up).encode(Join(2**62, name, role, *[0] * 5, False))
        for made_up in (None, bytes(32))
        for name, role in (("inference-0", Role.AGENT), ("env", Role.ENVIRONMENT))
    ]
    for name, copies, said in (("alone", 0, []), ("attacked", 4, [*forged, b"", b"\x93garbage"])):
        settings = ("training.mode=async", "sync.ticks=60", f"sync.key_file={key}")
        strangers = partial(Relay, recorded=recorded, copies=copies, forged=said)
        learner = LearnerDouble()
        learner.send(policy_message(0))
        with running(learner, *settings, history=("--history", str(tmp_path / name)), between=strangers) as run:
            eventually(lambda run=run: run.sync.status()["state"] == "finished")  # type: ignore[misc]
            datagrams = run.sync.status()["datagrams"]
            assert run.sync.status()["disagreements"] == []
        learner.stop()
    assert datagrams["unauthenticated"] >= 60 * len(forged)
    assert min(datagrams["replayed"], datagrams["late"]) > 0
    assert datagrams["replayed"] + datagrams["late"] > 60
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "attacked").read_bytes()


def test_there_is_no_history_outside_of_lockstep(learner: LearnerDouble) -> None:
    with ServiceProcess(
        "inference", "--grpc-port", "0", settings=(f"inference.training=['{learner.address}']",)
    ) as inference:
        connection = HTTPConnection(inference.url.removeprefix("http://"), timeout=PATIENCE)
        connection.request("GET", "/v1/history")
        response = connection.getresponse()
        problem = json.loads(response.read())
        connection.close()
        assert (response.status, problem["code"]) == (404, "no_history")
        assert "sync.mode" in problem["detail"]


def test_it_says_goodbye_when_it_is_told_to_stop(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with running(learner, "training.mode=async") as run:
        eventually(lambda: run.tick() > 20)
        assert run.members() == ["env", "inference-0"]
        begun = time.monotonic()
        assert run.inference.kill(SIGTERM) == 0
        assert time.monotonic() < begun + PATIENCE / 4
        eventually(lambda: run.members() == ["env"])


def test_it_stops_in_the_middle_of_the_work(learner: LearnerDouble) -> None:
    """In mode on_policy all wait for a policy that never comes."""
    learner.send(policy_message(0))
    with running(learner) as run:
        eventually(lambda: [agent["reason"] for agent in run.agents()] == ["for the next policy"] * 2)
        begun = time.monotonic()
        assert run.inference.kill(SIGTERM) == 0
        assert time.monotonic() < begun + PATIENCE / 4
        eventually(lambda: run.members() == ["env"])
    assert len(learner.rollouts) == 2


def test_a_killed_world_is_waited_for_and_no_life_joins_two_worlds(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    alone = ("inference.snakes=1", "env.num_snakes=1", "env.max_steps_without_food=40", "training.mode=async")
    with running(learner, *alone) as run:
        for _ in range(2):
            rollouts = len(learner.rollouts)
            learner.wait_for(lambda: len(learner.rollouts) >= rollouts + 3)  # noqa: B023
            run.env.kill()
            tick = run.tick()
            time.sleep(0.3)
            assert run.tick() <= tick + 1
            run.env.start()
            eventually(lambda: run.tick() > tick + 50)  # noqa: B023
    for rollout in learner.rollouts:
        first = array(rollout.observation)[0, 0]
        assert int((first == 2).sum()) == 2, "a new snake is straight, and sees two cells of itself"
        assert np.flatnonzero(array(rollout.terminated)).tolist() == [rollout.action.shape[0] - 1]


def test_a_killed_process_comes_back_and_plays_on(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with running(learner, "training.mode=async") as run:
        eventually(lambda: run.tick() > 20)
        watched = len(learner.watched)
        run.inference.kill()
        run.inference.start()
        learner.wait_for(lambda: len(learner.watched) > watched)
        learner.send(policy_message(0))  # earlier it could go to the stream of the process that was killed
        rollouts, tick = len(learner.rollouts), run.tick()
        learner.wait_for(lambda: len(learner.rollouts) > rollouts + 2)
        assert run.tick() > tick
        assert run.members() == ["env", "inference-0"]
        assert run.ask("GET", "/v1/history")[1]["snakes"] == {}


def test_a_process_that_stands_still_holds_up_the_run_and_changes_nothing(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with running(learner, "training.mode=async", "sync.silence_seconds=0.2", "sync.heartbeat_seconds=0.1") as run:
        eventually(lambda: run.tick() > 20)
        run.inference.signal(SIGSTOP)
        eventually(lambda: "suspected" in {member["state"] for member in run.sync.status()["members"]})
        tick = run.tick()
        run.inference.signal(SIGCONT)
        eventually(lambda: run.tick() > tick + 20)
        assert run.sync.status()["disagreements"] == []


@pytest.mark.parametrize(
    ("setting", "said"), [("sync.address=nowhere", "HOST:PORT"), ("sync.key_file=/no/such/file", "sync.key_file")]
)
def test_settings_that_lead_nowhere_end_it_with_one_line(setting: str, said: str) -> None:
    given = [part for one in (*RUN, setting) for part in ("--set", one)]
    ended = subprocess.run(
        [*RATTLE, "inference", "--port", "0", "--grpc-port", "0", *given],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode != 0
    assert len(ended.stderr.strip().splitlines()) == 1
    assert said in ended.stderr


class _Clumsy:
    """A snake that fails in a way that nobody thought of."""

    idle, history = False, None

    class assignment:  # noqa: N801
        name = "clumsy"

    def __init__(self) -> None:
        self.stopped = ""

    async def act(self, work: Work) -> None:
        if work.tick == 3:
            raise ZeroDivisionError

    async def stop(self, reason: str) -> None:
        self.stopped = reason


def test_who_cannot_act_does_not_say_that_it_has(caplog: pytest.LogCaptureFixture) -> None:
    snake, loop = _Clumsy(), SnakeLoop()
    with SyncProcess("--port", "0", settings=("sync=lockstep", "sync.members=1")) as sync:
        agents = LockstepAgents(MemberSettings(sync.hello["address"]), "clumsy", [cast(LockstepSnake, snake)])
        with caplog.at_level(logging.ERROR):
            loop.begin(agents.join()).result(PATIENCE)
            eventually(lambda: snake.stopped == "internal error")
            eventually(lambda: sync.status()["members"] == [])
        assert sync.status()["tick"] == 3
        assert "ZeroDivisionError" in caplog.text
    loop.close()
