"""The sink of a broker that is not there: nothing waits for it, and nothing is lost."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from rattle.telemetry import broker_sink
from rattle.telemetry.broker import find_broker
from rattle.telemetry.broker_sink import BrokerSink
from rattle.telemetry.outbox import Outbox


def sink_to_nowhere(folder: Path) -> BrokerSink:
    broker = find_broker("amqp://localhost:1", {})
    assert broker is not None
    return BrokerSink(broker, folder / "outbox" / "test", 2**30, service="test", experiment="mine", run_id="run")


def left(folder: Path, table: str) -> list[dict[str, object]]:
    """Return the rows of a table that an outbox holds."""
    with closing(Outbox(folder / "outbox" / "test", 2**30)) as outbox:
        messages = [message for message in iter(outbox.take, None) if message.table == table]
    return [msgspec.json.decode(line) for message in messages for line in message.body.splitlines()]


def test_appending_waits_for_nobody(tmp_path: Path) -> None:
    sink = sink_to_nowhere(tmp_path)
    began = time.monotonic()
    for number in range(1000):
        sink.append("episodes", [{"episode_id": number}], made_by=1)
    assert time.monotonic() - began < 60  # a tenth of a second each would be more
    sink.close()
    assert [row["episode_id"] for row in left(tmp_path, "episodes")] == list(range(1000))


def test_what_a_mark_made_durable_is_there_although_nobody_closed_the_sink(tmp_path: Path) -> None:
    with closing(sink_to_nowhere(tmp_path)) as sink:
        sink.append("episodes", [{"episode_id": 1}], made_by=1)
        sink.mark()[1]()
        files = [path.read_bytes() for path in (tmp_path / "outbox" / "test").glob("*.messages")]
        assert b'"episode_id":1' in b"".join(files)


def test_a_run_that_has_nothing_to_say_is_known_to_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store takes a run for a killed one where nothing comes of it for long."""
    monkeypatch.setattr(broker_sink, "_SIGN_OF_LIFE_SECONDS", 0.0)
    sink = sink_to_nowhere(tmp_path)
    sink.append("runs", [{"status": "running", "updates": 5}])
    while sink.waiting < 3:
        pass
    sink.append("runs", [{"status": "finished", "updates": 6}])
    sink.mark()[1]()
    sink.close()
    *earlier, last = left(tmp_path, "runs")
    assert len(earlier) >= 2
    assert [(row["status"], row["updates"]) for row in earlier] == [("running", 5)] * len(earlier)
    assert (last["status"], last["updates"]) == ("finished", 6)
    written = [row["written"] for row in (*earlier, last)]
    assert written == sorted(set(written))


def test_each_start_of_a_run_is_a_life(tmp_path: Path) -> None:
    for update in (0, 5, 3):
        with closing(sink_to_nowhere(tmp_path)) as sink:
            sink.cut_back({"update": update})
            sink.append("updates", [{"policy_version": update + 1}], made_by=update + 1)
    lives = left(tmp_path, "lives")
    assert [(row["life"], row["after_update"]) for row in lives] == [(0, 0), (1, 5), (2, 3)]
    rows = left(tmp_path, "updates")
    assert [(row["life"], row["made_by"]) for row in rows] == [(0, 1), (1, 6), (2, 4)]


def test_a_damaged_number_of_lives_gives_a_higher_one(tmp_path: Path) -> None:
    with closing(sink_to_nowhere(tmp_path)) as sink:
        sink.cut_back({"update": 0})
    (tmp_path / "outbox" / "life").write_text("damaged")
    with closing(sink_to_nowhere(tmp_path)) as sink:
        sink.cut_back({"update": 1})
    first, second = (row["life"] for row in left(tmp_path, "lives"))
    assert first == 0
    assert isinstance(second, int)
    assert 10**9 < second < 2**32


def test_logs_are_numbered_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    with closing(sink_to_nowhere(tmp_path)) as sink:
        for level in ("INFO", "DEBUG", "WARNING", "DEBUG"):
            sink.append("logs", [{"level": level}])
    rows = sorted(left(tmp_path, "logs"), key=lambda row: int(str(row["number"])))
    assert [row["level"] for row in rows][:4] == ["INFO", "DEBUG", "WARNING", "DEBUG"]
