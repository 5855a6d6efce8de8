"""The histogram of round trips is the library's own, made in bulk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram

from rattle.services.sync.round_trip_times import ROUND_TRIPS, RoundTripTimes


@given(st.lists(st.lists(st.one_of(st.floats(0, 2), st.sampled_from(ROUND_TRIPS.buckets)), max_size=20), max_size=5))
def test_it_is_what_the_library_would_have_counted(batches: list[list[float]]) -> None:
    times = RoundTripTimes()
    expected = Histogram("rattle_sync_round_trip_seconds", "Round trips.", registry=None, buckets=ROUND_TRIPS.buckets)
    for batch in batches:
        times.add(batch)
        for seconds in batch:
            expected.observe(seconds)
    counted = {(s.name, s.labels.get("le")): s.value for s in times.family().samples}
    for sample in next(iter(expected.collect())).samples:
        if not sample.name.endswith("_created"):
            assert abs(counted.pop((sample.name, sample.labels.get("le"))) - sample.value) < 1e-9
    assert not counted
