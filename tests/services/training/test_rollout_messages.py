"""What arrives is decoded as it was played, or refused by the name of the field that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.policies.file import dump_policy
from rattle.rollouts.worlds import build_worlds, policy_spec
from rattle.runs.run_recorder import as_policy
from rattle.samples.rollout import as_tensors, join
from rattle.services.training.rollout_messages import (
    MOST_TICKS,
    Contribution,
    RunRolloutSpec,
    part_of,
    read_contribution,
)
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import DTYPES, to_message
from rattle.trainer.build import build_learner
from rattle.wire.problems import RequestError
from tests.services.training.playing import Player, array
from tests.trainer.conftest import small_settings

DUEL = ("env.worlds=6", "env.num_snakes=2", "env.food=2", "record.every_episodes=1")
EPISODES = ("env={worlds: 12, num_snakes: 2, width: 7, height: 7}", "algorithm={id: reinforce, max_episode_ticks: 40}")
TURNS = ("env={id: 'pettingzoo:tests.envs.countdown', worlds: 3, players: 3}", "record.every_episodes=1")
POLE = ("env={id: 'gym:CartPole-v1', worlds: 4}",)


class Played:
    """An experiment, and rollouts of some of its worlds by its first policy."""

    def __init__(self, *overrides: str) -> None:
        self.settings = small_settings(*overrides)
        worlds = build_worlds(self.settings, 1, 0)
        spec = policy_spec(self.settings, worlds.spec)
        self.form = RunRolloutSpec.of(self.settings, worlds.spec, spec)
        learner = build_learner(self.settings, spec)
        file = dump_policy(as_policy(learner, worlds.spec))
        self.policy = training_pb2.Policy(file=file, lineage="here")
        self._one: training_pb2.Rollout | None = None
        learner.close()
        worlds.close()

    def rollout(self, first_world: int = 0, worlds: int | None = None) -> training_pb2.Rollout:
        return Player(self.settings, first_world, worlds).play(self.policy)

    def rollout_again(self) -> training_pb2.Rollout:
        """Return a copy of one rollout of all worlds."""
        if self._one is None:
            self._one = self.rollout()
        copy = training_pb2.Rollout()
        copy.CopyFrom(self._one)
        return copy

    def read(self, message: training_pb2.Rollout) -> Contribution:
        return read_contribution(message, self.form)


@pytest.fixture(scope="module")
def duel() -> Played:
    return Played(*DUEL)


@pytest.fixture(scope="module")
def episodes() -> Played:
    return Played(*EPISODES)


@pytest.fixture(scope="module")
def pole() -> Played:
    return Played(*POLE)


@pytest.fixture(scope="module")
def snakes() -> Played:
    return Played("inference.api=agent", "inference.snakes=3")


#: Makes something in a rollout wrong.
Spoil = Callable[[training_pb2.Rollout], None]


def change(name: str, index: tuple[int, ...], value: float) -> Spoil:
    """Return what sets one number of a tensor."""

    def work(message: training_pb2.Rollout) -> None:
        values = array(getattr(message, name))
        values[index] = value
        getattr(message, name).CopyFrom(to_message(values))

    return work


def put(name: str, tensor: Any) -> Spoil:
    """Return what replaces a tensor."""

    def work(message: training_pb2.Rollout) -> None:
        getattr(message, name).CopyFrom(to_message(tensor))

    return work


def say(**values: Any) -> Spoil:
    """Return what sets plain fields."""

    def work(message: training_pb2.Rollout) -> None:
        for name, value in values.items():
            setattr(message, name, value)

    return work


def clear(name: str) -> Spoil:
    return lambda message: message.ClearField(name)


def refused(played: Played, message: training_pb2.Rollout) -> RequestError:
    with pytest.raises(RequestError) as error:
        played.read(message)
    assert error.value.code == "bad_value"
    assert str(error.value).startswith(f"{error.value.field}: ")
    return error.value


@pytest.mark.parametrize("overrides", [DUEL, EPISODES, POLE, TURNS], ids=["duel", "episodes", "floats", "turns"])
def test_rollouts_arrive_as_they_were_played(overrides: tuple[str, ...]) -> None:
    played = Played(*overrides)
    player = Player(played.settings)
    message = training_pb2.Rollout.FromString(player.play(played.policy).SerializeToString())
    contribution = played.read(message)
    arrived = contribution.rollout
    expected = player._collector.buffer.first(arrived.ticks)
    assert arrived.arrays.keys() == expected.arrays.keys()
    assert arrived.metrics.keys() == expected.metrics.keys()
    assert arrived.state == expected.state
    assert any(arrived.state)
    for own, values in ((expected.arrays, arrived.arrays), (expected.metrics, arrived.metrics)):
        for name, found in values.items():
            assert found.dtype == own[name].dtype
            assert (found == own[name]).all(), name
    origin = contribution.origin
    assert (origin.actor, origin.life, origin.sequence, origin.first_world) == ("actor", "life", 1, 0)
    assert origin.worlds == played.settings.env.worlds


def all_dead(message: training_pb2.Rollout) -> None:
    """Have a rollout in which nobody ever acted."""
    for name in ("active", "terminated", "truncated"):
        put(name, np.zeros((16, 12), np.bool_))(message)
    for name in ("reward", "final_value"):
        put(name, np.zeros((16, 12), np.float32))(message)


def both(message: training_pb2.Rollout) -> None:
    """Have an episode that was terminated and truncated at once."""
    for name in ("active", "terminated", "truncated"):
        change(name, (5, 5), True)(message)


def rewarded_when_dead(message: training_pb2.Rollout) -> None:
    for name, value in (("active", 0), ("terminated", 0), ("truncated", 0), ("final_value", 0), ("reward", 1)):
        change(name, (5, 5), value)(message)


def ended_when_dead(message: training_pb2.Rollout) -> None:
    for name, value in (("active", 0), ("truncated", 0), ("final_value", 0), ("reward", 0), ("terminated", 1)):
        change(name, (5, 5), value)(message)


ARRAYS = ("observation", "action", "log_prob", "value", "reward", "terminated", "truncated", "active", "final_value")
FLOATS = ("log_prob", "value", "reward", "final_value")
WRONG: list[tuple[str, Spoil]] = [
    *((name, clear(name)) for name in (*ARRAYS, "last_value", "world_episode")),
    *((name, clear(name)) for name in ("actor", "life", "lineage", "sequence")),
    *((name, change(name, (2, 2), value)) for name in FLOATS for value in (np.nan, np.inf, -np.inf)),
    *((name, put(name, np.zeros((16, 11), np.float32))) for name in FLOATS),
    *((name, put(name, np.zeros((16, 12), np.uint8))) for name in ("terminated", "truncated", "active")),
    ("metrics.food", clear("metrics")),
    ("metrics.food", lambda message: message.metrics["food"].Clear()),
    ("metrics", lambda message: message.metrics["x" * 1000].Clear()),
    ("observation", put("observation", np.zeros((16, 12, 60), np.float32))),
    ("observation", put("observation", np.zeros((16, 12, 59), np.uint8))),
    ("observation", put("observation", np.zeros((15, 12, 60), np.uint8))),
    ("observation", put("observation", np.zeros((17, 12, 60), np.uint8))),
    ("observation", put("observation", np.zeros((16, 0, 60), np.uint8))),
    ("observation", put("observation", np.zeros((0, 12, 60), np.uint8))),
    ("observation", change("observation", (3, 4, 5), 5)),
    ("action", change("action", (15, 0), 3)),
    ("action", put("action", np.zeros((16, 12), np.int32))),
    ("action", put("action", np.zeros((12, 16), np.uint8))),
    ("final_value", change("final_value", (2, 2), 1.0)),
    ("last_value", change("last_value", (2,), np.inf)),
    ("last_value", put("last_value", np.zeros(11, np.float32))),
    ("world_episode", put("world_episode", np.zeros((16, 12), np.uint32))),
    ("truncated", both),
    ("reward", rewarded_when_dead),
    ("terminated", ended_when_dead),
    ("active", all_dead),
    ("first_world", say(first_world=1)),
    ("first_world", say(first_world=2**32 - 1)),
    ("sequence", say(sequence=2**64 - 1)),
    ("actor", say(actor="x" * 201)),
    ("state", lambda message: message.state.append("{}")),
    ("state", lambda message: message.state.__setitem__(0, "{")),
    ("state", lambda message: message.state.__setitem__(0, "3")),
    ("state", lambda message: message.state.__setitem__(0, "{\n}")),
]


@pytest.mark.parametrize(("field", "spoil"), WRONG, ids=[f"{i}-{name}" for i, (name, _) in enumerate(WRONG)])
def test_what_is_wrong_is_named(duel: Played, field: str, spoil: Spoil) -> None:
    message = duel.rollout_again()
    spoil(message)
    error = refused(duel, message)
    assert error.field == field
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("observation", change("observation", (0, 0, 0), np.nan)),
        ("observation", put("observation", np.zeros((16, 4, 4), np.uint8))),
    ],
)
def test_what_is_wrong_with_numbers_is_named(pole: Played, field: str, spoil: Spoil) -> None:
    message = pole.rollout()
    spoil(message)
    assert refused(pole, message).field == field


def test_slots_are_those_of_whole_worlds(duel: Played) -> None:
    message = duel.rollout()
    for name in ARRAYS:
        put(name, array(getattr(message, name))[:, :11])(message)
    put("last_value", array(message.last_value)[:11])(message)
    assert "2 slots for each world, got 11" in str(refused(duel, message))


class TestCompleteEpisodes:
    def test_they_may_be_shorter_than_the_longest_but_not_longer(self, episodes: Played) -> None:
        message = episodes.rollout()
        assert episodes.read(message).rollout.ticks == 40
        longer = episodes.rollout()
        for name in (*ARRAYS, "world_episode"):
            values = array(getattr(longer, name))
            put(name, np.concatenate([values, values[-1:] * 0]))(longer)
        assert "at most 40 ticks, got 41" in str(refused(episodes, longer))

    def test_slots_that_play_on_are_refused(self, episodes: Played) -> None:
        message = episodes.rollout()
        ended = array(message.terminated) | array(message.truncated)
        tick, slot = np.argwhere(ended[:-1])[0]
        change("active", (tick + 1, slot), True)(message)
        assert refused(episodes, message).field == "active"

    def test_episodes_that_go_on_after_the_last_tick_are_refused(self, episodes: Played) -> None:
        message = episodes.rollout()
        put("truncated", np.zeros_like(array(message.truncated)))(message)
        put("final_value", np.zeros_like(array(message.final_value)))(message)
        assert refused(episodes, message).field == "truncated"


class TestAgentApi:
    def test_a_rollout_is_one_episode_of_one_snake_of_any_length(self, snakes: Played) -> None:
        for ticks in (1, 7, MOST_TICKS):
            contribution = snakes.read(episode(2, ticks))
            assert (contribution.rollout.ticks, contribution.origin.first_world, contribution.origin.worlds) == (
                ticks,
                2,
                1,
            )

    def test_more_slots_more_snakes_and_more_ticks_are_refused(self, snakes: Played) -> None:
        assert refused(snakes, episode(3, 5)).field == "first_world"
        assert refused(snakes, episode(0, 5, slots=2)).field == "observation"
        assert refused(snakes, episode(0, MOST_TICKS + 1)).field == "observation"


def episode(first_world: int, ticks: int, slots: int = 1) -> training_pb2.Rollout:
    """Return an episode of some ticks at whose end the snake dies."""
    message = training_pb2.Rollout(actor="a", life="1", sequence=1, lineage="here", first_world=first_world)
    shape = (ticks, slots)
    ends = np.zeros(shape, np.bool_)
    ends[-1] = True
    put("observation", np.zeros((*shape, 60), np.uint8))(message)
    put("action", np.zeros(shape, np.uint8))(message)
    for name in FLOATS:
        put(name, np.zeros(shape, np.float32))(message)
    for name, values in (("terminated", ends), ("truncated", ends & False), ("active", ends | True)):
        put(name, values)(message)
    put("last_value", np.zeros(slots, np.float32))(message)
    put("world_episode", np.zeros(shape, np.uint32))(message)
    message.metrics["food"].CopyFrom(to_message(np.zeros(shape, np.int32)))
    return message


def test_parts_lie_side_by_side_as_if_one_had_played_them_all(duel: Played) -> None:
    whole = duel.read(duel.rollout())
    parts = [duel.read(duel.rollout(first, worlds)) for first, worlds in ((0, 1), (1, 3), (4, 2))]
    joined = join([part.rollout for part in parts])
    assert join([parts[0].rollout]) is parts[0].rollout
    assert joined.ticks == 16
    for name in (*ARRAYS, "last_value", "world_episode"):
        assert (getattr(joined, name) == getattr(whole.rollout, name)).all()
    assert (joined.metrics["food"] == whole.rollout.metrics["food"]).all()
    assert joined.state == whole.rollout.state
    as_tensors(joined).reward[:] = 1  # a tensor may be written to, and what arrived stays as it is
    assert (parts[0].rollout.reward != 1).any()


def test_shorter_parts_are_followed_by_ticks_in_which_nothing_happens(snakes: Played) -> None:
    joined = join([snakes.read(episode(0, 3)).rollout, snakes.read(episode(1, 5)).rollout])
    assert joined.ticks == 5
    assert joined.active.sum(axis=0).tolist() == [3, 5]
    assert joined.terminated.sum(axis=0).tolist() == [1, 1]
    assert joined.state == [""] * 5


def test_fields_are_named_as_parts_of_a_request() -> None:
    with pytest.raises(RequestError, match=r"^rollout\.reward: is missing$") as error, part_of("rollout"):
        raise RequestError("bad_value", "reward: is missing", "reward")
    assert error.value.field == "rollout.reward"
    with pytest.raises(RequestError, match=r"^no such thing$"), part_of("rollout"):
        raise RequestError("unknown_policy", "no such thing")


TENSORS = st.builds(
    training_pb2.Tensor,
    dtype=st.sampled_from([*DTYPES, 0, 9]),
    shape=st.lists(st.sampled_from([0, 1, 2, 6, 12, 16, 60, -1, 2**31]), max_size=4),
    data=st.binary(max_size=400),
)


@given(st.data())
@settings(max_examples=400)
def test_whatever_arrives_is_read_or_refused_by_field(duel: Played, data: st.DataObject) -> None:
    message = duel.rollout_again()
    for field in data.draw(st.lists(st.sampled_from(list(message.DESCRIPTOR.fields)), max_size=3)):
        _replace(message, field.name, data)
    try:
        read_contribution(message, duel.form)
    except RequestError as error:
        refusal = error
    else:
        return
    assert refusal.code == "bad_value"
    assert str(refusal).startswith(f"{refusal.field}: ")
    assert str(refusal.field).partition(".")[0] in message.DESCRIPTOR.fields_by_name


def _replace(message: training_pb2.Rollout, name: str, data: st.DataObject) -> None:
    """Spoil a field, or not."""
    value = getattr(message, name)
    if isinstance(value, training_pb2.Tensor):
        if data.draw(st.booleans()):
            value.CopyFrom(data.draw(TENSORS))
        else:  # sound but for some bytes
            spoilt = bytearray(value.data) or bytearray(1)
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
            value.data = bytes(spoilt)
    elif name == "metrics":
        message.metrics[data.draw(st.text(max_size=5))].CopyFrom(data.draw(TENSORS))
    elif name == "state":
        message.state.extend(data.draw(st.lists(st.text(max_size=5), max_size=17)))
    elif isinstance(value, bool):
        setattr(message, name, not value)
    elif isinstance(value, int):
        setattr(message, name, data.draw(st.integers(0, 2**32 - 1)))
    else:
        setattr(message, name, data.draw(st.text(max_size=300)))


@given(st.integers(0, 2**32), st.integers(0, 255), st.integers(0, 3))
@settings(max_examples=300)
def test_bytes_that_are_damaged_on_the_way_are_no_rollout_or_are_checked(
    duel: Played, place: int, value: int, cut: int
) -> None:
    sent = bytearray(duel.rollout_again().SerializeToString())
    sent[place % len(sent)] = value
    try:
        message = training_pb2.Rollout.FromString(bytes(sent[: len(sent) - cut]))
    except DecodeError:
        return
    try:
        contribution = read_contribution(message, duel.form)
    except RequestError as error:
        refusal = str(error.field)
    else:
        refusal = "actor"
        assert np.isfinite(contribution.rollout.reward).all()
    assert refusal.partition(".")[0] in message.DESCRIPTOR.fields_by_name
