"""Worlds in worker processes are those of one process, whatever the processes do."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import numpy as np
import pytest

from rattle.envs import logged_worlds
from rattle.envs.errors import CannotReplay, EnvError, EnvironmentFailed, WorldsLost
from rattle.envs.registry import make_worlds
from rattle.envs.vector import AsyncVectorWorlds, VectorWorlds, random_actions
from rattle.workers.messages import Begin
from rattle.workers.worker import _Hosted
from rattle.workers.worlds import WorkerWorlds, _arrays
from tests.workers.conftest import InWorkers

PARTY = "pettingzoo:tests.envs.parallel_party"
NAMES = ("observation", "reward", "terminated", "truncated", "active", "episode")


def _assert_same(one: VectorWorlds, many: VectorWorlds) -> None:
    for name in NAMES:
        assert np.array_equal(getattr(one, name), getattr(many, name)), name
    ended = one.terminated | one.truncated
    assert np.array_equal(one.final_observation[ended], many.final_observation[ended])
    for name, values in one.metrics.items():
        assert np.array_equal(values, many.metrics[name])
        assert np.array_equal(one.final_metrics[name][ended], many.final_metrics[name][ended])


def _play(ticks: int, *batches: VectorWorlds, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for _ in range(ticks):
        actions = random_actions(batches[0], random)
        for worlds in batches:
            worlds.step(actions)
        for worlds in batches[1:]:
            _assert_same(batches[0], worlds)


def _assert_same_state(one: VectorWorlds, many: VectorWorlds) -> None:
    expected, found = one.state(), many.state()
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert array.dtype == found[name].dtype
        assert np.array_equal(array, found[name]), name


@pytest.mark.parametrize(
    ("environment", "settings", "processes"),
    [
        ("gym:CartPole-v1", {}, 3),
        (PARTY, {}, 2),
        (PARTY, {"masked": "well"}, 2),  # which raises where an action is taken that infos forbid
        ("gym:Pendulum-v1", {}, 1),
    ],
)
def test_the_same_worlds_are_played_in_any_number_of_processes(
    in_workers: InWorkers, environment: str, settings: dict[str, str], processes: int
) -> None:
    one = make_worlds(environment, settings, 5, 7, 3)
    many = in_workers(environment, 5, settings=settings, first_world=3, processes=processes)
    assert isinstance(many, VectorWorlds)
    assert isinstance(many, AsyncVectorWorlds)
    _assert_same(one, many)
    _play(40, one, many)
    _assert_same_state(one, many)
    for world in range(5):
        assert many.snapshot(world) == one.snapshot(world)
    for seed in (None, 11, None):
        one.reset(seed)
        many.reset(seed)
        _assert_same(one, many)
    _play(5, one, many)


def test_a_state_goes_on_in_any_number_of_processes(in_workers: InWorkers) -> None:
    one = make_worlds(PARTY, {}, 5, 7)
    _play(20, one)
    three, two = in_workers(PARTY, 5, seed=1, processes=3), in_workers(PARTY, 5, seed=2, processes=2)
    three.restore(one.state())
    two.restore(three.state())
    again = make_worlds(PARTY, {}, 5, 3)
    again.restore(two.state())
    assert two.seed == three.seed == 7
    _play(20, one, three, two, again)


def test_a_state_that_does_not_fit_changes_nothing(in_workers: InWorkers) -> None:
    one, many = make_worlds("gym:CartPole-v1", {}, 4, 7), in_workers("gym:CartPole-v1", 4, processes=2)
    _play(10, one, many)
    good = one.state()
    # The last world went another way: the first worker can play its part again, the second cannot.
    wrong = {**good, "observation": good["observation"].copy()}
    wrong["observation"][3] += 1
    with pytest.raises(CannotReplay, match="not deterministic"):
        many.restore(wrong)
    for state in (
        {name: array for name, array in good.items() if name != "episode"},
        {**good, "episode": good["episode"][:3]},
        {**good, "actions": good["actions"][:-1]},
        make_worlds("gym:CartPole-v1", {}, 4, 7, 1).state(),
    ):
        with pytest.raises(EnvError):
            many.restore(state)
    _assert_same_state(one, many)
    _play(30, one, many)


def test_worlds_that_are_batches_themselves_go_on_in_as_many_processes(in_workers: InWorkers) -> None:
    settings = {"width": 7, "height": 7}
    one = make_worlds("snake", settings, 4, 7)
    two = in_workers("snake", 4, settings=settings, processes=2)
    _play(30, one, two)
    state = two.state()
    _play(10, one, two)
    expected = two.observation.copy()
    two.restore(state)
    _play(9, two)
    two.restore(state)
    random = np.random.default_rng(0)
    for _ in range(10):
        two.step(two.spec.action_space.draw(random, two.num_slots))
    assert np.array_equal(two.observation, expected)
    with pytest.raises(CannotReplay, match="another number of processes than 1"):
        in_workers("snake", 4, settings=settings, processes=1).restore(state)


def test_wrong_actions_are_named_by_their_slot(in_workers: InWorkers) -> None:
    worlds = in_workers("gym:CartPole-v1", 4, processes=2)
    with pytest.raises(EnvError, match=r"\[3\] is 2"):
        worlds.step(np.array([0, 1, 0, 2]))
    with pytest.raises(EnvError, match="shape"):
        worlds.step(np.zeros(3, np.int64))
    worlds.step_async(np.zeros(4, np.int64))
    with pytest.raises(EnvError, match=r"call step_wait\(\)"):
        worlds.step_async(np.zeros(4, np.int64))
    worlds.step_wait()


def _actions(worlds: WorkerWorlds, slot: int, action: int) -> np.ndarray:
    actions = np.zeros(worlds.num_slots, np.int64)
    actions[slot] = action
    return actions


@pytest.mark.parametrize(("action", "how"), [(1, "was killed by SIGKILL"), (2, "has ended with status 3")])
def test_a_worker_that_ends_is_named_and_started_again(
    in_workers: InWorkers, trouble: str, action: int, how: str
) -> None:
    worlds = in_workers(trouble, 4, first_world=10, processes=2)
    worlds.step(np.zeros(4, np.int64))
    kept = worlds._workers[0].pid
    with pytest.raises(WorldsLost) as lost:
        worlds.step(_actions(worlds, 3, action))
    assert str(lost.value) == (f"'{trouble}', world 13: the process of worlds 12 to 13 {how}: new episodes begin")
    assert worlds._workers[0].pid == kept
    assert worlds.episode.tolist() == [0, 0, 1, 1]
    # They go on as worlds do that have begun their next episodes: nothing is played twice.
    one = make_worlds(trouble, {}, 2, 7, 12)
    one.reset()
    assert np.array_equal(worlds.observation[2:], one.observation)
    worlds.reset()
    one.reset()
    for _ in range(12):
        worlds.step(np.zeros(4, np.int64))
        one.step(np.zeros(2, np.int64))
        assert np.array_equal(worlds.observation[2:], one.observation)
    assert np.array_equal(worlds.state()["episode"][2:], one.state()["episode"])


def test_a_worker_that_was_killed_while_nobody_waited_is_lost_at_the_next_use(
    in_workers: InWorkers, trouble: str
) -> None:
    worlds = in_workers(trouble, 2)
    for use in (worlds.state, lambda: worlds.snapshot(0), lambda: worlds.step(np.zeros(2, np.int64))):
        os.kill(worlds._workers[0].pid, signal.SIGKILL)
        with pytest.raises(WorldsLost, match="the process of worlds 0 to 1 was killed by SIGKILL"):
            use()
    os.kill(worlds._workers[0].pid, signal.SIGKILL)
    worlds.reset(5)  # begins anew in any case, so nothing is lost
    assert np.array_equal(worlds.observation, make_worlds(trouble, {}, 2, 5).observation)
    assert worlds.episode.tolist() == [0, 0]


def test_a_reset_takes_back_a_step_that_nobody_waited_for(in_workers: InWorkers, trouble: str) -> None:
    worlds = in_workers(trouble, 2)
    worlds.step_async(_actions(worlds, 1, 1))
    worlds.reset()
    assert worlds.episode.tolist() == [1, 1]
    worlds.step(np.zeros(2, np.int64))


def test_a_worker_that_hangs_is_named_killed_and_started_again(in_workers: InWorkers, trouble: str) -> None:
    worlds = in_workers(trouble, 3, answer_seconds=1.0)
    hung = os.pidfd_open(worlds._workers[0].pid)
    with pytest.raises(WorldsLost, match="world 1: the process of worlds 0 to 2 has not answered for 1 seconds"):
        worlds.step(_actions(worlds, 1, 3))
    assert select.select([hung], [], [], 60)[0]
    os.close(hung)
    worlds.step(np.zeros(3, np.int64))


def test_what_worlds_raise_is_said_as_in_one_process(in_workers: InWorkers, trouble: str) -> None:
    one, many = make_worlds(trouble, {}, 4, 7), in_workers(trouble, 4, processes=2)
    with pytest.raises(EnvError) as expected:
        one.step(np.array([0, 0, 0, 5]))
    with pytest.raises(EnvError) as raised:
        many.step(np.array([0, 0, 0, 5]))
    assert str(raised.value) == str(expected.value)
    assert str(raised.value).startswith(f"'{trouble}', world 3: step raised ValueError: no such luck in ")
    assert type(raised.value) is EnvError


def test_what_is_printed_harms_nothing(in_workers: InWorkers, trouble: str, capfd: pytest.CaptureFixture[str]) -> None:
    worlds = in_workers(trouble, 2)
    for _ in range(3):
        worlds.step(np.full(2, 4))
    worlds.close()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("another for nobody") == 6
    assert printed.err.count("a line for nobody") == 6


def test_workers_that_end_whenever_worlds_begin_are_given_up(
    in_workers: InWorkers, trouble: str, tmp_path: Path
) -> None:
    deadly = tmp_path / "deadly"
    worlds = in_workers(trouble, 2, settings={"deadly": str(deadly), "parent": os.getpid()})
    deadly.touch()
    os.kill(worlds._workers[0].pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFailed, match="worlds 0 to 1 was killed by SIGKILL while its worlds began"):
        worlds.step(np.zeros(2, np.int64))


def test_code_that_has_changed_is_not_begun_again(in_workers: InWorkers, trouble: str) -> None:
    worlds = in_workers(trouble, 2)
    path = Path("my_trouble.py")
    path.write_text(path.read_text().replace("float(self.ticks)", "2.0"))
    os.kill(worlds._workers[0].pid, signal.SIGKILL)
    with pytest.raises(EnvError, match=f"'{trouble}' has changed since"):
        worlds.step(np.zeros(2, np.int64))


def test_closed_workers_end(in_workers: InWorkers, trouble: str) -> None:
    worlds = in_workers(trouble, 4, processes=2)
    ends = [os.pidfd_open(worker.pid) for worker in worlds._workers]
    worlds.step_async(np.zeros(4, np.int64))
    worlds.close()
    worlds.close()
    for end in ends:
        assert select.select([end], [], [], 60)[0]
        os.close(end)


def test_a_worker_takes_actions_as_checked_by_who_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = make_worlds("gym:CartPole-v1", {}, 3, 7, 0)
    shared = {name: np.zeros(*array) for name, array in _arrays(alone.spec, 3, 3, 1).items()}
    hosted = _Hosted(Begin("gym:CartPole-v1", {}, 3, 7, 0, 0, {}, [], None, "never"), shared)
    shared["action"][:] = [1, 0, 1]
    alone.step(shared["action"])
    checked: list[object] = []
    monkeypatch.setattr(logged_worlds, "check_actions", lambda *given: checked.append(given))
    hosted.step()
    assert not checked
    assert np.array_equal(shared["observation"], alone.observation)
