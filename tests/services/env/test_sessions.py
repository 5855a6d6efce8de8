"""Sessions without any network: step numbers, expiry, limits, and any sequence of requests against a plain model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.envs.errors import EnvError
from rattle.envs.registry import make_worlds
from rattle.envs.vector import VectorWorlds
from rattle.services.env.sessions import Session, SessionLimits, Sessions
from rattle.wire import encoding
from rattle.wire.problems import RequestError
from rattle.wire.vector import SessionRequest

BOARD = {"width": 6, "height": 6, "vision_radius": 2}
ROOMY = SessionLimits(sessions=4, worlds=65536, memory_bytes=2**31, unused_seconds=10.0)


class Maker:
    """Makes worlds and counts them."""

    def __init__(self, **own: Any) -> None:
        self.own = {**BOARD, **own}
        self.made: list[int] = []

    def __call__(self, options: Mapping[str, Any], worlds: int, seed: int, first_world: int) -> VectorWorlds:
        self.made.append(worlds)
        return make_worlds("snake", {**self.own, **options}, worlds, seed, first_world)


def new(sessions: Sessions, now: float = 0.0, **request: Any) -> Session:
    asked = SessionRequest(**({"worlds": 2, "seed": 1} | request))
    session = sessions.make(sessions.promise(asked, sessions.measure(asked)))
    sessions.add(session, now)
    return session


def one(**own: Any) -> Session:
    return new(Sessions(Maker(**own), ROOMY))


def step(session: Session, number: int, *action: int) -> dict[str, Any]:
    return session.step(number, np.array(action), ("step", bytes(action)))


def plain(answer: Any) -> Any:
    """Return an answer as it travels."""
    return msgspec.json.decode(encoding.json.encode(answer))


def refused(code: str, call: Any, *arguments: Any) -> RequestError:
    with pytest.raises(RequestError) as error:
        call(*arguments)
    assert error.value.code == code
    return error.value


def test_the_same_request_again_gets_the_stored_answer_and_steps_no_world() -> None:
    session = one()
    first = plain(step(session, 1, 1, 2))
    before = plain(session.worlds.state())
    assert plain(step(session, 1, 1, 2)) == first
    assert plain(session.worlds.state()) == before


def test_another_request_with_a_number_that_is_used_is_told_what_comes_next() -> None:
    session = one()
    step(session, 1, 1, 2)
    before = plain(session.worlds.state())
    for number, action in [(1, (0, 0)), (0, (1, 2)), (3, (1, 2)), (2**63 - 1, (1, 2))]:
        error = refused("wrong_step", step, session, number, *action)
        assert error.field == "step"
        assert error.more == {"expected": 2}
    refused("wrong_step", session.reset, 1, None, ("reset", bytes((1, 2))))
    refused("wrong_step", session.restore, 1, session.worlds.state(), ("state", bytes((1, 2))))
    assert plain(session.worlds.state()) == before
    assert step(session, 2, 0, 0)["step"] == 2


def test_no_request_repeats_the_making_of_a_session() -> None:
    session = one()
    refused("wrong_step", step, session, 0, 0, 0)
    refused("wrong_step", session.reset, 0, 1, ("reset", b""))
    assert session.created()["step"] == 0


@pytest.mark.parametrize(
    "action",
    [np.zeros(3, int), np.zeros(2), np.zeros((2, 1), int), np.array([0, 3]), np.array([-1, 0]), np.ones(2, bool)],
)
def test_a_refused_request_uses_up_no_number(action: np.ndarray[Any, Any]) -> None:
    session = one()
    before = plain(session.worlds.state())
    assert refused("bad_value", session.step, 1, action, ("step", b"x")).field == "action"
    assert refused("bad_value", session.reset, 1, 2**64, ("reset", b"x")).field == "seed"
    assert refused("bad_value", session.restore, 1, {}, ("state", b"x")).field == "state"
    assert refused("bad_value", session.snapshot, 2).field == "world"
    assert refused("bad_value", session.snapshot, -1).field == "world"
    assert not session.broken
    assert session.info()["step"] == 0
    assert plain(session.worlds.state()) == before
    step(session, 1, 0, 0)


def test_reset_restore_and_snapshot() -> None:
    session = one()
    beginning = plain(session.created())
    step(session, 1, 1, 1)
    state = session.state()
    assert state["step"] == 1
    seen = plain(step(session, 2, 2, 0))
    assert plain(session.reset(3, None, ("reset", b"")))["episode"] == [1, 1]
    assert session.info()["seed"] == 1
    restored = session.restore(4, state["state"], ("state", b""))
    assert set(restored) == {"step", "observation", "active", "episode"}
    assert plain(session.restore(4, state["state"], ("state", b""))) == plain(restored)
    assert plain(step(session, 5, 2, 0)) == seen | {"step": 5}
    session.reset(6, 2**64 - 1, ("reset", b"seed"))
    assert session.info()["seed"] == 2**64 - 1
    anew = plain(session.reset(7, 1, ("reset", b"one")))
    assert anew["observation"] == beginning["observation"]
    shot = session.snapshot(1)
    assert (shot["step"], shot["world"]) == (7, 1)
    assert len(shot["snapshot"]["bodies"][0]) == 3


def test_a_restored_state_brings_its_seed() -> None:
    sessions = Sessions(Maker(), ROOMY)
    first, second = new(sessions, seed=5), new(sessions, seed=6)
    second.restore(1, first.state()["state"], ("state", b""))
    assert second.info()["seed"] == 5


def test_dead_slots_see_and_get_nothing_until_the_next_episode() -> None:
    session = one(num_snakes=2, width=8, height=8, max_steps=12)
    draw, dead_rows, last_seen = np.random.default_rng(1), 0, 0
    for number in range(1, 400):
        before = session.worlds.active.copy()
        answer = plain(step(session, number, *draw.integers(0, 3, 4)))
        answer |= {
            name: np.array(answer[name]) for name in ("observation", "reward", "terminated", "truncated", "active")
        }
        over = answer["terminated"] | answer["truncated"]
        assert not (answer["terminated"] & answer["truncated"]).any()
        assert not over[~before].any()  # who is dead does not die again
        assert not answer["reward"][~before].any()
        dead = ~answer["active"]
        assert not answer["observation"][dead].any()
        dead_rows += int(dead.sum())
        slots = answer["ended"]["slots"]
        assert slots == np.flatnonzero(over).tolist()
        for row, slot in enumerate(slots):
            seen = answer["ended"]["observation"][row]
            if answer["active"][slot]:
                last_seen += any(seen)
            else:
                assert not any(seen)
        assert len(answer["ended"]["metrics"]["food"]) == len(slots)
    assert dead_rows > 0
    assert last_seen > 0


def test_a_session_that_is_not_used_is_gone() -> None:
    sessions = Sessions(Maker(), ROOMY)
    session, other = new(sessions, now=0.0), new(sessions, now=5.0)
    assert sessions.expire(10.0) == []
    assert sessions.get(session.id, 10.0) is session  # which is a use
    assert sessions.expire(15.5) == [other]
    refused("unknown_session", sessions.get, other.id, 15.5)
    assert sessions.get(session.id, 20.0) is session
    assert refused("unknown_session", sessions.get, session.id, 30.1).field == "session"
    refused("unknown_session", sessions.delete, session.id, 30.1)
    assert sessions.expire(30.1) == [session]
    assert (len(sessions), sessions.num_worlds) == (0, 0)


def test_a_session_in_use_does_not_expire() -> None:
    sessions = Sessions(Maker(), ROOMY)
    session = new(sessions)
    session.users = 1
    assert sessions.expire(1000.0) == []
    assert sessions.get(session.id, 1000.0) is session
    session.users = 0
    assert sessions.expire(1010.1) == [session]


def test_there_are_so_many_sessions_and_no_more() -> None:
    sessions = Sessions(Maker(), SessionLimits(3, 10, 2**31, 10.0))
    request = SessionRequest(worlds=1)
    first = new(sessions)
    promises = [sessions.promise(request, sessions.measure(request)) for _ in range(2)]
    refused("full", sessions.promise, request, 1)  # places that are promised count
    sessions.take_back(promises[0])
    sessions.add(sessions.make(promises[1]), 0.0)
    new(sessions)
    refused("full", sessions.promise, request, 1)
    assert sessions.delete(first.id, 1.0) is first
    new(sessions)
    assert len(sessions) == 3
    assert {session.id for session in sessions.clear()}.isdisjoint({first.id})
    assert len(sessions) == 0


def test_memory_is_kept_for_worlds_before_they_are_made() -> None:
    maker = Maker()
    measure = Sessions(maker, ROOMY).measure
    a_hundred = measure(SessionRequest(worlds=100))
    assert a_hundred == 100 * measure(SessionRequest(worlds=1))
    sessions = Sessions(maker, SessionLimits(9, 1000, a_hundred, 10.0))
    request = SessionRequest(worlds=60)
    promise = sessions.promise(request, sessions.measure(request))
    assert 60 not in maker.made
    assert refused("full", sessions.promise, request, sessions.measure(request)).status == 503
    session = sessions.make(promise)
    sessions.add(session, 0.0)
    refused("full", sessions.promise, request, sessions.measure(request))
    sessions.delete(session.id, 0.0)
    new(sessions, worlds=100)


def test_a_huge_session_is_refused_without_making_its_worlds() -> None:
    maker = Maker()
    sessions = Sessions(maker, ROOMY)
    options = {"width": 128, "height": 128, "num_snakes": 8}
    error = refused("bad_value", sessions.measure, SessionRequest(worlds=65536, options=options))
    assert error.field == "worlds"
    assert refused("bad_value", sessions.measure, SessionRequest(worlds=65537)).field == "worlds"
    assert set(maker.made) == {1}


def test_what_is_measured_is_about_what_worlds_take() -> None:
    sessions = Sessions(Maker(num_snakes=2), ROOMY)
    worlds = new(sessions, worlds=300).worlds
    outputs = (worlds.observation, worlds.final_observation, worlds.reward, worlds.terminated, worlds.truncated)
    taken = sum(array.nbytes for array in (*worlds.state().values(), *outputs))
    assert 0.5 * taken < sessions.measure(SessionRequest(worlds=300)) < 2 * taken


def test_worlds_that_others_wrote_take_more_than_their_arrays() -> None:
    sessions = Sessions(lambda *made: make_worlds("gym:CartPole-v1", *made), ROOMY)
    assert sessions.measure(SessionRequest(worlds=100)) > 100 * 4096
    limited = Sessions(lambda *made: make_worlds("gym:CartPole-v1", *made), SessionLimits(9, 65536, 2**20, 10.0))
    assert refused("bad_value", limited.measure, SessionRequest(worlds=1000)).field == "worlds"


def test_options_change_settings_of_one_session() -> None:
    sessions = Sessions(Maker(), ROOMY)
    session = new(sessions, options={"vision_radius": 1, "num_snakes": 2})
    created = session.created()
    assert created["settings"]["vision_radius"] == 1
    assert created["agents_per_world"] == 2
    assert np.shape(plain(created)["observation"]) == (4, 4)
    assert sessions.spec.agents_per_world == 1
    for options in ({"widht": 9}, {"width": 1}, {"width": None}, {"rewards": {"x": 1}}, {"num_snakes": 8}):
        assert refused("bad_value", sessions.measure, SessionRequest(worlds=1, options=options)).field == "options"


def test_worlds_that_cannot_be_made_leave_their_place() -> None:
    sessions = Sessions(Maker(), SessionLimits(1, 10, 2**31, 10.0))
    request = SessionRequest(worlds=2, first_world=2**32 - 1)
    promise = sessions.promise(request, sessions.measure(request))
    assert refused("bad_value", sessions.make, promise).field == "worlds"
    sessions.take_back(promise)
    assert refused("bad_value", sessions.promise, SessionRequest(worlds=1, seed=2**64), 0).field == "seed"
    new(sessions)


def test_seeds_are_drawn_where_none_is_given() -> None:
    sessions = Sessions(Maker(), ROOMY)
    seeds = {new(sessions, seed=None).created()["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**64 for seed in seeds)


class Breaking:
    """Worlds whose steps fail, as EnvError or otherwise, after they have changed something."""

    def __init__(self, worlds: VectorWorlds, failure: Exception) -> None:
        self._worlds = worlds
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worlds, name)

    def step(self, action: np.ndarray[Any, Any]) -> None:
        self._worlds.step(action)
        raise self._failure


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (EnvError("an episode cannot start"), "an episode cannot start"),
        (ZeroDivisionError(), "the environment failed: ZeroDivisionError:"),
        (SystemExit("a \x1b[31mreason\nto go"), "the environment failed: SystemExit: a [31mreason to go"),
    ],
)
def test_worlds_that_fail_on_the_way_break_their_session(failure: Exception, said: str) -> None:
    session = one()
    session.worlds = Breaking(session.worlds, failure)  # type: ignore[assignment]
    with pytest.raises(RequestError) as raised:
        step(session, 1, 0, 0)
    assert (raised.value.code, str(raised.value), raised.value.__cause__) == ("internal", said, failure)
    assert session.broken
    assert session.step_number == 0


REQUESTS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(-1, 2), st.sampled_from([(0, 0), (1, 2), (0, 3), (1,)])),
        st.tuples(st.just("reset"), st.integers(-1, 2), st.sampled_from([None, 3, 2**64])),
        st.tuples(st.just("restore"), st.integers(-1, 2), st.integers(0, 3)),
        st.tuples(st.just("look"), st.just(0), st.integers(-1, 2)),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(REQUESTS)
def test_any_sequence_of_requests_answers_as_a_plain_model_does(requests: list[tuple[str, int, Any]]) -> None:
    session = one()
    model = make_worlds("snake", BOARD, 2, 1)
    states = [model.state()]
    number, last = 0, (("", b""), None)
    for kind, offset, what in requests:
        if kind == "look":
            assert plain(session.state()) == {"step": number, "state": plain(model.state())}
            assert plain(session.info()["metrics"]) == plain(dict(model.metrics))
            continue
        asked = max(0, number + offset)
        key = (kind, repr(what).encode())
        call = {
            "step": lambda asked=asked, what=what, key=key: session.step(asked, np.array(what), key),
            "reset": lambda asked=asked, what=what, key=key: session.reset(asked, what, key),
            "restore": lambda asked=asked, what=what, key=key: session.restore(asked, states[what % len(states)], key),
        }[kind]
        if asked == number and last[0] == key:
            assert plain(call()) == last[1]
        elif asked != number + 1:
            assert refused("wrong_step", call).more["expected"] == number + 1
        elif what in ((0, 3), (1,), 2**64):
            refused("bad_value", call)
        else:
            answer = plain(call())
            if kind == "step":
                model.step(np.array(what))
            elif kind == "reset":
                model.reset(what)
            else:
                model.restore(states[what % len(states)])
            number = asked
            last = (key, answer)
            assert answer["step"] == number
            for name in ("observation", "active", "episode"):
                assert answer[name] == getattr(model, name).tolist()
            if kind == "step":
                assert answer["reward"] == model.reward.tolist()
            states.append(model.state())
    assert plain(session.state()["state"]) == plain(model.state())


def test_a_later_life_of_an_owner_takes_the_places_of_the_earlier_one() -> None:
    sessions = Sessions(Maker(), ROOMY)
    assert sessions.begin_life(SessionRequest(worlds=2, owner="main-0", life="a")) == []
    killed = [new(sessions, owner="main-0", life="a") for _ in range(2)]
    others = [new(sessions, owner="main-1", life="a"), new(sessions)]
    asked = SessionRequest(worlds=2, owner="main-0", life="b")
    assert sessions.begin_life(asked) == killed
    assert sessions.begin_life(asked) == []
    assert len(sessions) == len(others)
    refused("replaced", sessions.begin_life, SessionRequest(worlds=2, owner="main-0", life="a"))
    assert refused("bad_value", sessions.begin_life, SessionRequest(worlds=2, owner="main-0")).field == "life"
    assert refused("bad_value", sessions.begin_life, SessionRequest(worlds=2, life="a")).field == "owner"


@pytest.mark.parametrize("used_again", [False, True])
def test_a_session_whose_last_socket_broke_is_kept_for_ten_seconds_unless_it_is_used(used_again: bool) -> None:
    sessions = Sessions(Maker(), SessionLimits(sessions=4, worlds=64, memory_bytes=2**31, unused_seconds=300.0))
    session = new(sessions)
    sessions.socket_opened(session.id)
    sessions.socket_opened(session.id)
    sessions.socket_closed(session.id, 100.0, broken=True)
    assert not session.lost  # another one is open
    sessions.socket_closed(session.id, 100.0, broken=True)
    if used_again:
        sessions.get(session.id, 105.0)
    assert sessions.expire(109.0) == []
    assert sessions.expire(111.0) == ([] if used_again else [session])
