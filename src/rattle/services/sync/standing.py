"""How a lockstep run stands, for people and programs that ask. Sans I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rattle.services.sync.gathering import PendingMembers
from rattle.services.sync.leader import Leader
from rattle.services.sync.seats import Membership


def describe(leader: Leader, arrivals: PendingMembers, datagrams: Mapping[str, int], now: float) -> dict[str, Any]:
    """Return what GET /v1/status answers for lockstep."""
    rounds = leader.rounds
    return {
        "mode": "lockstep",
        "state": _state(leader),
        "session": leader.session,
        "epoch": leader.epoch,
        "tick": rounds.tick,
        "phase": rounds.phase.name.lower(),
        "finished": leader.finished,
        "waiting_for": _waited_for(leader, arrivals),
        "members": [_member(seat, now) for seat in leader.seats.values()],
        "arrived": sorted(arrivals.lives),
        "wanted": arrivals.count,
        "datagrams": dict(datagrams),
        "disagreements": [found._asdict() for found in leader.agreement.found.values()],
    }


def _waited_for(leader: Leader, arrivals: PendingMembers) -> list[str]:
    if leader.has_begun or leader.finished:
        return sorted(seat.name for seat in leader.rounds.waiting)
    return [arrivals.missing()]


def _state(leader: Leader) -> str:
    if leader.finished:
        return "finished"
    if not leader.has_begun:
        return "gathering"
    return "standing still" if leader.rounds.stands_still else "ticking"


def _member(seat: Membership, now: float) -> dict[str, Any]:
    return {
        "name": seat.name,
        "role": seat.role.name.lower(),
        "state": seat.state,
        "address": "{}:{}".format(*seat.address),
        "life": seat.life,
        "done_tick": seat.done_tick,
        "idle": seat.idle,
        "round_trip_ms": round(seat.round_trips.mean * 1000, 3),
        "timeout_ms": round(seat.round_trips.wait() * 1000, 3),
        "repeated": seat.repeated,
        "heard_seconds_ago": round(now - seat.heard_at, 3),
        "subjects": seat.subjects,
    }
