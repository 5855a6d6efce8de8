"""Snakes that play by the agent API, in real environment servers: what they contribute are whole lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.clients.agent_protocol import observation
from rattle.envs.registry import make_worlds
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import VectorWorlds
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy, dump_policy
from rattle.services.inference.actor_pool import ActorPool
from rattle.services.inference.actors import ActorHandle
from rattle.services.inference.snake_loop import SnakeLoop
from rattle.services.mock_env.script import line
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import DTYPES
from rattle.settings.experiment import ExperimentSettings
from tests.policies.building import random_parameters
from tests.processes import ServiceProcess
from tests.services.env.agent_server import eventually
from tests.services.inference.learner_double import SPEC, LearnerDouble
from tests.services.mock_env.servers import mock_env_process
from tests.trainer.conftest import small_settings

pytestmark = pytest.mark.integration

SEED = 7
GAME = ("env.width=6", "env.height=6", "env.max_steps_without_food=20")
#: A world for one snake, which stands still until the snake has moved.
ALONE = (*GAME, f"seed={SEED}", "env_service.clock=turns", "env_service.turn_seconds=600", "env_service.snakes=1")


def policy_message(version: int, finished: bool = False) -> training_pb2.Policy:
    """Return a policy that plays otherwise than those of other versions."""
    file = dump_policy(StoredPolicy(SPEC, random_parameters(SPEC, version), version, "snake", {}))
    return training_pb2.Policy(policy_id="main", version=version, lineage="first", file=file, finished=finished)


@pytest.fixture
def learner() -> Iterator[LearnerDouble]:
    learner = LearnerDouble()
    yield learner
    learner.stop()


def settings_for(learner: LearnerDouble, *urls: str, more: tuple[str, ...] = ("training.mode=async",)) -> Any:
    addresses = (f"inference.envs={list(urls)}", f"inference.training=['{learner.address}']")
    return small_settings("inference.api=agent", "inference.snakes=1", *GAME, *addresses, *more)


@contextmanager
def playing(settings: ExperimentSettings) -> Iterator[ActorPool]:
    players = ActorPool(settings, lambda name, policy: None)
    players.start()
    try:
        yield players
    finally:
        players.stop()


def array(tensor: training_pb2.Tensor) -> NDArray[Any]:
    return np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tensor.shape)


def wait_for_more(learner: LearnerDouble, number: int) -> None:
    enough = len(learner.rollouts) + number
    learner.wait_for(lambda: len(learner.rollouts) >= enough)


def is_game(rollout: training_pb2.Rollout, world: VectorWorlds) -> bool:
    """Play a rollout once more, and return whether it is the game that the world is about to play, all of it."""
    for tick in range(rollout.action.shape[0]):
        if (array(rollout.observation)[tick] != world.observation).any():
            return False
        world.step(array(rollout.action)[tick].astype(np.int64))
        if array(rollout.reward)[tick] != world.reward:
            return False
        if array(rollout.terminated)[tick] != (world.terminated | world.truncated):
            return False
    return bool(array(rollout.terminated)[-1]) and bool(
        array(rollout.metrics["food"])[-1] == world.final_metrics["food"]
    )


def games(settings: ExperimentSettings, rollouts: list[training_pb2.Rollout]) -> list[int]:
    """Return which of the seed's games the rollouts are, each the next one or the first."""
    found: list[int] = []
    for rollout in rollouts:
        for number in {found[-1] + 1 if found else 0, 0}:
            world = make_worlds("snake", settings.env.own_settings, 1, SEED)
            for _ in range(number):
                world.reset()
            if is_game(rollout, world):
                found.append(number)
                break
        else:
            pytest.fail(f"rollout {rollout.sequence} is no game")
    return found


def test_a_rollout_is_a_game_from_its_beginning_to_its_end(learner: LearnerDouble) -> None:
    with ServiceProcess("env", settings=ALONE) as server:
        settings = settings_for(learner, server.url)
        learner.send(policy_message(0))
        with playing(settings) as players:
            wait_for_more(learner, 20)
        (player,) = players.agents()
    rollouts = learner.rollouts[:20]
    assert games(settings, rollouts) == list(range(20))
    assert [rollout.sequence for rollout in rollouts] == list(range(1, 21))
    for rollout in rollouts:
        ticks = rollout.action.shape[0]
        assert not rollout.continues
        assert rollout.first_world == 0
        assert rollout.observation.shape == [ticks, 1, 60]
        assert array(rollout.active).all()
        assert array(rollout.terminated).sum() == 1
        assert not array(rollout.truncated).any()
        assert array(rollout.last_value).shape == (1,)
    assert [int(array(rollout.world_episode)[0, 0]) for rollout in rollouts] == list(range(20))
    assert player.report.rollouts >= 20
    assert player.report.env_steps >= sum(rollout.action.shape[0] for rollout in rollouts)


def test_no_rollout_joins_two_lives_of_a_server_that_is_killed(learner: LearnerDouble) -> None:
    with ServiceProcess("env", settings=ALONE) as server:
        settings = settings_for(learner, server.url)
        learner.send(policy_message(0))
        with playing(settings):
            for _ in range(4):
                wait_for_more(learner, 3)
                server.kill()
                server.start()
            wait_for_more(learner, 3)
    found = games(settings, learner.rollouts)
    assert found.count(0) == 5
    assert [rollout.sequence for rollout in learner.rollouts] == list(range(1, len(found) + 1))
    assert len({rollout.life for rollout in learner.rollouts}) == 1


def test_a_life_is_played_by_one_policy_from_its_first_tick_to_its_last(learner: LearnerDouble) -> None:
    with ServiceProcess("env", settings=ALONE) as server:
        settings = settings_for(learner, server.url)
        with playing(settings):
            for version in range(12):
                learner.send(policy_message(version))
                wait_for_more(learner, 1)  # which may have begun before
            learner.wait_for(lambda: learner.rollouts[-1].policy_version == 11)
    versions = [rollout.policy_version for rollout in learner.rollouts]
    assert versions == sorted(versions)
    assert len(set(versions)) > 6
    for rollout in learner.rollouts:
        acting = ActingPolicy(SPEC, random_parameters(SPEC, rollout.policy_version))
        logits, value = acting.forward(array(rollout.observation)[:, 0])
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        taken = log_probs[np.arange(len(logits)), array(rollout.action)[:, 0]]
        np.testing.assert_allclose(array(rollout.log_prob)[:, 0], taken, atol=1e-5)
        assert array(rollout.value)[:, 0].tolist() == value.tolist()


def test_games_of_one_policy_draw_anew(learner: LearnerDouble) -> None:
    """The server's games are the same after a restart: only the draws can differ."""
    with ServiceProcess("env", settings=ALONE) as server:
        learner.send(policy_message(0))
        with playing(settings_for(learner, server.url)):
            for _ in range(2):
                wait_for_more(learner, 2)
                server.kill()
                server.start()
    first = learner.rollouts[0]
    same_games = [
        rollout for rollout in learner.rollouts[1:] if rollout.observation.data[:60] == first.observation.data[:60]
    ]
    assert same_games
    assert all(rollout.action.data != first.action.data for rollout in same_games)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("{'id':'reinforce','max_episode_ticks':4,'baseline':True}", {}),
        ("a2c", {"rollout_ticks": 4, "complete_episodes": True}),  # what Training says comes first
    ],
)
def test_a_long_life_is_cut_and_the_next_one_begins_anew(
    learner: LearnerDouble, algorithm: str, said: dict[str, Any]
) -> None:
    endless = (*ALONE, "env.width=30", "env.height=30", "env.max_steps_without_food=0")
    with ServiceProcess("env", settings=endless) as server:
        more = ("training.mode=async", f"algorithm={algorithm}")
        message = policy_message(0)
        for name, value in said.items():
            setattr(message, name, value)
        learner.send(message)
        with playing(settings_for(learner, server.url, more=more)):
            wait_for_more(learner, 6)
    acting = ActingPolicy(SPEC, random_parameters(SPEC, 0))
    for rollout in learner.rollouts[:6]:
        assert rollout.action.shape == [4, 1]
        assert array(rollout.truncated).ravel().tolist() == [False, False, False, True]
        assert not array(rollout.terminated).any()
        assert not array(rollout.final_value)[:3].any()
        assert array(rollout.final_value)[3] == array(rollout.last_value)
        assert array(rollout.final_value)[3] != 0
        # A new snake is straight behind its head, and sees nothing else of itself.
        assert _bodies_seen(array(rollout.observation)[0, 0]) == 2
    assert acting.values(array(learner.rollouts[0].observation)[0]) == array(learner.rollouts[0].value)[0]


def _bodies_seen(codes: NDArray[np.uint8]) -> int:
    return int((codes == 2).sum())


def test_in_mode_on_policy_a_snake_waits_for_the_next_version_and_numbers_its_draws_as_it_says(
    learner: LearnerDouble,
) -> None:
    first_ticks = [0, 1000, 2**33]
    with ServiceProcess("env", settings=ALONE) as server:
        settings = settings_for(learner, server.url, more=("seed=3",))
        with playing(settings) as players:
            for version, first_tick in enumerate(first_ticks):
                message = policy_message(version)
                message.first_tick = first_tick
                learner.send(message)
                learner.wait_for(lambda version=version: len(learner.rollouts) == version + 1)  # type: ignore[misc]
                eventually(lambda: players.agents()[0].report.state == "waiting")
            assert [rollout.policy_version for rollout in learner.rollouts] == [0, 1, 2]
    for rollout, first_tick in zip(learner.rollouts, first_ticks, strict=True):
        acting = ActingPolicy(SPEC, random_parameters(SPEC, rollout.policy_version), derive_seed(3, "actions"))
        for tick in range(rollout.action.shape[0]):
            seen, action, rest = array(rollout.observation)[tick], np.zeros(1, np.int64), np.zeros(1, np.float32)
            acting.act(seen, tick=first_tick + tick, action=action, log_prob=rest, value=rest.copy())
            assert action[0] == array(rollout.action)[tick, 0]


def test_many_snakes_share_a_process_and_the_servers_in_turn(learner: LearnerDouble) -> None:
    room = (*GAME, "env.width=30", "env.height=30", "env_service.clock=turns", "env_service.snakes=8")
    with ServiceProcess("env", settings=room) as one, ServiceProcess("env", settings=room) as other:
        more = ("training.mode=async", "inference.snakes=13")
        learner.send(policy_message(0))
        with playing(settings_for(learner, one.url, other.url, more=more)) as players:
            learner.wait_for(lambda: len({rollout.first_world for rollout in learner.rollouts}) == 13)
            agents = players.agents()
            assert len([thread for thread in threading.enumerate() if thread.name == "snakes"]) == 1
    assert [agent.assignment.env_url for agent in agents] == [one.url, other.url] * 6 + [one.url]
    by_actor = {rollout.actor: rollout.first_world for rollout in learner.rollouts}
    assert by_actor == {f"main-{number}": number for number in range(13)}


def test_a_snake_that_is_told_to_stop_lets_go_of_its_stream_at_once(learner: LearnerDouble) -> None:
    """The world stands still: nothing would come over the stream for ten minutes."""
    waiting = ("env_service.clock=sync", "env_service.sync_port=0", "env_service.leave_seconds=0.05")
    with ServiceProcess("env", settings=(*GAME, *waiting)) as server:
        learner.send(policy_message(0))
        with playing(settings_for(learner, server.url)) as players:
            eventually(lambda: players.agents()[0].report.state == "playing")
            players.remove("main-0")
            assert players.agents() == []
            assert not [thread for thread in threading.enumerate() if thread.name == "main-0"]
    assert learner.rollouts == []


def test_a_life_that_is_stopped_before_it_was_begun_does_not_run() -> None:
    async def life() -> None:
        pytest.fail("it was begun")

    control, loop = ActorHandle(), SnakeLoop()
    control.end()
    assert not loop.run(life(), control)
    loop.close()


SCRIPT = 10


def is_script(rollout: training_pb2.Rollout, length: int = SCRIPT) -> bool:
    """Say whether a rollout is all of the mock environment's script."""
    if rollout.action.shape[0] != length:
        return False
    lines = [line("anna", tick, length) for tick in range(length + 1)]
    seen = np.array([observation(each.visible_cells) for each in lines[:-1]])
    food = lines[-1].length - lines[0].length
    return (
        array(rollout.observation)[:, 0].tolist() == seen.tolist()
        and array(rollout.reward)[:, 0].tolist() == [each.reward for each in lines[1:]]
        and array(rollout.terminated)[:, 0].tolist() == [each.game_over for each in lines[1:]]
        and int(array(rollout.metrics["food"])[-1, 0]) == food
    )


FATAL = ["cut-stream", "malformed-line", "missing-field", "wrong-type", "out-of-order", "repeated-line", "skipped-tick"]


@pytest.mark.parametrize("fault", [*FATAL, "wrong-window", "no-head"])
def test_lives_that_are_not_seen_whole_are_forgotten_and_play_goes_on(learner: LearnerDouble, fault: str) -> None:
    learner.send(policy_message(0))
    reasons: set[str] = set()

    def failed() -> bool:
        reasons.add(players.agents()[0].report.reason)
        return bool(reasons - {"", "for a policy"})

    faulty = mock_env_process("--fault", fault, "--fault-every", "4", "--delay", "0.2")
    with faulty as (server, url), playing(settings_for(learner, url)) as players:
        eventually(failed)
        assert learner.rollouts == []
        server.kill()
        server.wait()
        with mock_env_process("--port", url.rpartition(":")[2], "--delay", "3600"):
            wait_for_more(learner, 2)
    assert all(is_script(rollout) for rollout in learner.rollouts)


@pytest.mark.parametrize("fault", ["error-500", "cut-answer", "malformed-answer"])
def test_lives_between_faults_are_whole(learner: LearnerDouble, fault: str) -> None:
    learner.send(policy_message(0))
    faulty = ("--fault", fault, "--fault-every", "23", "--delay", "3600")
    with mock_env_process(*faulty) as (_, url), playing(settings_for(learner, url)):
        wait_for_more(learner, 6)
    assert all(is_script(rollout) for rollout in learner.rollouts)


@pytest.mark.parametrize("fault", ["late", "late-lines"])
def test_a_late_server_is_waited_for(learner: LearnerDouble, fault: str) -> None:
    learner.send(policy_message(0))
    with mock_env_process("--fault", fault, "--length", "2") as (_, url), playing(settings_for(learner, url)):
        wait_for_more(learner, 1)
    assert all(is_script(rollout, 2) for rollout in learner.rollouts)
