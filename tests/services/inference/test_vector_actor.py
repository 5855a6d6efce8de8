"""What an actor contributes are games as they were played, each rollout in one life of the server."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.envs.registry import make_worlds
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import VectorWorlds
from rattle.services.inference.actor_pool import ActorPool, assignments
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import DTYPES
from rattle.settings.experiment import ExperimentSettings
from tests.processes import ServiceProcess
from tests.services.inference.learner_double import LearnerDouble, policy_message
from tests.trainer.conftest import small_settings

WORLDS, TICKS = 10, 16


@pytest.fixture
def learner() -> Iterator[LearnerDouble]:
    learner = LearnerDouble()
    yield learner
    learner.stop()


def settings_for(learner: LearnerDouble, url: str, *more: str) -> ExperimentSettings:
    addresses = (f"inference.envs=['{url}']", f"inference.training=['{learner.address}']")
    return small_settings(f"env.worlds={WORLDS}", "env.wait_seconds=60", *addresses, *more)


def array(tensor: training_pb2.Tensor) -> NDArray[Any]:
    return np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tensor.shape)


def follow(twin: VectorWorlds, own: slice, rollout: training_pb2.Rollout) -> bool:
    """Play a rollout once more, and return whether all of it came as the rollout says."""
    for tick in range(TICKS):
        before = {"observation": twin.observation, "world_episode": twin.episode}
        if any((array(getattr(rollout, name))[tick, own] != values).any() for name, values in before.items()):
            return False
        twin.step(array(rollout.action)[tick, own].astype(np.int64))
        after = ("reward", "terminated", "truncated")
        if any((array(getattr(rollout, name))[tick, own] != getattr(twin, name)).any() for name in after):
            return False
    return True


def begin(settings: ExperimentSettings, worlds: range, rollout: training_pb2.Rollout) -> VectorWorlds | None:
    """Return worlds of this process that have played a rollout from new episodes on, in whichever life of a session."""
    base = derive_seed(settings.seed, "worlds")
    for life in range(6):
        for episode in range(3):
            seed = derive_seed(base, "life", life) if life else base
            twin = make_worlds("snake", settings.env.own_settings, len(worlds), seed, worlds.start)
            for _ in range(episode):
                twin.reset()
            if follow(twin, slice(worlds.start, worlds.stop), rollout):
                return twin
    return None


def replay(settings: ExperimentSettings, rollouts: list[training_pb2.Rollout]) -> int:
    """Play what one actor contributed once more; returns how often it began anew."""
    begun = 0
    for worlds in (range(WORLDS // 2), range(WORLDS // 2, WORLDS)):
        twin: VectorWorlds | None = None
        for rollout in rollouts:
            if not rollout.continues:
                twin = begin(settings, worlds, rollout)
                assert twin is not None
                begun += 1
            else:
                assert twin is not None
                assert follow(twin, slice(worlds.start, worlds.stop), rollout)
    return begun


def test_no_rollout_joins_two_lives_of_the_server(learner: LearnerDouble) -> None:
    with ServiceProcess("env") as server:
        settings = settings_for(learner, server.url, "training.mode=async")
        players = ActorPool(settings, lambda name, policy: None)
        learner.send(policy_message(0))
        players.start()
        for _ in range(3):
            enough = len(learner.rollouts) + 8
            learner.wait_for(lambda enough=enough: len(learner.rollouts) >= enough)  # type: ignore[misc]
            server.kill()
            server.start()
        enough = len(learner.rollouts) + 8
        learner.wait_for(lambda: len(learner.rollouts) >= enough)
        players.stop()
    assert [rollout.sequence for rollout in learner.rollouts] == list(range(1, len(learner.rollouts) + 1))
    assert len({rollout.life for rollout in learner.rollouts}) == 1
    assert replay(settings, learner.rollouts) == 2 * 4


def test_in_mode_on_policy_an_actor_waits_for_the_next_version(learner: LearnerDouble) -> None:
    with ServiceProcess("env") as server:
        players = ActorPool(settings_for(learner, server.url), lambda name, policy: None)
        players.start()
        for version in range(3):
            learner.send(policy_message(version, first_tick=version * TICKS))
            learner.wait_for(lambda version=version: len(learner.rollouts) == version + 1)  # type: ignore[misc]
        time.sleep(0.2)
        assert [rollout.policy_version for rollout in learner.rollouts] == [0, 1, 2]
        assignment, report, *_ = players.agents()[0]
        assert (assignment.name, report.state, report.rollouts) == ("main-0", "waiting", 3)
        assert report.env_steps == 3 * TICKS * WORLDS
        players.stop()


def test_without_pytorch_training_alone_knows_the_algorithm(
    learner: LearnerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with ServiceProcess("env") as server:
        settings = settings_for(learner, server.url, "algorithm={id: 'not_here:Mine', clip: 0.1}")
        players = ActorPool(settings, lambda name, policy: None)
        message = policy_message(0)
        message.rollout_ticks = 5
        learner.send(message)
        players.start()
        learner.wait_for(lambda: len(learner.rollouts) == 1)
        players.stop()
    assert learner.rollouts[0].action.shape == [5, WORLDS]


def test_an_actor_can_be_held_and_removed(learner: LearnerDouble) -> None:
    with ServiceProcess("env") as server:
        players = ActorPool(settings_for(learner, server.url, "training.mode=async"), lambda name, policy: None)
        learner.send(policy_message(0))
        players.start()
        learner.wait_for(lambda: len(learner.rollouts) >= 3)
        players.pause("main-0")
        while players.agents()[0][1].state != "paused":
            time.sleep(0.01)
        held = players.agents()[0][1].rollouts
        time.sleep(0.2)
        assert players.agents()[0][1].rollouts == held
        players.resume("main-0")
        learner.wait_for(lambda: len(learner.rollouts) >= held + 2)
        players.remove("main-0")
        assert players.agents() == []
        players.stop()


def test_a_service_that_stops_may_let_its_rollouts_be_finished_and_received(learner: LearnerDouble) -> None:
    received = threading.Event()

    def answer(rollout: training_pb2.Rollout, context: object) -> training_pb2.Receipt.Verdict.ValueType:
        if rollout.sequence >= 3:
            received.wait(60)
        return training_pb2.Receipt.ACCEPTED

    learner.on_rollout = answer
    with ServiceProcess("env") as server:
        own = ("training.mode=async", "inference.drain_seconds=60")
        players = ActorPool(settings_for(learner, server.url, *own), lambda name, policy: None)
        learner.send(policy_message(0))
        players.start()
        learner.wait_for(lambda: len(learner.rollouts) == 3)
        stopping = threading.Thread(target=players.stop)
        stopping.start()
        stopping.join(0.5)
        assert stopping.is_alive()  # the third has no receipt yet
        received.set()
        stopping.join(60)
    _, report, verdicts, _ = players.agents()[0]
    assert report.rollouts == len(learner.rollouts) == verdicts["ACCEPTED"] == 3


def test_an_actor_whose_environment_pays_too_much_says_so_and_plays_no_more(learner: LearnerDouble) -> None:
    with ServiceProcess("env") as server:
        own = ("training.mode=async", "train.max_reward=0.5")
        players = ActorPool(settings_for(learner, server.url, *own), lambda name, policy: None)
        learner.send(policy_message(0))
        players.start()
        while (report := players.agents()[0][1]).state != "failed":
            time.sleep(0.01)
        players.stop()
    assert re.match(r"'snake', world \d: a reward of -?1 in tick \d+ of the run", report.reason)
    assert report.reason.endswith("where train.max_reward is 0.5: fix it, or raise that")


def test_later_in_a_run_other_games_are_played_than_at_its_beginning(learner: LearnerDouble) -> None:
    with ServiceProcess("env") as server:
        seen = []
        for version in (0, 0, 7):
            players = ActorPool(settings_for(learner, server.url), lambda name, policy: None)
            players.start()
            before = len(learner.rollouts)
            learner.send(policy_message(version))
            learner.wait_for(lambda before=before: len(learner.rollouts) > before)  # type: ignore[misc]
            players.stop()
            seen.append(learner.rollouts[-1].observation.data)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), [("main-0", 0, 10)]),
        (("inference.actors=3",), [("main-0", 0, 3), ("main-1", 3, 3), ("main-2", 6, 4)]),
        (("topology.inference=2", "inference.index=1"), [("main-1", 5, 5)]),
        (("inference.envs=['http://a', 'http://b']",), [("main-0", 0, 5), ("main-1", 5, 5)]),
        (("training.policies=[red, blue]",), [("red-0", 0, 10), ("blue-0", 0, 10)]),
        (("inference.actors=64", "env.worlds=2"), [("main-0", 0, 1), ("main-1", 1, 1)]),
        (("inference.api=agent", "inference.snakes=2"), [("main-0", 0, 1), ("main-1", 1, 1)]),
    ],
)
def test_every_process_takes_its_share(more: tuple[str, ...], expected: list[tuple[str, int, int]]) -> None:
    settings = small_settings(f"env.worlds={WORLDS}", *more)
    shares = assignments(settings)
    assert [(share.name, share.first_world, share.worlds) for share in shares] == expected
    urls = settings.inference.envs
    assert {share.env_url for share in shares} == set(urls[: len(shares)])
