"""Sessions whose worlds are in worker processes: the same games, losses that clients know, and bounded numbers."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rattle.clients.remote_worlds import RemoteWorlds
from rattle.envs.errors import EnvError, WorldsLost
from rattle.envs.registry import make_worlds
from rattle.services.env import session_worlds
from rattle.services.env.session_worlds import SessionWorlds
from rattle.settings.sources import load_settings
from rattle.workers import making
from rattle.workers.choice import try_one
from rattle.workers.process import Worker
from tests.services.env.vector_server import eventually, serving


def test_sessions_in_worker_processes_play_the_same_and_are_lost_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []
    begin = Worker.__init__

    def remembered(worker: Worker, *given: Any) -> None:
        begin(worker, *given)
        started.append(worker)

    monkeypatch.setattr(Worker, "__init__", remembered)
    one = make_worlds("gym:CartPole-v1", {}, 3, 7, 2)
    with (
        serving("env.id=gym:CartPole-v1", "env_service.processes=2") as server,
        closing(RemoteWorlds(server.url, 3, 7, 2)) as remote,
    ):
        assert len(started) == 2
        random = np.random.default_rng(0)
        for _ in range(30):
            action = random.integers(0, 2, 3)
            one.step(action)
            remote.step(action)
            assert np.array_equal(one.observation, remote.observation)
            assert np.array_equal(one.terminated, remote.terminated)
        state = remote.state()
        for use in (remote.state, lambda: remote.snapshot(0), lambda: remote.step(action)):
            os.kill(started[-2].pid, signal.SIGKILL)
            with pytest.raises(WorldsLost):
                use()
            remote.step(action)
        remote.restore(state)
        assert np.array_equal(one.observation, remote.observation)
        eventually(lambda: server.metric("rattle_env_sessions") == 1)


def test_all_sessions_together_have_a_bounded_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def made_up(_one: Any, wanted: int, *_: Any, most: int, **__: Any) -> list[Any]:
        if wanted == most == 3:
            return [SimpleNamespace(processes=3)]
        return []

    monkeypatch.setattr(session_worlds, "make_in_workers", made_up)
    make: Any = SessionWorlds(load_settings(None, ["env.id=gym:CartPole-v1", "env.processes=3"], {}))
    in_workers = [make({}, 4, 0, 0) for _ in range(4)]
    assert [worlds.processes for worlds in in_workers] == [3, 3, 3, 3]
    here = make({}, 4, 7, 2)
    assert np.array_equal(here.observation, make_worlds("gym:CartPole-v1", {}, 4, 7, 2).observation)
    in_workers[1].processes = 0  # closed
    assert make({}, 4, 0, 0).processes == 3
    assert not hasattr(make({}, 4, 0, 0), "processes")


def test_what_cannot_be_made_keeps_no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def refusing(*_: Any, most: int, **__: Any) -> list[Any]:
        given.append(most)
        raise EnvError("not today")

    monkeypatch.setattr(session_worlds, "make_in_workers", refusing)
    make = SessionWorlds(load_settings(None, ["env.id=gym:CartPole-v1", "env_service.processes=2"], {}))
    for _ in range(9):
        with pytest.raises(EnvError, match="not today"):
            make({}, 4, 0, 0)
    assert given == [2] * 9


def test_steps_are_measured_once_for_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def measured(make_one: Any, **how: Any) -> Any:
        tried.append(how)
        return try_one(make_one, **how)

    monkeypatch.setattr(session_worlds, "try_one", measured)
    monkeypatch.setattr(making, "choose", lambda *_: 1)
    make = SessionWorlds(load_settings(None, ["env.id=gym:CartPole-v1"], {}))
    for options in ({}, {}, {"max_episode_steps": 9}, {}, {"max_episode_steps": 9}):
        with closing(make(options, 2, 0, 0)) as worlds:
            assert worlds.num_worlds == 2
    assert tried == [{"measures": True}] * 2
