"""TensorBoard files hold the numbers of the tables `updates` and `evaluations`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import EVALUATIONS, UPDATES
from rattle.hooks.scalars import EVALUATION_NAMES, NAMES
from rattle.hooks.tensorboard import TensorBoardWriter
from tests.analytics.build import START, evaluation_row, update_row


def read_events(path: Path) -> list[Any]:
    """Read an event file: records of length, its checksum, the event, its checksum."""
    events, content = [], path.read_bytes()
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12:end]))
        content = content[end + 4 :]
    return events


def write_updates(run: RunDirectory, versions: range) -> None:
    writer = TensorBoardWriter(run.path / "tensorboard")
    for version in versions:
        row = update_row(run, version)
        writer.write({**row, "time": row["time"].isoformat()} if version % 2 else row)
    writer.close()


def test_scalars_are_those_of_the_rows(run: RunDirectory) -> None:
    write_updates(run, range(1, 4))
    (path,) = (run.path / "tensorboard").iterdir()
    assert "tfevents" in path.name
    version, start, *events = read_events(path)
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (SessionLog.START, 8192)
    assert [event.step for event in events] == [8192, 16384, 24576]
    assert events[1].wall_time == START.timestamp() + 0.4
    row, scalars = update_row(run, 3), {value.tag: value.simple_value for value in events[2].summary.value}
    assert scalars == pytest.approx({tag: row[column] for column, tag in NAMES.items()}, rel=1e-6)
    assert "episodes/mean_return" not in {value.tag for value in events[0].summary.value}  # null in the first row


def test_a_resume_tells_tensorboard_what_is_replaced(run: RunDirectory) -> None:
    write_updates(run, range(1, 6))
    write_updates(run, range(4, 8))
    files = [read_events(path) for path in (run.path / "tensorboard").iterdir()]
    assert sorted(events[1].step for events in files) == [8192, 4 * 8192]


def test_evaluations_are_scalars_too_and_replace_nothing(run: RunDirectory) -> None:
    """One that a resume plays first is of an earlier step than the updates that follow it."""
    writer = TensorBoardWriter(run.path / "tensorboard")
    for row in (evaluation_row(run, 2), evaluation_row(run, 4)):
        writer.write_evaluation({**row, "time": START.isoformat()})
    writer.write(update_row(run, 5))
    writer.write_evaluation(evaluation_row(run, 5))
    writer.close()
    (path,) = (run.path / "tensorboard").iterdir()
    _, start, *events = read_events(path)
    assert start.step == 5 * 8192
    assert [event.step for event in events] == [number * 8192 for number in (5, 2, 4, 5)]
    shown = {value.tag: value.simple_value for value in events[2].summary.value}
    expected = {"evaluations/mean_return": 4 / 3, "evaluations/mean_length": 40.0, "evaluations/mean_food": 7 / 3}
    assert shown == pytest.approx(expected)


def test_names_are_of_columns() -> None:
    assert set(NAMES) <= set(UPDATES)
    assert set(EVALUATION_NAMES) <= set(EVALUATIONS)


def test_nothing_written_leaves_nothing(run: RunDirectory) -> None:
    TensorBoardWriter(run.path / "tensorboard").close()
    assert not (run.path / "tensorboard").exists()


def test_a_full_disk_is_an_error_and_not_a_hang(tiny_disk: Path) -> None:
    writer = TensorBoardWriter(tiny_disk / "tensorboard")
    row = update_row(RunDirectory(tiny_disk), 3)
    writer.write(row)
    (tiny_disk / "ballast").write_bytes(bytes(200_000))

    def write_on() -> None:
        for _ in range(1000):
            writer.write(row)

    with pytest.raises(AnalyticsError, match="the disk is full"):
        write_on()
    (tiny_disk / "ballast").unlink()
    writer.close()


def test_a_missing_library_is_named(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(AnalyticsError, match=r"TensorBoard output needs .*: pip install 'rattle\[tensorboard\]'"):
        TensorBoardWriter(run.path / "tensorboard")
