"""Whose stream it is, and who is refused: without a service."""

from __future__ import annotations

import asyncio

import pytest

from rattle.services.training.actors import MOST_UNLEARNT, Actors, ActorStream, Life, LifeName
from rattle.wire.problems import RequestError

ONE, OTHER = ("one", "a"), ("other", "b")


@pytest.mark.parametrize(
    ("new", "old", "replaces"),
    [
        (("b", 2), ("a", 1), True),
        (("b", 1), ("a", 2), False),
        (("b", 1), ("a", 1), False),
        (("b", 0), ("a", 1), False),
        (("b", 1), ("a", 0), True),
        (("b", 0), ("a", 0), True),
        (("a", 1), ("a", 1), True),
        (("a", 0), ("a", 1), True),
    ],
)
def test_a_later_life_takes_a_stream_and_no_other(new: tuple[str, int], old: tuple[str, int], replaces: bool) -> None:
    assert Life("one", *new).may_replace(Life("one", *old)) is replaces


def test_a_stream_that_has_ended_keeps_nobody_out() -> None:
    async def play() -> None:
        actors, ended = Actors(), ActorStream("there")
        async with ended.ending():
            assert actors.open(ended, Life("one", "late", 9, "there")) is None
            assert actors.open(ended, Life("one", "late", 9, "there")) is None
            early = ActorStream()
            with pytest.raises(RequestError, match="a later life of actor 'one' plays already, from there"):
                actors.open(early, Life("one", "early", 8))
            with pytest.raises(RequestError, match="a stream is of one actor and policy"):
                actors.open(ended, Life("other", "late"))
            with pytest.raises(RequestError, match="a stream is of one actor and policy"):
                Actors().open(ended, Life("one", "late", 9))
        assert actors.open(early, Life("one", "early", 8)) is None

    asyncio.run(play())


def test_actors_who_play_the_same_worlds_are_found() -> None:
    async def play() -> None:
        actors = Actors()
        for name, worlds in (("one", range(4)), ("two", range(4, 8))):
            actors.open(ActorStream(), Life(name, "a", worlds=worlds))
        found = [
            actors.others_in(Life("new", "a", worlds=range(*worlds))) for worlds in ((0, 4), (3, 5), (7, 9), (8, 9))
        ]
        assert found == [["one"], ["one", "two"], ["two"], []]
        assert actors.others_in(Life("one", "b", worlds=range(4))) == []

    asyncio.run(play())


class TestFaults:
    @staticmethod
    def fail(actors: Actors, *lives: LifeName) -> list[LifeName]:
        """Return those of whom it is one too many, after as many updates as one may fail."""
        for _ in range(MOST_UNLEARNT - 1):
            assert actors.blame(lives) == []
        return actors.blame(lives)

    def test_an_actor_is_refused_for_updates_in_a_row_and_its_next_life_for_one_more(self) -> None:
        actors = Actors()
        assert self.fail(actors, ONE) == [ONE]
        actors.refuse(ONE, "why")
        assert (actors.refusal(ONE), actors.refusal(("one", "again")), actors.refusal(OTHER)) == ("why", "", "")
        assert actors.blame([OTHER]) == []
        assert actors.blame([("one", "again")]) == [("one", "again")]

    def test_an_update_that_is_made_forgives(self) -> None:
        actors = Actors()
        actors.blame([ONE, OTHER])
        actors.praise(["one"])
        assert actors.blame([ONE, OTHER]) == []
        assert actors.blame([ONE, OTHER]) == [OTHER]

    def test_those_are_there_whose_stream_is_open_or_was_a_moment_ago(self) -> None:
        async def play() -> None:
            now = [0.0]
            actors = Actors(lambda: now[0])
            for life in (ONE, OTHER):
                stream = ActorStream()
                async with stream.ending():
                    actors.open(stream, Life(*life))
                    assert actors.are_there_besides([ONE]) == (life == OTHER)
            assert actors.are_there_besides([ONE])
            assert not actors.are_there_besides([ONE, OTHER])
            assert not actors.are_there_besides([("one", "again"), OTHER])
            actors.refuse(OTHER, "why")
            assert not actors.are_there_besides([ONE])
            assert actors.are_there_besides([OTHER])
            now[0] = 61.0
            assert not actors.are_there_besides([OTHER])

        asyncio.run(play())

    def test_what_is_remembered_of_strangers_is_bounded(self) -> None:
        actors = Actors()
        for number in range(3000):
            actors.blame([(f"{number}", "a")])
            actors.refuse((f"{number}", "a"), "why")
        assert len(actors._refused) == len(actors._unlearnt) == 1024
        assert actors.refusal(("2999", "a")) == "why"
