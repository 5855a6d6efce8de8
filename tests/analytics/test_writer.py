"""Append-only tables and atomic files survive crashes and full disks."""

from __future__ import annotations

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.table_writer import TableWriter, last_row
from rattle.analytics.writer import replacing, write_atomically, write_together


def test_rows_reach_the_file_at_a_flush(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "table", "one")
    writer.write([{"a": 1}, {"a": 2}])
    path = tmp_path / "table" / "one.jsonl"
    assert path.read_bytes() == b""
    assert writer.flush() == path.stat().st_size == 16
    assert path.read_text() == '{"a":1}\n{"a":2}\n'
    writer.close()


def test_many_rows_reach_the_file_without_a_flush(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "one")
    writer.write([{"text": "x" * 100}] * 20_000)
    assert (tmp_path / "one.jsonl").stat().st_size > 2_000_000
    writer.close()


def test_truncate_goes_back_to_a_known_length(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "one")
    writer.write([{"a": 1}])
    known = writer.flush()
    writer.write([{"a": 2}])
    writer.flush()
    writer.write([{"a": 3}])
    writer.truncate(known)
    writer.write([{"a": 4}])
    writer.close()
    assert (tmp_path / "one.jsonl").read_text() == '{"a":1}\n{"a":4}\n'


def test_truncate_does_not_invent_rows_that_were_lost(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "one")
    with closing(writer), pytest.raises(AnalyticsError, match=r"one\.jsonl has lost rows"):
        writer.truncate(100)


def test_a_table_is_not_cut_within_a_row(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "one")
    writer.write([{"a": 1}, {"a": 2}])
    writer.flush()
    for length in (1, 7, 9, 15):
        with pytest.raises(AnalyticsError, match=r"one\.jsonl does not fit the checkpoint: no row ends after"):
            writer.truncate(length)
    writer.truncate(8)
    writer.truncate(0)
    writer.close()
    assert (tmp_path / "one.jsonl").read_bytes() == b""


def test_what_is_cut_can_be_kept_beside(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "one")
    for value in (2, 3):
        writer.write([{"a": 1}, {"a": value}])
        writer.flush()
        writer.truncate(8, keep=True)
        writer.truncate(0)
    writer.close()
    assert (tmp_path / "one.jsonl.cut").read_text() == '{"a":2}\n{"a":3}\n'


def test_the_last_row_is_found(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "one")
    assert last_row(tmp_path, "one") == b""
    writer.write([{"a": 1}, {"a": 2}])
    writer.flush()
    assert last_row(tmp_path, "one") == b'{"a":2}'
    writer.close()


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"a":1}\n{"a":')
    writer = TableWriter(tmp_path, "one")
    writer.write([{"a": 2}])
    assert writer.flush() == 16
    writer.close()
    assert (tmp_path / "one.jsonl").read_text() == '{"a":1}\n{"a":2}\n'


def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_replace_a_file_at_the_same_time_leave_what_one_of_them_wrote(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1000 for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        for _ in range(20):
            for done in [pool.submit(write_atomically, tmp_path / "file", content) for content in contents]:
                done.result()
            assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_block_that_fails_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"half" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_impossible_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnalyticsError, match=r"cannot write .*missing/file: there is no folder .*missing"):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_a_full_disk_leaves_the_old_content_and_takes_rows_again_when_there_is_space(tiny_disk: Path) -> None:
    path = tiny_disk / "file"
    write_atomically(path, b"old")
    with pytest.raises(AnalyticsError, match="the disk is full: free some space and run it again"):
        write_atomically(path, bytes(400_000))
    assert path.read_bytes() == b"old"

    writer = TableWriter(tiny_disk, "one")
    writer.write([{"a": 1}])
    writer.flush()
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    writer.write([{"text": "x" * 1000}] * 200)
    with pytest.raises(AnalyticsError, match=r"cannot write .*one\.jsonl: the disk is full"):
        writer.flush()
    assert (tiny_disk / "one.jsonl").read_text() == '{"a":1}\n'
    ballast.unlink()
    writer.close()
    assert len((tiny_disk / "one.jsonl").read_text().splitlines()) == 201


FILE_SIZE_LIMIT = """
import sys
from pathlib import Path
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.table_writer import TableWriter
from rattle.analytics.writer import write_atomically

folder = Path(sys.argv[1])
writer = TableWriter(folder, "one")
writer.write([{"a": 1}])
writer.flush()
writer.write([{"text": "x" * 1000}] * 100)
for attempt in (writer.flush, lambda: write_atomically(folder / "file", bytes(100_000))):
    try:
        attempt()
    except AnalyticsError as error:
        print(error)
"""


def test_a_file_that_may_not_grow_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    ended = subprocess.run(
        [sys.executable, "-c", FILE_SIZE_LIMIT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert ended.stdout.splitlines() == [
        f"cannot write {tmp_path}/one.jsonl: File too large",
        f"cannot write {tmp_path}/file: File too large",
    ]
    assert (tmp_path / "file").read_bytes() == b"old"
    assert (tmp_path / "one.jsonl").read_text() == '{"a":1}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "one.jsonl"]


def test_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "folder" / "other"
    one.write_bytes(b"old")
    with pytest.raises(AnalyticsError, match="other: there is no folder"):
        write_together({one: b"new", other: b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert one.read_bytes() == b"old"
    other.parent.mkdir()
    write_together({one: b"new", other: b"newer"})
    assert (one.read_bytes(), other.read_bytes()) == (b"new", b"newer")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "one", "other"]
