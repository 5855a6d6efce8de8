"""A member's life, datagram by datagram: what is rare in clusters."""

from __future__ import annotations

import pytest

from rattle.clients.lockstep import Member, MemberAnswer
from rattle.wire.lockstep import DROPPED, RUN_OVER, Bye, Codec, Datagram, Join, Phase, Role, Tick, Unknown, Welcome

LIFE, SESSION = 7, 77
CODEC = Codec()


def seated() -> Member:
    """Return an agent in its first seat."""
    member = Member("scout", Role.AGENT, LIFE, Codec())
    member.begin(0.0)
    hear(member, Welcome(LIFE, SESSION, 2, 3, 1, 500))
    return member


def hear(member: Member, datagram: Datagram) -> list[Datagram | None]:
    """Have a member hear something; returns what it says."""
    return [CODEC.decode(said) for said in member.receive(CODEC.encode(datagram), 0.0)]


def tick(member: Member, number: int) -> Tick:
    return Tick(*member.place, number, Phase.ACT, 1, 0, ())


def do(member: Member, number: int) -> None:
    hear(member, tick(member, number))
    assert member.take_work() is not None
    member.finish(MemberAnswer({}), 0.0)


def join_again(member: Member) -> Join:
    """Have the service forget a member, and return how that joins."""
    (said,) = hear(member, Unknown(*member.place))
    assert isinstance(said, Join)
    return said


def test_who_has_no_seat_takes_any_in_an_epoch_whose_number_was_used_before() -> None:
    member = seated()
    hear(member, Welcome(LIFE, SESSION, 2, 2, 1, 500))
    assert member.place == (SESSION, 2, 3)
    join_again(member)
    hear(member, Welcome(LIFE, SESSION, 2, 2, 1, 500))
    assert (member.state, member.place) == ("seated", (SESSION, 2, 2))


@pytest.mark.parametrize("reason", [RUN_OVER, DROPPED])
def test_what_was_to_be_done_next_is_not_done_after_a_goodbye(reason: str) -> None:
    member = seated()
    hear(member, tick(member, 4))
    work = member.take_work()
    assert work is not None
    hear(member, tick(member, 6))
    hear(member, Bye(*member.place, reason))
    member.finish(MemberAnswer({}), 0.0)
    assert member.take_work() is None


def test_it_knows_whether_it_has_done_every_tick() -> None:
    member = seated()
    assert not join_again(member).whole
    hear(member, Welcome(LIFE, SESSION, 2, 3, 1, 500))
    for number in (1, 2, 3):
        do(member, number)
        assert join_again(member).whole
        hear(member, Welcome(LIFE, SESSION, 2, 3, 1, 500))
    do(member, 5)
    do(member, 6)
    assert not join_again(member).whole
    hear(member, Welcome(LIFE, SESSION + 1, 1, 1, 1, 500))
    do(member, 1)
    assert join_again(member).whole


def test_who_came_late_has_not_done_every_tick() -> None:
    member = seated()
    for number in (8, 9):
        do(member, number)
        assert not join_again(member).whole
        hear(member, Welcome(LIFE, SESSION, 2, 3, 1, 500))
