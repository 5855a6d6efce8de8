"""Recorded episodes are stored in whole files with exactly the columns of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import STEPS
from rattle.analytics.steps import StepsWriter, as_episode, encode_state
from tests.analytics.build import steps_columns, store_steps

ARROW_TYPES = {
    "String": "string",
    "UInt32": "uint32",
    "UInt64": "uint64",
    "Float32": "float",
    "Bool": "bool",
    "Array(Float32)": "list<element: float>",
    "Nullable(Int32)": "int32",
}


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_a_file_has_the_columns_and_types_of_the_table(run: RunDirectory) -> None:
    writer = StepsWriter(run.table("steps"), "w")
    first = steps_columns(run, 3, state=[encode_state({"food": [[1, 2]]}), "", ""])
    second = steps_columns(run, 2, world=1, observation=np.ones((2, 6), np.uint8))
    assert (store_steps(writer, first, second), store_steps(writer)) == (1, 1)
    path = run.table("steps") / "w-000000.parquet"
    assert {field.name: str(field.type) for field in pq.read_schema(path)} == {
        name: ARROW_TYPES[kind] for name, kind in STEPS.items()
    }
    rows = read(path)
    assert [row["tick"] for row in rows] == [0, 1, 2, 0, 1]
    assert [len(row["observation"]) for row in rows] == [4, 4, 4, 6, 6]
    assert rows[0]["state"] == '{"food":[[1,2]]}'
    assert [row["terminated"] for row in rows] == [False, False, True, False, True]


def test_a_flush_without_episodes_writes_nothing(run: RunDirectory) -> None:
    writer = StepsWriter(run.table("steps"), "w")
    assert store_steps(writer) == 0
    assert list(run.table("steps").iterdir()) == []


def test_added_arrays_may_be_reused_by_the_caller(run: RunDirectory) -> None:
    writer = StepsWriter(run.table("steps"), "w")
    reward = np.zeros(2, np.float32)
    writer.append(as_episode(steps_columns(run, 2, reward=reward)))
    reward[:] = 9
    store_steps(writer)
    assert [row["reward"] for row in read(run.table("steps") / "w-000000.parquet")] == [0, 0]


def test_a_resume_goes_back_to_what_the_checkpoint_knew(run: RunDirectory) -> None:
    folder = run.table("steps")
    for _ in range(3):
        store_steps(StepsWriter(folder, "w"), steps_columns(run, 2))
    (folder / "other-000007.parquet").touch()
    (folder / ".123.w-000003.parquet").touch()
    writer = StepsWriter(folder, "w")
    assert store_steps(writer) == 3
    writer.append(as_episode(steps_columns(run, 2)))
    writer.discard_after(1, run.path.name)
    assert store_steps(writer) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["other-000007.parquet", "w-000000.parquet"]
    assert store_steps(writer, steps_columns(run, 5)) == 2
    assert len(read(folder / "w-000001.parquet")) == 5
    writer.discard_after(1, run.path.name, keep=True)
    store_steps(writer, steps_columns(run, 3))
    writer.discard_after(1, run.path.name, keep=True)
    put_aside = {path.name: len(read(path)) for path in folder.glob("*.cut*")}
    assert put_aside == {"w-000001.parquet.cut": 5, "w-000001.parquet.cut.2": 3}


def test_files_of_other_runs_are_neither_deleted_nor_written_over(run: RunDirectory) -> None:
    folder = run.table("steps")
    writer = StepsWriter(folder, "w")
    store_steps(writer, steps_columns(run, 2, run_id="other"))
    writer.discard_after(0, run.path.name)
    (folder / "w-000000.parquet").write_bytes(b"no parquet")
    assert store_steps(writer, steps_columns(run, 3)) == 2
    writer.discard_after(0, run.path.name)
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["w-000000.parquet.cut", "w-000000.parquet.cut.2"]
    assert len(read(folder / kept[0])) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra"),
        ({"reward": np.zeros(3)}, r"column 'reward' of an episode of 2 ticks has the shape \(3,\)"),
        ({"observation": np.zeros(2)}, "column 'observation'"),
    ],
)
def test_columns_that_do_not_fit_are_named(run: RunDirectory, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_episode(steps_columns(run, 2, **change))


def test_a_full_disk_keeps_the_episodes_for_another_attempt(tiny_disk: Path) -> None:
    run = RunDirectory(tiny_disk)
    writer = StepsWriter(run.table("steps"), "w")
    noise = np.random.default_rng(0).normal(size=(200, 200))
    writer.append(as_episode(steps_columns(run, 200, observation=noise)))
    count, store = writer.begin_flush()
    (tiny_disk / "others").write_bytes(bytes(150_000))
    with pytest.raises(AnalyticsError, match=r"w-000000\.parquet: the disk is full"):
        store()
    assert list(run.table("steps").iterdir()) == []
    (tiny_disk / "others").unlink()
    store()
    assert (count, len(read(run.table("steps") / "w-000000.parquet"))) == (1, 200)
