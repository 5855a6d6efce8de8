"""In lockstep neither time nor the number of processes decides anything: rollouts, histories and policies are equal."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rattle.clients.async_http import AsyncHttp
from rattle.services.inference.rollout_sender import RolloutSender
from rattle.services.inference.training_link import PolicyFeed, ReceivedPolicy
from rattle.services.training.policy_run import PolicyRun
from rattle.services.utils.protos import training_pb2
from tests.services.inference.lockstep_party import lockstep_settings, party, world
from tests.services.training.playing import Server

TICKS = 120
EPISODES = "algorithm={id: reinforce, max_episode_ticks: 15, baseline: true}"


class Outcome(NamedTuple):
    """All that must be equal."""

    rollouts: dict[str, list[str]]  # of each snake, less the names of who played it
    histories: list[dict[str, bytes]]  # of all snakes, by tick
    world: bytes
    updates: int
    policy: bytes


class Timing:
    """Has everything that takes time take another time, decided by a seed."""

    def __init__(self, patch: pytest.MonkeyPatch, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self.rollouts: defaultdict[str, list[str]] = defaultdict(list)
        begin, contribute = AsyncHttp.begin, RolloutSender.contribute
        take, learn = PolicyFeed._take, PolicyRun.learn

        async def begin_late(http: AsyncHttp, *arguments: Any) -> Any:
            await asyncio.sleep(self._seconds(0.004))
            return await begin(http, *arguments)

        def take_late(feed: PolicyFeed, message: training_pb2.Policy) -> None:
            time.sleep(self._seconds(0.05))
            take(feed, message)

        def learn_late(run: PolicyRun, *arguments: Any) -> Any:
            time.sleep(self._seconds(0.02))
            return learn(run, *arguments)

        def contribute_late(
            contributions: RolloutSender, rollout: training_pb2.Rollout, held: ReceivedPolicy, *, continues: bool
        ) -> None:
            time.sleep(self._seconds(0.01))
            contribute(contributions, rollout, held, continues=continues)
            copy = training_pb2.Rollout()
            copy.CopyFrom(rollout)
            copy.life = copy.lineage = ""
            copy.life_number = 0  # when it was started
            self.rollouts[rollout.actor].append(hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest())

        patch.setattr(AsyncHttp, "begin", begin_late)
        patch.setattr(PolicyFeed, "_take", take_late)
        patch.setattr(PolicyRun, "learn", learn_late)
        patch.setattr(RolloutSender, "contribute", contribute_late)

    def _seconds(self, most: float) -> float:
        return self._random.random() * most


def outcome(directory: Path, processes: int, seed: int) -> Outcome:
    with pytest.MonkeyPatch.context() as patch, world() as env:
        timing = Timing(patch, seed)
        histories = []
        with Server(lockstep_settings(env.url, "", EPISODES), directory) as server:
            settings = lockstep_settings(env.url, server.address, EPISODES)
            with party(env, settings, processes) as playing:
                for _ in range(TICKS):
                    histories.append(dict(playing.act()))
                    assert histories[-1] == env.game.snake_histories
                    env.step()
                histories.append(dict(playing.act(last=True)))
        updates = server.service.loops["main"].newest.version
    file = (directory / "policy.safetensors").read_bytes()
    return Outcome(dict(timing.rollouts), histories, env.game.world_history, updates, file)


@pytest.mark.integration
def test_timing_and_the_number_of_processes_decide_nothing(tmp_path: Path) -> None:
    first = outcome(tmp_path / "first", processes=1, seed=0)
    assert first.updates > 3
    assert {name: len(sent) for name, sent in first.rollouts.items()}.keys() == {f"main-{n}" for n in range(4)}
    for number, processes in enumerate((2, 4)):
        assert outcome(tmp_path / f"other-{number}", processes, seed=1 + number) == first
    assert not [thread for thread in threading.enumerate() if thread.name == "snakes"]
