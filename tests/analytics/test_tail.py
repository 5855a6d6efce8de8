"""A table that grows is read on from where it was read to."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.packing import unpack_as
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.tail import Rewound, TableTail
from rattle.analytics.updates import UpdateRow
from tests.analytics.build import update_row, write_rows

Rows = list[UpdateRow]


def make_tail(run: RunDirectory) -> TableTail[Rows]:
    return TableTail(
        run, "updates", msgspec.json.Decoder(UpdateRow).decode_lines, lambda path: unpack_as(path, UpdateRow)
    )


def versions(tail: TableTail[Rows]) -> list[float]:
    return [row.policy_version for rows in tail.blocks() for row in rows]


@pytest.fixture
def tail(run: RunDirectory) -> TableTail[Rows]:
    return make_tail(run)


def add(run: RunDirectory, first: int, last: int) -> Path:
    return write_rows(run, "updates", [update_row(run, version) for version in range(first, last + 1)])


def test_each_look_gives_the_rows_since_the_last(run: RunDirectory, tail: TableTail[Rows]) -> None:
    assert versions(tail) == []
    add(run, 1, 3)
    assert versions(tail) == [1, 2, 3]
    assert versions(tail) == []
    add(run, 4, 4)
    assert versions(tail) == [4]


def test_half_a_row_waits_until_it_is_whole(run: RunDirectory, tail: TableTail[Rows]) -> None:
    path = add(run, 1, 2)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert versions(tail) == [1]
    with path.open("ab") as file:
        file.write(content[-20:])
    assert versions(tail) == [2]


def test_a_row_larger_than_a_block_is_read(
    run: RunDirectory, tail: TableTail[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rattle.analytics.tail._BLOCK", 10)
    add(run, 1, 3)
    assert versions(tail) == [1, 2, 3]


def test_what_was_cut_back_and_played_again_is_noticed(run: RunDirectory, tail: TableTail[Rows]) -> None:
    path = add(run, 1, 5)
    assert versions(tail) == [1, 2, 3, 4, 5]
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as file:
        file.truncate(sum(map(len, lines[:2])))
    with pytest.raises(Rewound):
        versions(tail)
    for version in range(3, 9):  # the file is longer than it was
        write_rows(run, "updates", [update_row(run, version, seconds=1000 + version)])
    with pytest.raises(Rewound):
        versions(tail)
    assert versions(make_tail(run)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_file_that_was_replaced_or_has_gone_is_noticed(run: RunDirectory, tail: TableTail[Rows]) -> None:
    path = add(run, 1, 2)
    assert versions(tail) == [1, 2]
    path.unlink()
    with pytest.raises(Rewound):
        versions(tail)


def test_a_damaged_file_is_named(run: RunDirectory, tail: TableTail[Rows]) -> None:
    path = add(run, 1, 2)
    path.write_bytes(path.read_bytes() + b"{nonsense}\n")
    with pytest.raises(AnalyticsError, match=r"train\.jsonl is damaged"):
        versions(tail)
