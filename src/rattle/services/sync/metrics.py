"""How a lockstep run stands, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from prometheus_client import Metric

from rattle.services.sync.seats import State
from rattle.services.utils.measures import CounterMeasure, GaugeMeasure

TICK = GaugeMeasure("rattle_sync_tick", "ticks", "Tick in progress; in mode pace, sequence of the newest datagram.")
TICKS_PER_SECOND = GaugeMeasure("rattle_sync_ticks_per_second", "ticks a second", "Ticks a second lately.")
EPOCH = GaugeMeasure("rattle_sync_epoch", "starts", "Starts of the service within this run.")
DISAGREEMENTS = GaugeMeasure("rattle_sync_disagreements", "subjects", "Subjects that members disagree about.")
RECEIVED = CounterMeasure("rattle_sync_datagrams_received", "datagrams", "Datagrams that were received.")
SENT = CounterMeasure("rattle_sync_datagrams_sent", "datagrams", "Datagrams that were sent.")
DROPPED = CounterMeasure("rattle_sync_datagrams_dropped", "datagrams", "Datagrams dropped.", ("reason",))
MEMBERS = GaugeMeasure("rattle_sync_members", "members", "Members by how they are.", ("state",))
ROUND_TRIP = GaugeMeasure(
    "rattle_sync_member_round_trip_seconds", "seconds", "From a tick to its answer, smoothed.", ("member",)
)
REPETITIONS = CounterMeasure(
    "rattle_sync_repetitions", "datagrams", "Datagrams to this member that were sent again.", ("member",)
)

_NUMBERS = ((TICK, "tick"), (TICKS_PER_SECOND, "ticks_per_second"), (EPOCH, "epoch"))
#: Why datagrams were not taken or sent; what is counted in the status by these names.
_DROPPED = ("malformed", "unauthenticated", "late", "replayed", "unsent", "lost_on_purpose")


def families(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the numbers in what GET /v1/status answers."""
    for measure, key in _NUMBERS:
        yield measure.family(status[key])
    yield DISAGREEMENTS.family(len(status["disagreements"]))
    yield from _about_members(status["members"])
    datagrams = status["datagrams"]
    yield RECEIVED.family(datagrams["received"])
    yield SENT.family(datagrams["sent"])
    dropped = DROPPED.family()
    for reason in _DROPPED:
        dropped.add_metric([reason], datagrams[reason])
    yield dropped


def _about_members(members: list[dict[str, Any]]) -> Iterator[Metric]:
    states, trips, repeated = MEMBERS.family(), ROUND_TRIP.family(), REPETITIONS.family()
    standing = Counter(member["state"] for member in members)
    for state in get_args(State):
        states.add_metric([state], standing[state])
    for member in members:
        trips.add_metric([member["name"]], member["round_trip_ms"] / 1000)
        repeated.add_metric([member["name"]], member["repeated"])
    yield from (states, trips, repeated)
