"""Bodies of messages hold the rows that were appended, with what only stores have."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow.parquet

from rattle.analytics.schema import STEPS
from rattle.analytics.steps import as_episode
from rattle.telemetry.bodies import Entry, json_bodies, parquet_bodies


def lines_of(entries: list[Entry]) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of all bodies, and how many were left out."""
    unfit = 0

    def count() -> None:
        nonlocal unfit
        unfit += 1

    found = []
    for rows, body in json_bodies(entries, count):
        lines = body.splitlines()
        assert len(lines) == rows
        found += [json.loads(line) for line in lines]
    return found, unfit


def test_rows_of_an_update_say_which_life_and_update_they_are_of() -> None:
    rows = [{"metrics": {"a": 1.0}, "text": "}\n{}}\n"}, {"metrics": {}}]
    found, unfit = lines_of([Entry("episodes", "rows", rows, 7, 2), Entry("updates", "rows", [{"x": {"y": {}}}], 8, 3)])
    assert found == [
        {**rows[0], "life": 2, "made_by": 7},
        {**rows[1], "life": 2, "made_by": 7},
        {"x": {"y": {}}, "life": 3, "made_by": 8},
    ]
    assert unfit == 0


def test_other_rows_are_as_they_were_appended() -> None:
    assert lines_of([Entry("logs", "logs", [{"event": "}\n"}], 7, 2)]) == ([{"event": "}\n"}], 0)


def test_a_row_that_is_no_json_takes_no_other_with_it() -> None:
    bad: list[dict[str, Any]] = [{"n": object()}, {"n": "\udce4"}]
    rows = [{"n": number} for number in range(2500)]
    mixed = [*rows[:1200], *bad, *rows[1200:]]
    assert lines_of([Entry("logs", "logs", mixed, 0, 0)]) == (rows, 2)


def test_long_appends_become_several_bodies() -> None:
    rows = [{"text": "x" * 1000, "n": number} for number in range(3000)]
    bodies = list(json_bodies([Entry("logs", "logs", rows, 0, 0)], lambda: None))
    assert len(bodies) > 2
    assert lines_of([Entry("logs", "logs", rows, 0, 0)]) == (rows, 0)


def episode(ticks: int, size: int) -> dict[str, Any]:
    """Return an episode whose columns are all ones, empty texts and empty arrays."""
    columns = {
        name: np.zeros((ticks, 0)) if kind.startswith("Array") else [""] * ticks if kind == "String" else 1
        for name, kind in STEPS.items()
    }
    return as_episode({**columns, "tick": np.arange(ticks), "observation": np.ones((ticks, size))})


def test_recorded_episodes_become_parquet_of_bounded_size() -> None:
    entries = [Entry("steps", "rows", [episode(1000, 900)], made_by, 4) for made_by in range(6)]
    bodies = list(parquet_bodies(entries))
    assert [rows for rows, _body in bodies] == [3000, 3000]
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(io.BytesIO(body)) for _rows, body in bodies])
    assert table.num_rows == 6000
    assert table["made_by"].to_pylist() == [made_by for made_by in range(6) for _ in range(1000)]
    assert set(table["life"].to_pylist()) == {4}


def test_a_long_episode_is_spread_over_bodies() -> None:
    draws = np.random.default_rng(0).random((10_000, 1000), np.float32)  # 40 MB that hardly get smaller
    whole = {**episode(10_000, 1), "observation": draws}
    bodies = list(parquet_bodies([Entry("steps", "rows", [whole, episode(3, 4)], 1, 0)]))
    assert max(len(body) for _rows, body in bodies) < 1 << 24
    tables = [pyarrow.parquet.read_table(io.BytesIO(body)) for _rows, body in bodies]
    assert [tick for table in tables for tick in table["tick"].to_pylist()] == [*range(10_000), 0, 1, 2]
    assert tables[1]["observation"][0].as_py() == draws[tables[0].num_rows].tolist()
