"""Runs compared: what is equal is found equal however it was written down, and the first difference is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.launch.compare import (
    AgreedTick,
    Curves,
    Difference,
    MemberHistory,
    first_difference,
    first_different_update,
    read_history,
)
from rattle.launch.errors import LaunchError

SUBJECTS = ("env-0", "main-0", "main-1", "main-2")
Lines = Sequence[tuple[AgreedTick, Mapping[str, str]]]


def truth(ticks: int, changed: tuple[str, int] | None = None) -> list[tuple[AgreedTick, dict[str, str]]]:
    """Return what worlds and agents say of every tick; one subject may be another from some tick on."""

    def said(subject: str, tick: int) -> str:
        other = changed is not None and subject == changed[0] and tick >= changed[1]
        return hashlib.blake2b(f"{subject} {tick} {other}".encode(), digest_size=8).hexdigest()

    lines = []
    for tick in range(1, ticks + 1):
        lines.append((AgreedTick(tick, by_agents=False), {subject: said(subject, tick) for subject in SUBJECTS}))
        lines.append((AgreedTick(tick, by_agents=True), {subject: said(subject, tick) for subject in SUBJECTS[1:]}))
    return lines


def file_of(lines: Lines) -> bytes:
    rows = ({"tick": moment.tick, "phase": moment.phase, "hashes": hashes} for moment, hashes in lines)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def history_of(lines: Lines) -> MemberHistory:
    return read_history(file_of(lines), "history")


@st.composite
def written(draw: st.DrawFn, lines: Lines) -> Lines:
    """Return lines as a run may have written them: some twice, some not, agents' in part; the last tick whole."""
    kept = []
    for moment, hashes in lines[:-2]:
        times = draw(st.sampled_from([1, 1, 1, 0, 2]))
        few = {subject: said for subject, said in hashes.items() if not moment.by_agents or draw(st.booleans())}
        kept += [(moment, few)] * times
    return [*kept, *lines[-2:]]


@given(data=st.data(), ticks=st.integers(1, 12), runs=st.integers(2, 4))
def test_equal_runs_are_equal_whatever_was_written_down_of_them(data: st.DataObject, ticks: int, runs: int) -> None:
    histories = [history_of(data.draw(written(truth(ticks)))) for _ in range(runs)]
    assert first_difference(histories) is None
    assert len({history.digest() for history in histories}) == 1
    assert {history.ticks for history in histories} == {ticks}
    assert all(history.contradictions == [] for history in histories)


@given(data=st.data(), ticks=st.integers(1, 12), subject=st.sampled_from(SUBJECTS))
def test_the_first_difference_is_found_where_it_begins(data: st.DataObject, ticks: int, subject: str) -> None:
    began = data.draw(st.integers(1, ticks))
    which = data.draw(st.integers(0, 2))
    histories = [history_of(truth(ticks, (subject, began) if run == which else None)) for run in range(3)]
    found = first_difference(histories)
    assert found is not None
    assert found.moment == AgreedTick(began, by_agents=False)
    (hashes,) = found.subjects.values()
    assert list(found.subjects) == [subject]
    assert hashes.count(hashes[which]) == 1
    assert len(set(hashes)) == 2


@given(data=st.data(), ticks=st.integers(1, 12), subject=st.sampled_from(SUBJECTS))
def test_no_difference_is_lost_with_what_was_not_written_down(data: st.DataObject, ticks: int, subject: str) -> None:
    began = data.draw(st.integers(1, ticks))
    lines = [data.draw(written(truth(ticks, changed))) for changed in (None, (subject, began))]
    found = first_difference([history_of(run) for run in lines])
    assert found is not None
    assert list(found.subjects) == [subject]
    known = [{moment for moment, hashes in run if subject in hashes} for run in lines]
    assert found.moment == min(moment for moment in known[0] & known[1] if moment.tick >= began)
    assert len({history_of(run).digest() for run in lines}) == 2


@given(runs=st.permutations([None, ("main-0", 3), ("main-0", 3), ("main-2", 5)]))
def test_runs_that_are_equal_show_equal_hashes_in_any_order(runs: list[tuple[str, int] | None]) -> None:
    found = first_difference([history_of(truth(6, changed)) for changed in runs])
    assert found is not None
    assert found.moment.tick == 3
    groups: dict[str | None, set[tuple[str, int] | None]] = {}
    for changed, said in zip(runs, found.subjects["main-0"], strict=True):
        groups.setdefault(said, set()).add(changed)
    assert sorted(groups.values(), key=len) == [{("main-0", 3)}, {None, ("main-2", 5)}]


def test_a_snake_that_is_missing_in_a_world_is_a_difference_and_one_that_did_not_fit_is_none() -> None:
    world, agents = AgreedTick(1, by_agents=False), AgreedTick(1, by_agents=True)
    both, one = {"env-0": "aa", "main-0": "bb"}, {"env-0": "aa"}
    assert first_difference([history_of([(agents, both)]), history_of([(agents, one)])]) is None
    found = first_difference([history_of([(world, both)]), history_of([(world, one)])])
    assert found == Difference(world, {"main-0": ("bb", None)})


def test_a_run_that_says_two_things_about_one_moment_is_noticed() -> None:
    moment = AgreedTick(2, by_agents=True)
    history = history_of([(moment, {"main-0": "aa"}), (moment, {"main-0": "aa"}), (moment, {"main-0": "bb"})])
    assert history.contradictions == [(moment, "main-0", ("aa", "bb"))]


@given(cut=st.integers(0, len(file_of(truth(3)))))
def test_half_a_line_at_the_end_is_left_out(cut: int) -> None:
    content = file_of(truth(3))
    whole = content[:cut].count(b"\n")
    assert len(read_history(content[:cut], "history").moments) == whole


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"tick": -1, "phase": "act", "hashes": {}}', b'{"tick": 1, "phase": "x", "hashes": {}}']
)
def test_what_is_no_history_is_refused_in_a_line(line: bytes) -> None:
    with pytest.raises(LaunchError, match=r"^runs/1/history\.jsonl is no history: ") as bad:
        read_history(line + b"\n", "runs/1/history.jsonl")
    assert "\n" not in str(bad.value)


LEARNT = ("env_steps", "episodes", "mean_return", "policy_loss", "entropy", "approx_kl")


def curves(updates: int, changed: tuple[str, int] | None = None) -> Curves:
    """Return the table of a run's updates; one figure may be another in one of them."""
    table = {name: np.arange(1.0, updates + 1) for name in (*LEARNT, "policy_version", "seconds")}
    table["mean_return"] = table["mean_return"].copy()
    table["mean_return"][:2] = np.nan
    if changed is not None:
        table[changed[0]] = table[changed[0]].copy()
        table[changed[0]][changed[1] - 1] += 1e-9
    return table


@given(data=st.data(), updates=st.integers(3, 9))
def test_the_first_update_that_differs_is_named(data: st.DataObject, updates: int) -> None:
    version = data.draw(st.integers(3, updates))
    changed = data.draw(st.sampled_from(LEARNT)), version
    assert first_different_update([curves(updates), curves(updates)]) is None
    assert first_different_update([curves(updates), curves(updates, ("seconds", version))]) is None
    assert first_different_update([curves(updates), curves(updates), curves(updates, changed)]) == version
    assert first_different_update([curves(updates), curves(updates + 2)]) == updates + 1
    assert first_different_update([curves(0), curves(updates)]) == 1
    less = {name: curve for name, curve in curves(updates).items() if name != changed[0]}
    assert first_different_update([curves(updates), less]) == 1
