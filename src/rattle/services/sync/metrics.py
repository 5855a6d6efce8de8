"""How a lockstep run stands, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from rattle.services.sync.seats import State

_NUMBERS = (
    ("rattle_sync_tick", "Tick in progress.", "tick"),
    ("rattle_sync_ticks_per_second", "Ticks a second lately.", "ticks_per_second"),
    ("rattle_sync_epoch", "Starts of the service within this run.", "epoch"),
)
#: Why datagrams were not taken or sent; what is counted in the status by these names.
_DROPPED = ("malformed", "unauthenticated", "late", "unsent", "lost_on_purpose")


def families(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the numbers in what GET /v1/status answers."""
    for name, text, key in _NUMBERS:
        yield GaugeMetricFamily(name, text, status[key])
    yield GaugeMetricFamily(
        "rattle_sync_disagreements", "Subjects that members disagree about.", len(status["disagreements"])
    )
    yield from _about_members(status["members"])
    datagrams = status["datagrams"]
    for way in ("received", "sent"):
        yield CounterMetricFamily(f"rattle_sync_datagrams_{way}", f"Datagrams that were {way}.", datagrams[way])
    dropped = CounterMetricFamily("rattle_sync_datagrams_dropped", "Datagrams dropped.", labels=["reason"])
    for reason in _DROPPED:
        dropped.add_metric([reason], datagrams[reason])
    yield dropped


def _about_members(members: list[dict[str, Any]]) -> Iterator[Metric]:
    states = GaugeMetricFamily("rattle_sync_members", "Members by how they are.", labels=["state"])
    standing = Counter(member["state"] for member in members)
    for state in get_args(State):
        states.add_metric([state], standing[state])
    trips = GaugeMetricFamily(
        "rattle_sync_member_round_trip_seconds", "From a tick to its answer, smoothed.", labels=["member"]
    )
    repeated = CounterMetricFamily(
        "rattle_sync_repetitions", "Datagrams to this member that were sent again.", labels=["member"]
    )
    for member in members:
        trips.add_metric([member["name"]], member["round_trip_ms"] / 1000)
        repeated.add_metric([member["name"]], member["repeated"])
    yield from (states, trips, repeated)
