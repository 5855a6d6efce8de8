"""Long tables: their closed parts, which become Parquet, seen and cut back as if all were one text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rattle.analytics import table_writer
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.packing import unpack_as, unpack_numbers
from rattle.analytics.query import query, rows
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.table_parts import PACKED, TEXT, table_files
from rattle.analytics.table_writer import TableWriter, check_cut, last_row, pack_parts
from rattle.analytics.tail import Rewound, TableTail
from rattle.analytics.updates import read_updates

ROUNDS = 12


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_writer, "PART_BYTES", 4000)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "config.yaml").touch()
    return RunDirectory(tmp_path)


def episode(number: int) -> dict[str, Any]:
    return {
        "time": f"2026-11-29T18:20:47.{number:06d}+00:00",
        "run_id": "run",
        "episode_id": number,
        "world": number % 7,
        "world_episode": 1,
        "agent": 0,
        "return": number / 2,
        "length": 7,
        "terminated": number % 2 == 0,
        "env_steps": 10 * number,
        "policy_version": number // 100,
        "metrics": {"food": number} if number % 3 else {},
    }


def update(number: int) -> dict[str, Any]:
    own = {"policy_version": number, "env_steps": 10 * number, "seconds": number / 4, "env_steps_per_second": 9.5}
    more = {"episodes": number, "mean_return": None if number < 3 else number / 3, "mean_episode_length": None}
    return {"time": "2026-11-29T18:20:47+00:00", "run_id": "run", **own, **more, "metrics": {"kl": number / 8}}


def write(writer: TableWriter, start: int, row: Any = episode) -> int:
    """Write 20 rows, close the part if it is long enough, and return the mark."""
    writer.write(row(number) for number in range(start, start + 20))
    length = writer.flush()
    writer.close_part()
    return length


def names(run: RunDirectory, table: str = "episodes") -> list[str]:
    return sorted(path.name for path in run.table(table).iterdir())


def numbers(run: RunDirectory) -> list[int]:
    return [int(row["episode_id"]) for row in rows("SELECT episode_id FROM episodes ORDER BY episode_id", [run])]


@pytest.fixture
def marks(run: RunDirectory) -> Iterator[list[int]]:
    """Write all rounds, and pack what lies before the eighth mark."""
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        yield [write(writer, 20 * number) for number in range(ROUNDS)]


def pack(run: RunDirectory, length: int, table: str = "episodes") -> None:
    pack_parts(run.table(table), "train", table, length)


def test_packed_parts_answer_queries_as_text_does(run: RunDirectory, marks: list[int]) -> None:
    statement = "SELECT * FROM episodes ORDER BY episode_id"
    before = query(statement, [run], "json")
    pack(run, marks[7])
    suffixes = [path.suffix for path in table_files(run.table("episodes"))]
    assert suffixes.count(PACKED) == 8
    assert suffixes.count(TEXT) == ROUNDS - 8 + 1
    assert query(statement, [run], "json") == before
    assert len(before.splitlines()) == 20 * ROUNDS


def test_text_stays_for_its_readers_until_the_next_packing(run: RunDirectory, marks: list[int]) -> None:
    pack(run, marks[3])
    twice = [name for name in names(run) if name.endswith(TEXT) and f"{Path(name).stem}{PACKED}" in names(run)]
    assert len(twice) == 4
    assert numbers(run) == list(range(20 * ROUNDS))
    pack(run, marks[3])
    assert not set(twice) & set(names(run))
    assert numbers(run) == list(range(20 * ROUNDS))


@pytest.mark.parametrize("kept", [11, 9, 8, 7])
def test_a_table_is_cut_back_to_any_mark_after_what_is_packed(run: RunDirectory, marks: list[int], kept: int) -> None:
    pack(run, marks[7])
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        writer.truncate(marks[kept])
        assert numbers(run) == list(range(20 * (kept + 1)))
        assert json.loads(last_row(run.table("episodes"), "train"))["episode_id"] == 20 * (kept + 1) - 1
        assert write(writer, 20 * (kept + 1)) > marks[kept]
    assert numbers(run) == list(range(20 * (kept + 2)))


def test_a_mark_within_a_closed_part_opens_it_again(run: RunDirectory) -> None:
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        writer.write([episode(0)])
        mark = writer.flush()
        write(writer, 1)
        write(writer, 21)
        assert len(names(run)) == 3
        writer.truncate(mark)
        assert names(run) == ["train.jsonl"]
        assert numbers(run) == [0]


def test_a_mark_within_a_packed_part_is_refused_before_anything_is_touched(run: RunDirectory, marks: list[int]) -> None:
    pack(run, marks[7])
    before = names(run)
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        with pytest.raises(AnalyticsError, match="is older than those that were kept"):
            writer.truncate(marks[2] + 1)
        assert names(run) == before
        writer.truncate(0)
    assert names(run) == ["train.jsonl"]


def test_a_part_that_is_gone_is_told(run: RunDirectory, marks: list[int]) -> None:
    table_files(run.table("episodes"))[2].unlink()
    with pytest.raises(AnalyticsError, match=rf"lost rows: its parts end at byte {marks[1]}, where the next begins at"):
        check_cut(run.table("episodes"), "train", marks[11])


def test_what_is_cut_may_be_kept(run: RunDirectory, marks: list[int]) -> None:
    pack(run, marks[7])
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        writer.truncate(marks[6], keep=True)
    cut = (run.table("episodes") / "train.jsonl.cut").read_text().splitlines()
    assert [json.loads(line)["episode_id"] for line in cut] == list(range(160, 20 * ROUNDS))
    assert [name for name in names(run) if name.endswith(".parquet.cut")] == [
        f"train-{marks[6]:015d}-{marks[7]:015d}.parquet.cut"
    ]
    assert numbers(run) == list(range(140))


def test_updates_are_read_from_all_files(run: RunDirectory) -> None:
    with closing(TableWriter(run.table("updates"), "train")) as writer:
        length = [write(writer, 20 * number, update) for number in range(4)][2]
        before = read_updates(run)
        pack(run, length, "updates")
        after = read_updates(run)
    assert any(name.endswith(PACKED) for name in names(run, "updates"))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": "long"},
        {"metrics": {"food": [1]}},
        {"metrics": {"food": {"x": 1}}},
        {"metrics": {"food": "x"}},
        {"metrics": [1]},
        {"time": "the twenty-ninth of November 2026"},
    ],
)
def test_rows_that_are_none_of_their_table_stay_text(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        write(writer, 0, lambda number: {**episode(number), **wrong})
        pack(run, writer.flush())
        pack(run, writer.flush())
    assert "stays text" in caplog.text
    assert len(caplog.records) == 1
    assert not any(name.endswith(PACKED) for name in names(run))


def test_a_reader_misses_no_row_while_parts_are_closed_and_packed(run: RunDirectory) -> None:
    with closing(TableWriter(run.table("episodes"), "train")) as writer, run.locked():
        for number in range(6):
            length = write(writer, 20 * number)
            pack(run, length)
            assert numbers(run) == list(range(20 * (number + 1)))


class _Row(msgspec.Struct):
    episode_id: int
    metrics: dict[str, float]


def _follow(run: RunDirectory) -> TableTail[list[_Row]]:
    decoder = msgspec.json.Decoder(_Row)
    return TableTail(run, "episodes", decoder.decode_lines, lambda path: unpack_as(path, _Row))


def _look(tail: TableTail[list[_Row]]) -> list[int]:
    return [row.episode_id for block in tail.blocks() for row in block]


def test_what_follows_a_table_goes_on_when_parts_are_closed_and_packed(run: RunDirectory) -> None:
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        tail = _follow(run)
        writer.write([episode(0)])
        writer.flush()
        assert _look(tail) == [0]
        write(writer, 1)  # which closes the part
        assert _look(tail) == list(range(1, 21))
        pack(run, write(writer, 21))
        assert table_files(run.table("episodes"))[0].suffix == PACKED
        assert _look(tail) == list(range(21, 41))
        assert _look(tail) == []
        assert _look(_follow(run)) == list(range(41))


def test_what_follows_a_table_begins_anew_where_it_cannot_know_what_was_packed(run: RunDirectory) -> None:
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        tail = _follow(run)
        writer.write([episode(0)])
        writer.flush()
        assert _look(tail) == [0]
        pack(run, write(writer, 1))  # closed and packed between two looks
        with pytest.raises(Rewound):
            _look(tail)
        assert _look(_follow(run)) == list(range(21))


def test_numbers_of_packed_rows_are_those_of_their_text(run: RunDirectory) -> None:
    with closing(TableWriter(run.table("episodes"), "train")) as writer:
        pack(run, write(writer, 0))
    (path,) = table_files(run.table("episodes"), [PACKED])
    found = unpack_numbers(path, ("return", "terminated", "env_steps", "metrics"))
    assert found["return"].tolist() == [number / 2 for number in range(20)]
    assert found["terminated"].tolist() == [float(number % 2 == 0) for number in range(20)]
    np.testing.assert_equal(found["food"], [number if number % 3 else np.nan for number in range(20)])
    path.write_bytes(b"PAR1")
    with pytest.raises(AnalyticsError, match="is damaged"):
        unpack_numbers(path, ("return",))
