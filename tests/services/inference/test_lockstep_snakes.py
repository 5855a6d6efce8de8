"""What snakes of a lockstep run do in each phase act: in a real Env service, with a learner that a test commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.envs.seeds import derive_seed
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy, dump_policy
from rattle.services.inference import lockstep_snake
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import DTYPES
from rattle.settings.experiment import ExperimentSettings
from tests.policies.building import random_parameters
from tests.services.env.agent_server import eventually
from tests.services.inference.learner_double import SPEC, LearnerDouble
from tests.services.inference.lockstep_party import Party, World, lockstep_settings, party, world

SNAKES = [f"main-{number}" for number in range(4)]
#: Nobody starves, and there is room for all: a life is as long as a rollout may be.
LONG = {"max_steps_without_food": 0, "width": 40, "height": 40}
CUT = 6
ALONE = "inference.snakes=1"
ASYNC = "training.mode=async"


def policy_message(version: int, lineage: str = "first", **more: Any) -> training_pb2.Policy:
    """Return a policy that plays otherwise than those of other versions."""
    file = dump_policy(StoredPolicy(SPEC, random_parameters(SPEC, version), version, "snake", {}))
    return training_pb2.Policy(policy_id="main", version=version, lineage=lineage, file=file, **more)


def array(tensor: training_pb2.Tensor) -> NDArray[Any]:
    return np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tensor.shape)


@pytest.fixture
def learner() -> Iterator[LearnerDouble]:
    learner = LearnerDouble()
    yield learner
    learner.stop()


def settings_for(env: World, learner: LearnerDouble, *more: str, cut: int = CUT) -> ExperimentSettings:
    algorithm = f"algorithm={{id: reinforce, max_episode_ticks: {cut}, baseline: true}}"
    return lockstep_settings(env.url, learner.address, algorithm, *more)


def send(learner: LearnerDouble, playing: Party, policy: training_pb2.Policy) -> None:
    """Send a policy, and wait until it is known."""
    count = len(playing.processes[0].versions)
    learner.send(policy)
    eventually(lambda: len(playing.processes[0].versions) > count)


def idle(playing: Party) -> int:
    return sum(snake.idle for snake in playing.processes[0].snakes)


def states(playing: Party) -> set[tuple[str, str]]:
    reports = [snake.control.report_so_far for snake in playing.processes[0].snakes]
    return {(report.state, report.reason) for report in reports}


def actors(learner: LearnerDouble) -> list[str]:
    return sorted(rollout.actor for rollout in learner.rollouts)


def test_the_first_policy_is_waited_for_in_the_first_phase_act(learner: LearnerDouble) -> None:
    with world() as env, party(env, settings_for(env, learner)) as playing:
        working = playing.begin()
        eventually(lambda: all(snake.control.report_so_far.state == "waiting" for snake in playing.processes[0].snakes))
        assert env.waiting() == []
        assert not working[0].done()
        learner.send(policy_message(0))
        assert playing.end(working) == {}
        assert env.waiting() == SNAKES
        assert not playing.all_idle
        env.step()
        assert playing.act() == env.game.snake_histories


def test_a_life_is_contributed_in_the_phase_act_that_sees_its_end_and_the_snake_is_idle(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner, cut=50)) as playing:
        playing.act()
        env.step()
        while env.living():
            playing.act()
            env.step()
            dead = sorted(set(SNAKES) - set(env.living()))
        playing.act()
        assert playing.all_idle
        assert actors(learner) == dead == SNAKES
        for rollout in learner.rollouts:
            assert array(rollout.terminated).ravel().tolist() == [False] * (rollout.action.shape[0] - 1) + [True]
        # All that is left to do is to wait: nobody joins, and nobody keeps others waiting.
        playing.all_idle = False
        env.step()
        hashes = playing.act()
        assert playing.all_idle
        assert env.waiting() == []
        assert hashes == env.game.snake_histories


def test_a_newer_policy_wakes_nobody_before_all_are_idle(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner, cut=50)) as playing:
        while not idle(playing):
            playing.act()
            env.step()
        send(learner, playing, policy_message(1))
        while not playing.all_idle:
            assert env.waiting() == []
            playing.act()
            env.step()
        assert {rollout.policy_version for rollout in learner.rollouts} == {0}
        playing.act()
        assert env.waiting() == SNAKES
        env.step()
        playing.all_idle = False
        playing.until_idle()
        assert sorted((one.policy_version, one.actor) for one in learner.rollouts[4:]) == [(1, one) for one in SNAKES]


def test_when_all_are_idle_the_next_policy_is_waited_for_within_the_work(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner)) as playing:
        playing.until_idle()
        env.step()
        working = playing.begin()
        time.sleep(0.2)
        assert not working[0].done()
        learner.send(policy_message(1))
        playing.end(working)
        assert not playing.all_idle
        assert states(playing) <= {("playing", ""), ("waiting", f"for {env.url}")}


def test_where_no_policy_comes_all_play_once_more(
    learner: LearnerDouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lockstep_snake, "_PATIENCE", 0.3)
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner)) as playing:
        playing.until_idle()
        env.step()
        playing.act()
        assert not playing.all_idle
        env.step()
        playing.until_idle()
        assert [actors(learner).count(snake) for snake in SNAKES] == [2, 2, 2, 2]
        send(learner, playing, policy_message(1))
        env.step()
        playing.act()
        env.step()
        playing.until_idle()
    assert [rollout.policy_version for rollout in learner.rollouts] == [0] * 8 + [1] * 4
    assert f"{SNAKES[0]}: no policy has come in 0 s: playing once more" in caplog.messages


def test_draws_are_numbered_by_ticks_after_those_that_were_learnt_from_before(learner: LearnerDouble) -> None:
    learner.send(policy_message(0, first_tick=1000))
    began = {}
    with world(snakes=1) as env, party(env, settings_for(env, learner, ALONE, "seed=3")) as playing:
        for version in range(3):
            while not env.living():
                playing.act()
                env.step()
            began[version] = 1000 + playing.tick + 1
            playing.until_idle()
            learner.send(policy_message(version + 1, first_tick=7))  # which decides nothing any more
            if env.living():  # it was cut, and goes on
                began[version + 1] = 1000 + playing.tick + 2
            env.step()
    assert [rollout.policy_version for rollout in learner.rollouts] == [0, 1, 2]
    for rollout in learner.rollouts:
        acting = ActingPolicy(SPEC, random_parameters(SPEC, rollout.policy_version), derive_seed(3, "actions"))
        for row in range(rollout.action.shape[0]):
            action, rest = np.zeros(1, np.int64), np.zeros(1, np.float32)
            seen, tick = array(rollout.observation)[row], began[rollout.policy_version] + row
            acting.act(seen, tick=tick, action=action, log_prob=rest, value=rest.copy())
            assert action[0] == array(rollout.action)[row, 0]


def test_a_life_that_is_cut_goes_forward_until_the_next_policy_plays_on(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world(snakes=2, **LONG) as env, party(env, settings_for(env, learner, "inference.snakes=2")) as playing:
        playing.until_idle()
        assert playing.tick == 1 + 1 + CUT
        assert env.living() == ["main-0", "main-1"]
        playing.all_idle = False  # another process plays on
        for _ in range(5):
            env.step()
            assert playing.act() == env.game.snake_histories
            assert playing.all_idle
            playing.all_idle = False
        assert len(learner.rollouts) == 2
        learner.send(policy_message(1))
        env.step()
        playing.all_idle = True
        seen = {name: env.game._living[name].codes for name in env.living()}
        playing.act()
        assert not playing.all_idle
        env.step()
        playing.until_idle()
        env.step()
        assert playing.act(last=True) == env.game.snake_histories
    for rollout in learner.rollouts:
        assert array(rollout.truncated).ravel().tolist() == [False] * (CUT - 1) + [True]
        assert array(rollout.final_value)[-1] != 0
    for rollout in learner.rollouts[2:]:
        assert rollout.policy_version == 1
        assert array(rollout.observation)[0, 0].tolist() == seen[rollout.actor].tolist()


def test_in_mode_async_a_life_that_is_cut_is_played_on_at_once(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world(snakes=1, **LONG) as env, party(env, settings_for(env, learner, ALONE, ASYNC)) as playing:
        for _ in range(2 + 4 * CUT):
            playing.act()
            assert not playing.all_idle
            env.step()
        assert playing.act() == env.game.snake_histories
    assert len(learner.rollouts) == 4
    seen = np.concatenate([array(rollout.observation)[:, 0] for rollout in learner.rollouts])
    actions = np.concatenate([array(rollout.action)[:, 0] for rollout in learner.rollouts])
    acting = ActingPolicy(SPEC, random_parameters(SPEC, 0), derive_seed(0, "actions"))
    for row, (observation, taken) in enumerate(zip(seen, actions, strict=True)):
        action, rest = np.zeros(1, np.int64), np.zeros(1, np.float32)
        acting.act(observation[None], tick=2 + row, action=action, log_prob=rest, value=rest.copy())
        assert action[0] == taken


def test_in_mode_async_the_next_life_begins_in_the_phase_act_that_ends_the_last(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner, ASYNC, cut=50)) as playing:
        for _ in range(40):
            playing.act()
            assert sorted(env.waiting() + env.living()) == SNAKES
            env.step()
    assert len(learner.rollouts) > 4


def test_in_the_last_phase_act_ended_lives_are_contributed_and_nothing_else_is_done(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner, ASYNC, cut=50)) as playing:
        while len(env.living()) < 4 or not playing.tick:
            playing.act()
            env.step()
        while len(env.living()) == 4:
            playing.act()
            env.step()
        sent, moves = len(learner.rollouts), env.game.moves
        dead = set(SNAKES) - set(env.living())
        assert playing.act(last=True) == env.game.snake_histories
        assert {rollout.actor for rollout in learner.rollouts[sent:]} == dead
        assert env.waiting() == []
        assert env.game.moves == moves


def test_nothing_is_lost_when_streams_break_and_the_server_lives(
    learner: LearnerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    learner.send(policy_message(0))
    with world(snakes=2, **LONG) as env, party(env, settings_for(env, learner, "inference.snakes=2")) as playing:
        playing.act()
        for tick in range(CUT):
            env.step()
            assert playing.act() == env.game.snake_histories
            if tick in (1, 3):
                env.break_streams()
        env.step()
        assert playing.act() == env.game.snake_histories
        assert playing.all_idle
    assert [rollout.action.shape[0] for rollout in learner.rollouts] == [CUT, CUT]
    assert not caplog.records


def test_a_snake_whose_stream_breaks_before_it_is_placed_joins_again(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner)) as playing:
        playing.act()
        env.break_streams()
        eventually(lambda: env.waiting() == [])
        env.step()
        assert playing.act() == {}
        assert env.waiting() == SNAKES
        env.step()
        assert playing.act() == env.game.snake_histories


def test_where_there_is_no_room_a_snake_asks_again_in_the_next_tick(
    learner: LearnerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    learner.send(policy_message(0))
    settings = ("inference.snakes=2", ASYNC)
    with world(snakes=1) as env, party(env, settings_for(env, learner, *settings, cut=50)) as playing:
        seen = set()
        for _ in range(60):
            playing.act()
            seen |= set(env.waiting())
            env.step()
            if len(seen) == 2:
                break
        assert seen == {"main-0", "main-1"}
    assert 1 <= len([record for record in caplog.records if "no room" in record.message]) <= 3


def test_a_process_that_is_started_again_plays_on_and_knows_no_history(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world(**LONG) as env:
        settings = settings_for(env, learner, cut=50)
        with party(env, settings) as first:
            first.play(5)
        moves, watched = env.game.moves, len(learner.watched)
        with party(env, settings) as again:
            learner.wait_for(lambda: len(learner.watched) > watched)
            learner.send(policy_message(0))  # earlier it could go to the stream of the one that has ended
            again.tick = first.tick
            assert again.act() == {}
            assert again.processes[0].agents.history == (first.tick, {})
            assert env.game.moves == moves + 4
            assert env.living() == SNAKES
            for _ in range(3):
                env.step()
                assert again.act() == {}
            assert env.game.moves == moves + 16


def test_a_run_that_begins_with_tick_1_once_more_is_another_one(
    learner: LearnerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    learner.send(policy_message(0))
    with world(**LONG) as env, party(env, settings_for(env, learner, cut=50)) as playing:
        playing.play(5)
        playing.tick = 0
        moves = env.game.moves
        assert playing.act() == {}
        assert env.game.moves == moves + 4
        assert "another lockstep run has begun" in caplog.text
        env.step()
        playing.act()
    assert learner.rollouts == []


def test_after_the_last_policy_snakes_are_idle_for_ever(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner)) as playing:
        playing.until_idle()
        learner.send(policy_message(1, finished=True))
        for _ in range(3):
            env.step()
            playing.act()
            assert playing.all_idle
        assert env.waiting() == []
        assert states(playing) == {("stopped", "nothing more is learnt")}
    assert len(learner.rollouts) == 4


def test_a_learner_that_is_started_again_has_the_same_version_played_once_more(learner: LearnerDouble) -> None:
    learner.send(policy_message(3))
    with world() as env, party(env, settings_for(env, learner)) as playing:
        playing.until_idle()
        env.step()
        working = playing.begin()
        learner.stop()
        learner.send(policy_message(2, lineage="second"))
        learner.start()
        playing.end(working)
        env.step()
        playing.until_idle()
    played = {(one.lineage, one.policy_version) for one in learner.rollouts[4:]}
    assert played == {("second", 2)}
    assert len(learner.rollouts) == 8


def test_the_receipt_of_a_life_is_waited_for_within_the_work(learner: LearnerDouble) -> None:
    learner.send(policy_message(0))
    with world() as env, party(env, settings_for(env, learner)) as playing:
        playing.play(1)
        learner.stop()
        working = playing.begin()
        while ("waiting", "for a receipt") not in states(playing):
            if working[0].done():
                playing.end(working)
                env.step()
                working = playing.begin()
        time.sleep(0.2)
        assert not working[0].done()
        learner.start()
        playing.end(working)
        assert learner.rollouts


def test_a_life_that_is_refused_is_played_once_more_with_the_same_policy(learner: LearnerDouble) -> None:
    def refuse(rollout: training_pb2.Rollout, context: grpc.ServicerContext) -> Any:
        if len(learner.rollouts) <= 2:  # it is sent again before the refusal is believed
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "observation: it is odd")
        return training_pb2.Receipt.ACCEPTED

    learner.on_rollout = refuse
    learner.send(policy_message(0))
    with world(snakes=1) as env, party(env, settings_for(env, learner, ALONE)) as playing:
        playing.until_idle()
        env.step()
        playing.act()
        assert not playing.all_idle
        env.step()
        playing.until_idle()
    first, again, _ = learner.rollouts
    assert first == again
    assert [rollout.policy_version for rollout in learner.rollouts] == [0, 0, 0]


def test_a_process_without_snakes_is_idle(learner: LearnerDouble) -> None:
    with world(snakes=1) as env, party(env, settings_for(env, learner, ALONE), processes=2) as playing:
        assert [len(process.snakes) for process in playing.processes] == [0, 1]
        answer = playing.processes[0].begin(1, False, False).result(60)
        assert answer == ({}, True)
