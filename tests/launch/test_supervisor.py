"""The supervisor's decisions, without processes: any order of events keeps its promises."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rattle.events import of_services
from rattle.launch.notes import Note
from rattle.launch.plan import plan
from rattle.launch.service import LaunchedService
from rattle.launch.supervisor import (
    CHECKPOINT_SECONDS,
    FIRST_WAIT,
    LONGEST_WAIT,
    MOST_DEATHS,
    MOST_FIRST_DEATHS,
    STABLE_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    Action,
    Send,
    Start,
    Supervisor,
)
from rattle.settings.sources import load_settings
from rattle.stop_signals import RUN_IS_COMPLETE

HELLO = json.dumps({"url": "http://127.0.0.1:1", "address": "127.0.0.1:1", "grpc": "127.0.0.1:2"})


def supervisor(*overrides: str) -> Supervisor:
    return Supervisor(plan(load_settings(None, overrides), Path("config.yaml")))


def needed(service: LaunchedService) -> set[str]:
    return {need.name for need in service.needs}


def starts(actions: list[Action]) -> list[tuple[str, int]]:
    return [(action.name, action.life) for action in actions if isinstance(action, Start)]


def sent(actions: list[Action]) -> list[tuple[str, int]]:
    return [(action.name, action.number) for action in actions if isinstance(action, Send)]


def events(actions: list[Action]) -> list[str]:
    return [action.event.name for action in actions if isinstance(action, Note)]


def all_ready(*overrides: str) -> Supervisor:
    core = supervisor(*overrides)
    due = starts(core.begin(0.0))
    while due:
        name, life = due.pop(0)
        core.started(name, life, 100)
        due += starts(core.said(name, life, HELLO, 0.0))
    return core


def test_services_start_together_but_those_that_need_others_after_them() -> None:
    core = supervisor("topology.env=2")
    assert starts(core.begin(0.0)) == [("env-0", 1), ("env-1", 1), ("training-0", 1)]
    assert starts(core.said("env-1", 1, HELLO, 1.0)) == []
    assert starts(core.said("training-0", 1, HELLO, 2.0)) == []
    assert starts(core.said("env-0", 1, HELLO, 3.0)) == [("inference-0", 1)]


def test_what_dies_is_started_again_after_a_wait_even_while_others_are_away() -> None:
    core = all_ready()
    for name in core.services:
        assert starts(core.exited(name, 1, -9, "", 20.0)) == []
    assert starts(core.wake(20.0 + FIRST_WAIT / 2)) == []
    assert core.wake_at() == 20.0 + FIRST_WAIT
    assert starts(core.wake(20.0 + FIRST_WAIT)) == [("env-0", 2), ("training-0", 2), ("inference-0", 2)]
    assert core.restarts == 3


def test_waits_double_up_to_the_longest_and_begin_anew_after_a_stable_while() -> None:
    core, now, waits = all_ready(), 0.0, []
    for life in range(1, 9):
        core.exited("env-0", life, 1, "", now)
        due = core.wake_at()
        assert due is not None
        waits.append(due - now)
        now = due
        assert starts(core.wake(now)) == [("env-0", life + 1)]
        core.said("env-0", life + 1, HELLO, now)
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    now += STABLE_SECONDS
    core.exited("env-0", 9, 1, "", now)
    assert core.wake_at() == pytest.approx(now + FIRST_WAIT)


def test_a_service_that_has_never_been_ready_is_given_up_with_its_last_words() -> None:
    core, now = supervisor(), 0.0
    core.begin(now)
    core.said("env-0", 1, HELLO, now)
    for life in range(1, MOST_FIRST_DEATHS + 1):
        actions = core.exited("training-0", life, 1, "env.width: too small", now)
        assert core.failure is None or life == MOST_FIRST_DEATHS
        now += LONGEST_WAIT
        core.wake(now)
    assert core.failure == "training-0 cannot start: env.width: too small"
    assert events(actions) == ["service_died", "service_given_up"]
    assert sent(actions) == [("env-0", SIGTERM)]
    assert not core.done
    core.exited("env-0", 1, 0, "", now)
    assert core.done


def test_a_service_that_was_ready_before_has_more_tries() -> None:
    core, now = all_ready(), 0.0
    for life in range(1, MOST_DEATHS + 1):
        assert core.failure is None
        core.exited("training-0", life, 1, "checkpoint damaged", now)
        now += LONGEST_WAIT
        core.wake(now)
    assert core.failure == "training-0 died again and again: checkpoint damaged"


def test_one_that_says_that_a_user_has_to_mend_something_is_given_up_at_once() -> None:
    core = supervisor()
    core.begin(0.0)
    core.exited("env-0", 1, 1, of_services.Error(error="env.width: too small"), 0.0)
    assert core.failure == "env-0 cannot start: env.width: too small"
    core = all_ready()  # what was ready may be again: a file may come back
    core.exited("env-0", 1, 1, of_services.Error(error="there is no config.yaml"), 0.0)
    assert core.failure is None


def test_a_service_that_moves_has_those_killed_that_know_its_old_address() -> None:
    core = all_ready("topology.inference=2")
    core.exited("env-0", 1, -9, "", 1.0)
    core.wake(2.0)
    assert core.exited("env-0", 2, 1, of_services.PortTaken(error="taken"), 2.0) == []
    assert core.services["env-0"].moves
    core.wake(3.0)
    core.exited("inference-1", 1, -9, "", 3.0)  # will be told as it starts
    actions = core.said("env-0", 3, HELLO.replace("127.0.0.1:1", "127.0.0.1:7"), 3.0)
    assert events(actions) == ["service_ready", "service_moved"]
    assert sent(actions) == [("inference-0", SIGKILL)]
    assert not core.services["env-0"].moves
    (died,) = core.exited("inference-0", 1, -9, "", 3.0)
    assert isinstance(died, Note)
    assert (died.level, died.event.fields()["reason"]) == ("INFO", "env-0 has another address now")
    assert starts(core.wake(3.0 + 2 * FIRST_WAIT)) == [("inference-0", 2), ("inference-1", 2)]


def test_a_service_never_gives_up_a_port_that_was_given_and_says_once_that_it_is_taken() -> None:
    core = all_ready("topology.ports=fixed")
    now, told = 0.0, list[str]()
    for life in range(1, 2 * MOST_DEATHS):
        told += events(core.exited("env-0", life, 1, of_services.PortTaken(error="taken"), now))
        now += LONGEST_WAIT
        core.wake(now)
    assert core.failure is None
    assert told == ["service_waits"]
    core.said("env-0", 2 * MOST_DEATHS, HELLO, now)
    assert events(core.exited("env-0", 2 * MOST_DEATHS, 1, of_services.PortTaken(error="taken"), now)) == [
        "service_waits"
    ]


def test_a_signal_says_more_than_what_was_written_long_before() -> None:
    core = supervisor()
    core.begin(0.0)
    for life in range(1, MOST_FIRST_DEATHS + 1):
        core.exited("env-0", life, -9, "some warning", 0.0)
        core.wake(100.0)
    assert core.failure == "env-0 cannot start: ended by signal 9 (Killed)"


def test_a_service_that_says_nothing_is_killed_in_the_end() -> None:
    core = supervisor()
    core.begin(0.0)
    assert core.wake_at() == START_SECONDS
    assert core.wake(START_SECONDS - 1) == []
    assert sent(core.wake(START_SECONDS)) == [("env-0", SIGKILL), ("training-0", SIGKILL)]
    assert core.wake(START_SECONDS + 1) == []
    (died,) = core.exited("env-0", 1, -9, "", START_SECONDS + 1)
    assert isinstance(died, Note)
    assert died.event.fields()["reason"] == "it was not ready after 120 seconds"


@pytest.mark.parametrize("line", ["", "ready", "{}", "[]", "7", '{"url": 5}', '{"url": "http://127.0.0.1"}'])
def test_a_first_line_that_does_not_say_where_is_a_fault(line: str) -> None:
    core = supervisor()
    core.begin(0.0)
    assert sent(core.said("env-0", 1, line, 1.0)) == [("env-0", SIGKILL)]
    assert core.services["env-0"].hello is None
    (died,) = core.exited("env-0", 1, -9, "", 1.0)
    assert isinstance(died, Note)
    assert died.event.fields()["reason"].startswith("its first line does not say where it listens")


def test_deaths_that_were_wanted_count_for_nothing() -> None:
    core, now = all_ready(), 0.0
    for life in range(1, 3 * MOST_DEATHS):
        assert sent(core.kill("env-0")) == [("env-0", SIGKILL)]
        core.exited("env-0", life, -9, "", now)
        assert core.wake_at() == pytest.approx(now + FIRST_WAIT)
        now += FIRST_WAIT + 1e-6
        core.wake(now)
        core.said("env-0", life + 1, HELLO, now)
    assert core.failure is None
    assert core.kills == core.restarts == 3 * MOST_DEATHS - 1


def test_chaos_waits_until_all_have_been_ready_and_strikes_nobody_twice() -> None:
    core = supervisor()
    core.begin(0.0)
    core.said("env-0", 1, HELLO, 1.0)
    core.said("training-0", 1, HELLO, 1.0)
    assert core.targets() == []
    core.said("inference-0", 1, HELLO, 1.0)
    assert core.targets() == ["env-0", "training-0", "inference-0"]
    core.kill("env-0")
    assert core.targets() == ["training-0", "inference-0"]
    core.exited("env-0", 1, -9, "", 1.0)
    assert core.targets() == ["training-0", "inference-0"]
    core.wake(2.0)
    assert core.targets() == ["env-0", "training-0", "inference-0"]
    core.stop(3.0)
    assert core.targets() == []


def test_a_sync_service_is_started_first_struck_by_chaos_too_and_stopped_with_the_others() -> None:
    core = supervisor("sync=lockstep")
    assert starts(core.begin(0.0)) == [("sync-0", 1), ("training-0", 1)]
    assert starts(core.said("sync-0", 1, HELLO, 1.0)) == [("env-0", 1)]
    core = all_ready("sync=lockstep")
    assert "sync-0" in core.targets()
    assert sent(core.stop(0.0)) == [("training-0", SIGTERM)]
    complete = all_ready("sync=lockstep")
    assert sent(complete.stop(0.0, is_complete=True)) == [("training-0", RUN_IS_COMPLETE)]
    stopped = sent(core.exited("training-0", 1, 0, "", 1.0))
    assert stopped == [("sync-0", SIGTERM), ("env-0", SIGTERM), ("inference-0", SIGTERM)]


def test_training_stops_first_and_the_others_when_it_has() -> None:
    core = all_ready("topology.env=2")
    assert sent(core.stop(0.0)) == [("training-0", SIGTERM)]
    assert core.stop(0.1) == []
    assert core.wake_at() == CHECKPOINT_SECONDS
    after = core.exited("training-0", 1, 0, "", 1.0)
    assert sent(after) == [("env-0", SIGTERM), ("env-1", SIGTERM), ("inference-0", SIGTERM)]
    for name in ("env-0", "env-1", "inference-0"):
        assert not core.done
        assert sent(core.exited(name, 1, 0, "", 2.0)) == []
    assert core.done


def test_those_that_do_not_stop_are_killed() -> None:
    core = all_ready()
    core.stop(0.0)
    assert sent(core.wake(CHECKPOINT_SECONDS - 0.1)) == []
    late = core.wake(CHECKPOINT_SECONDS)
    assert sent(late) == [("env-0", SIGTERM), ("training-0", SIGKILL), ("inference-0", SIGTERM)]
    core.exited("training-0", 1, -9, "", CHECKPOINT_SECONDS)
    core.exited("env-0", 1, 0, "", CHECKPOINT_SECONDS)
    assert core.wake_at() == CHECKPOINT_SECONDS + STOP_SECONDS
    assert sent(core.wake(CHECKPOINT_SECONDS + STOP_SECONDS)) == [("inference-0", SIGKILL)]


def test_in_a_hurry_all_are_killed_at_once() -> None:
    core = all_ready()
    core.stop(0.0)
    assert sent(core.stop_at_once()) == [(name, SIGKILL) for name in ("env-0", "training-0", "inference-0")]
    assert core.wake_at() is None


class AnyOrder(RuleBasedStateMachine):
    """Processes live and die in any order, in time and out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = supervisor("topology.env=2", "topology.inference=2")
        self.alive: dict[str, int] = {}
        self.past: list[tuple[str, int]] = []
        self.ready: set[str] = set()
        self.deaths: dict[str, list[float]] = {}  # in a row, of each service
        self.stopped = False
        self.take(self.core.begin(self.now))

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                assert action.name not in self.alive, "two of one service"
                assert not self.stopped, "started after the stop"
                assert self.core.failure is None, "started after giving up"
                assert needed(self.core.services[action.name].service) <= self.ready, "started too early"
                before = self.deaths.get(action.name, [])
                assert not before or self.now - before[-1] >= FIRST_WAIT, "started without a wait"
                self.alive[action.name] = action.life
            elif isinstance(action, Send):
                assert action.name in self.alive, "a signal to nobody"

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def becomes_ready(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        self.ready.add(name)
        self.take(self.core.said(name, self.alive[name], HELLO, self.now))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), status=st.sampled_from([0, 1, -9]))
    def dies(self, data: st.DataObject, status: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        life = self.alive.pop(name)
        self.past.append((name, life))
        self.deaths.setdefault(name, []).append(self.now)
        self.take(self.core.exited(name, life, status, "words", self.now))

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def news_of_the_dead_is_ignored(self, data: st.DataObject) -> None:
        name, life = data.draw(st.sampled_from(self.past))
        assert self.core.said(name, life, HELLO, self.now) == []
        assert self.core.exited(name, life, 1, "", self.now) == []
        assert self.core.started(name, life, 1) == []

    @rule(seconds=st.sampled_from([0.01, 0.3, 6.0, 20.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.core.wake(self.now))

    @rule(data=st.data())
    def is_killed(self, data: st.DataObject) -> None:
        targets = self.core.targets()
        assert set(targets) <= set(self.alive)
        if targets:
            self.take(self.core.kill(data.draw(st.sampled_from(targets))))

    @rule(at_once=st.booleans())
    def stops(self, at_once: bool) -> None:
        self.stopped = True
        self.take(self.core.stop_at_once() if at_once else self.core.stop(self.now))

    @invariant()
    def it_ends_when_nobody_is_left(self) -> None:
        assert self.core.stopping == (self.stopped or self.core.failure is not None)
        assert self.core.done == (self.core.stopping and not self.alive)

    @invariant()
    def it_will_wake_while_anybody_is_awaited(self) -> None:
        waiting = set(self.core.services) - set(self.alive)
        dead = {name for name in waiting if self.deaths.get(name)}
        if dead and not self.core.stopping:
            assert self.core.wake_at() is not None

    @invariant()
    def no_service_is_forgotten(self) -> None:
        """Whoever may live does, once the longest wait is over."""
        if not self.core.stopping:
            for name, watched in self.core.services.items():
                able = needed(watched.service) <= self.ready
                assert name in self.alive or not able or watched.start_at <= self.now + LONGEST_WAIT


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestAnyOrder = AnyOrder.TestCase


def test_the_waits_never_get_shorter_while_a_service_keeps_dying() -> None:
    core, now, waits = all_ready(), 0.0, []
    for life in range(1, MOST_DEATHS):
        core.exited("inference-0", life, 1, "", now)
        due = core.wake_at()
        assert due is not None
        waits.append(due - now)
        now = due
        core.wake(now)
    assert all(one <= other + 1e-9 for one, other in pairwise(waits))
    assert waits[-1] == pytest.approx(LONGEST_WAIT)
