"""How a lockstep run stands, for people and programs that ask. Sans I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rattle.services.sync.seats import Seat

if TYPE_CHECKING:
    from rattle.services.sync.coordinator import Coordinator


def describe(coordinator: Coordinator, now: float) -> dict[str, Any]:
    """Return what GET /v1/status answers for lockstep."""
    rounds, arrivals = coordinator.rounds, coordinator.arrivals
    return {
        "mode": "lockstep",
        "state": _state(coordinator),
        "session": coordinator.session,
        "epoch": coordinator.epoch,
        "tick": rounds.tick,
        "phase": rounds.phase.name.lower(),
        "finished": coordinator.finished,
        "waiting_for": _waited_for(coordinator),
        "members": [_member(seat, now) for seat in coordinator.seats.values()],
        "arrived": sorted(arrivals.lives),
        "wanted": arrivals.count,
        "datagrams": {**coordinator.counts, **coordinator.codec.dropped},
        "disagreements": [found._asdict() for found in coordinator.agreement.found.values()],
    }


def _waited_for(coordinator: Coordinator) -> list[str]:
    if coordinator.has_begun or coordinator.finished:
        return sorted(seat.name for seat in coordinator.rounds.waiting)
    return [coordinator.arrivals.missing()]


def _state(coordinator: Coordinator) -> str:
    if coordinator.finished:
        return "finished"
    if not coordinator.has_begun:
        return "gathering"
    return "standing still" if coordinator.rounds.stands_still else "ticking"


def _member(seat: Seat, now: float) -> dict[str, Any]:
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
