"""The outbox: order, bounds, and what a dead process leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rattle.telemetry import outbox as outboxes
from rattle.telemetry.messages import Importance, Message
from rattle.telemetry.outbox import Outbox

BOUND = 2**20


def put(outbox: Outbox, body: bytes, importance: Importance = "rows", rows: int = 1) -> None:
    outbox.put(
        importance, table="logs", run_id="run", routing_key="x.logs", rows=rows, content_type="text/plain", body=body
    )


def taken(outbox: Outbox) -> list[Message]:
    return list(iter(outbox.take, None))


def bodies(messages: list[Message]) -> list[bytes]:
    return [message.body for message in messages]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.messages"))


def test_messages_come_out_in_order_whatever_their_importance(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        importances: tuple[Importance, ...] = ("rows", "debug", "logs", "debug", "rows")
        for number, importance in enumerate(importances):
            put(outbox, b"%d" % number, importance)
        messages = taken(outbox)
        assert bodies(messages) == [b"0", b"1", b"2", b"3", b"4"]
        assert len({message.message_id for message in messages}) == 5
        assert outbox.take() is None
        outbox.confirm([message.number for message in messages])
        assert outbox.waiting == 0
    assert files(tmp_path) == []


def test_what_was_not_confirmed_is_handed_out_again_with_the_same_id(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        for number in range(4):
            put(outbox, b"%d" % number)
        first = taken(outbox)
        outbox.confirm([first[0].number, first[2].number])
        outbox.rewind()
        assert taken(outbox) == [first[1], first[3]]


def test_the_next_process_takes_over_and_numbers_on(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        put(outbox, b"a" * 100_000)
        put(outbox, b"b")
        before = taken(outbox)
        outbox.confirm([before[0].number])
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        put(outbox, b"c")
        after = taken(outbox)
        assert after[-2:] == [before[1], after[-1]]
        assert after[-1].number > before[1].number
        assert after[-1].message_id not in {message.message_id for message in before}


def test_files_go_as_soon_as_all_in_them_has_arrived(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        for _ in range(10):
            put(outbox, bytes(40_000))
        many = len(files(tmp_path))
        outbox.confirm([message.number for message in taken(outbox)])
        assert many > 3
        assert len(files(tmp_path)) <= 1


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / "one", BOUND)) as first, closing(Outbox(tmp_path / "one", BOUND)) as second:
        put(first, b"first")
        put(second, b"second")
        assert second.folder == tmp_path / "one.2"
        assert bodies(taken(second)) == [b"second"]


def test_what_was_left_in_a_second_folder_is_taken_over_too(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / "one", BOUND)), closing(Outbox(tmp_path / "one", BOUND)) as second:
        put(second, b"second")
    with closing(Outbox(tmp_path / "one", BOUND)) as outbox:
        assert bodies(taken(outbox)) == [b"second"]
        with closing(Outbox(tmp_path / "one", BOUND)) as another:
            assert another.folder == tmp_path / "one"


def test_the_oldest_debug_messages_are_dropped_first_then_other_logs_and_never_rows(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        for number in range(8):
            put(outbox, b"debug %d" % number + bytes(65_536), "debug", rows=10)
            put(outbox, b"logs %d" % number + bytes(65_536), "logs", rows=10)
        assert outbox.dropped["debug"] > 0
        assert outbox.dropped["logs"] == 0
        for number in range(8):
            put(outbox, b"rows %d" % number + bytes(65_536), rows=10)
        assert outbox.dropped["debug"] == 80
        assert outbox.dropped["logs"] > 0
        assert not outbox.is_over
        for number in range(8, 20):
            put(outbox, b"rows %d" % number + bytes(65_536), rows=10)
        assert (outbox.dropped["logs"], outbox.dropped["rows"]) == (80, 0)
        assert outbox.is_over
        assert [body.partition(b"\0")[0] for body in bodies(taken(outbox))] == [b"rows %d" % n for n in range(20)]


KILLED = """
import os, signal, sys
from pathlib import Path
from rattle.telemetry.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]), 2**20)
for number in range(50):
    outbox.put("rows", table="t", run_id="r", routing_key="k", rows=1, content_type="c", body=b"%d" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_all_that_it_had_put(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60, check=False)
    with files(tmp_path)[-1].open("ab") as file:
        file.write(b"rtl1half a record")
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        assert bodies(taken(outbox)) == [b"%d" % number for number in range(50)]
        assert outbox.damaged_bytes == 17


def test_what_the_disk_has_damaged_is_counted_and_the_rest_goes_out(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        put(outbox, b"good")
        put(outbox, b"bad", rows=7)
        path = files(tmp_path)[0]
        path.write_bytes(path.read_bytes().replace(b"bad", b"BAD"))
        put(outbox, b"a log", "logs")
        assert bodies(taken(outbox)) == [b"good", b"a log"]
        assert outbox.dropped["rows"] == 7


def test_where_the_disk_is_full_messages_stay_in_memory_and_in_order(tiny_disk: Path) -> None:
    with closing(Outbox(tiny_disk / "outbox", 2**30)) as outbox:
        for number in range(20):
            put(outbox, b"%d " % number + bytes(30_000))
        assert outbox.disk_problem == "No space left on device"
        assert not outbox.sync()
        messages = taken(outbox)
        assert [message.body.partition(b" ")[0] for message in messages] == [b"%d" % number for number in range(20)]
        outbox.confirm([message.number for message in messages[:15]])
        assert outbox.sync()
        assert outbox.disk_problem is None
    with closing(Outbox(tiny_disk / "outbox", 2**30)) as outbox:
        assert taken(outbox)[-5:] == messages[15:]


def test_a_disk_that_is_full_from_the_first_message_on_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Outbox(tmp_path, BOUND)) as outbox:
        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", refuse)
            put(outbox, b"first")
            put(outbox, b"second")
        assert outbox.sync()
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        assert bodies(taken(outbox)) == [b"first", b"second"]


def test_what_cannot_be_read_now_is_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with closing(Outbox(tmp_path, BOUND)) as outbox:
        put(outbox, b"first")
        put(outbox, b"second")
        with monkeypatch.context() as busy:
            busy.setattr(os, "pread", refuse)
            assert taken(outbox) == []
            assert outbox.disk_problem == "Too many open files"
        assert bodies(taken(outbox)) == [b"first", b"second"]
        assert outbox.dropped["rows"] == 0
    with monkeypatch.context() as busy:
        busy.setattr(os, "pread", refuse)
        with closing(Outbox(tmp_path, BOUND)) as outbox:
            put(outbox, b"third")
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        assert bodies(taken(outbox)) == [b"first", b"second", b"third"]


def test_a_folder_that_cannot_be_made_is_told_and_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with closing(Outbox(tmp_path / "file" / "outbox", BOUND)) as outbox:
        put(outbox, b"kept")
        assert outbox.disk_problem == "Not a directory"
        assert bodies(taken(outbox)) == [b"kept"]


def test_waiting_ends_when_nothing_arrives(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, BOUND)) as outbox:
        assert outbox.wait_until_empty(0.01)
        put(outbox, b"never confirmed")
        assert not outbox.wait_until_empty(0.01)


def test_where_neither_disk_nor_memory_take_more_the_oldest_go_and_rows_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_MOST_IN_MEMORY", 100_000)
    (tmp_path / "file").touch()
    with closing(Outbox(tmp_path / "file" / "outbox", 2**18)) as outbox:
        for number in range(5):
            put(outbox, b"rows %d" % number + bytes(16_384))
            put(outbox, b"logs %d" % number + bytes(16_384), "logs")
        assert outbox.dropped == {"debug": 0, "logs": 4, "rows": 0}
        for number in range(5, 10):
            put(outbox, b"rows %d" % number + bytes(16_384))
        assert outbox.dropped == {"debug": 0, "logs": 5, "rows": 4}
        left = [body.partition(b"\0")[0] for body in bodies(taken(outbox))]
        assert left == [b"rows %d" % number for number in range(4, 10)]
