"""The sink that publishes rows to a broker: a queue, a thread that writes the outbox, and one that publishes it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from rattle.analytics.schema import RUNNING
from rattle.analytics.writer import write_atomically
from rattle.events import Event, emit, of_telemetry
from rattle.telemetry.bodies import Entry, json_bodies, parquet_bodies
from rattle.telemetry.broker import Broker
from rattle.telemetry.messages import JSON_LINES, PARQUET, Importance
from rattle.telemetry.outbox import Outbox
from rattle.telemetry.publisher import Publisher
from rattle.telemetry.sinks import UPDATE, Mark
from rattle.telemetry.troubles import Trouble
from rattle.text import one_line

_GATHER_SECONDS: Final = 0.25  # rows become messages so often; a tenth costs training half as much again
_CLOSE_SECONDS: Final = 5.0  # without progress, for what is left at the end
_MOST_QUEUED: Final = 200_000  # rows of logs that wait for the thread
_LONGEST_PREFIX: Final = 100  # characters of a routing key, which may have 255 bytes
_SYNC_SECONDS: Final = 10.0
_REPORT_SECONDS: Final = 60.0  # between reports of what was dropped
_SIGN_OF_LIFE_SECONDS: Final = 240.0  # a store takes runs of which nothing comes for ten minutes for killed ones

#: What is wrong with brokers, as far as this process was told.
_known_troubles: Final[dict[Broker, str | None]] = {}


class BrokerSink:
    """Publishes rows of tables; a `TableSink`.

    Appending costs little, never waits and never raises: what cannot be published waits in the outbox.
    """

    def __init__(
        self, broker: Broker, folder: Path, most_bytes: int, *, service: str, experiment: str, run_id: str = ""
    ) -> None:
        """`folder` is the outbox's; next to it a run's number of lives is kept. `service` is who publishes."""
        self._broker = broker
        self._run_id = run_id
        self._prefix = one_line(broker.routing_key or experiment or service, _LONGEST_PREFIX)
        self._life_file = folder.parent / "life"
        self._life = _read_life(self._life_file)
        self._writer = token_hex(8)
        self._numbers = 0
        self._numbering = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._queued_logs = 0
        self._outbox = Outbox(folder, most_bytes)
        self._not_taken = 0  # rows of logs that came faster than they could be written
        self._unfit = 0  # rows that could not be encoded
        self._told: dict[str, Event] = {}  # by name
        self._saying = threading.Lock()
        self._running: tuple[float, Mapping[str, Any]] | None = None  # when the run was said to run, and how it stood
        self._reported_at = -_REPORT_SECONDS
        self._wake = threading.Event()
        self._rounds = threading.Condition()
        self._begun = self._ended = 0  # rounds of the thread
        self._closing = False
        self._publisher = Publisher(broker, self._outbox, service, self._tell)
        self._thread = threading.Thread(target=self._run, name="telemetry-outbox", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many appends and messages have not arrived at the broker yet."""
        with self._rounds:
            return len(self._queue) + (self._begun - self._ended) + self._outbox.waiting

    @property
    def tries(self) -> int:
        """Return how many connections to the broker were begun."""
        return self._publisher.tries

    def append(self, table: str, rows: Sequence[Mapping[str, Any]], made_by: int = 0) -> None:
        """Take rows of a table; nobody changes them afterwards."""
        if table == "logs":
            self._append_logs(rows)
        elif table == "runs":
            with self._saying:
                for row in rows:
                    self._say(row)
        elif rows:
            self._queue.append(Entry(table, "rows", rows, made_by, self._life))

    def mark(self) -> tuple[dict[str, int], Callable[[], None]]:
        """Return nothing to remember, and what brings all rows so far to the disk, or the broker where that is full."""
        return {}, self._sync

    def cut_back(self, mark: Mark, *, keep: bool = False) -> None:
        """Begin a life of the run that continues after the update of the mark, and drop later rows of earlier lives.

        Raises AnalyticsError where the number of the life cannot be stored.
        """
        self._life = _read_life(self._life_file, -1) + 1
        write_atomically(self._life_file, str(self._life).encode())
        row = {"run_id": self._run_id, "life": self._life, "after_update": mark.get(UPDATE, 0), "time": _now()}
        self.append("lives", [row])
        self._sync()

    def show(self) -> None:
        """Do nothing: rows are on their way as they come."""

    def close(self) -> None:
        """Publish what is left, as long as the broker takes it; the rest stays in the outbox for the next start."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        if self._outbox.waiting and self._publisher.wait_for_first_try(_CLOSE_SECONDS):
            self._publisher.wake()
            self._outbox.wait_until_empty(_CLOSE_SECONDS)
        self._publisher.stop(_CLOSE_SECONDS)
        left = self._outbox.rows_waiting
        self._outbox.close()
        if left:
            emit(of_telemetry.RowsLeft(rows=left, place=str(self._outbox.folder or "memory")))

    def _append_logs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Number the rows, so that a store sees what was dropped, and take them as long as there is room."""
        with self._numbering:
            first, self._numbers = self._numbers, self._numbers + len(rows)
            if self._queued_logs > _MOST_QUEUED:
                self._not_taken += len(rows)
                return
            self._queued_logs += len(rows)
        numbered = [{**row, "writer": self._writer, "number": first + place} for place, row in enumerate(rows)]
        for importance, some in groupby(numbered, _importance):
            self._queue.append(Entry("logs", importance, list(some), 0, 0))

    def _run(self) -> None:
        """Turn rows into messages, over and over, until the sink is closed and all are written."""
        while not self._closing:
            self._wake.wait(_GATHER_SECONDS)
            self._wake.clear()
            self._give_sign_of_life()
            self._write()
        self._write()

    def _say(self, run: Mapping[str, Any]) -> None:
        """Take the row of the run, of which the one that is written last counts."""
        self._queue.append(Entry("runs", "rows", [{**run, "written": _now()}], 0, 0))
        self._running = (time.monotonic(), run) if run.get("status") == RUNNING else None

    def _give_sign_of_life(self) -> None:
        """Say again how the run stands where it has not been said for long: updates may take longer than that."""
        with self._saying:
            if self._running is not None and time.monotonic() - self._running[0] >= _SIGN_OF_LIFE_SECONDS:
                self._say(self._running[1])

    def _write(self) -> None:
        """Make messages of what was appended so far."""
        with self._rounds:
            self._begun += 1
        entries = [self._queue.popleft() for _ in range(len(self._queue))]
        with self._numbering:
            self._queued_logs -= sum(len(entry.rows) for entry in entries if entry.table == "logs")
        for (table, importance), same in _by_message(entries).items():
            try:
                self._put(table, importance, same)
            except Exception as error:  # the others must not be lost with it
                emit(of_telemetry.TelemetryFailed(), error=error)
        if entries or self._outbox.disk_problem:  # what could not be read may be readable now
            self._publisher.wake()
        self._complain()
        with self._rounds:
            self._ended = self._begun
            self._rounds.notify_all()

    def _put(self, table: str, importance: Importance, entries: Sequence[Entry]) -> None:
        """Put rows of a table into the outbox."""
        for rows, body in parquet_bodies(entries) if table == "steps" else json_bodies(entries, self._count_unfit):
            self._outbox.put(
                importance,
                table=table,
                run_id=self._run_id,
                routing_key=f"{self._prefix}.{table}",
                rows=rows,
                content_type=PARQUET if table == "steps" else JSON_LINES,
                body=body,
            )

    def _count_unfit(self) -> None:
        self._unfit += 1

    def _sync(self) -> None:
        """Wait until what was appended so far is on the disk or, where that is full, at the broker."""
        with self._rounds:
            wanted = self._begun + 1
            self._wake.set()
            self._rounds.wait_for(lambda: self._ended >= wanted or self._closing, _SYNC_SECONDS)
        if not self._outbox.sync() and self._publisher.is_connected:
            self._outbox.wait_until_empty(_SYNC_SECONDS)

    def _tell(self, trouble: Trouble | None) -> None:
        """Say what is wrong with the broker, or that all is well again: once, for all sinks of this process."""
        kind = None if trouble is None else trouble.kind
        if _known_troubles.get(self._broker) == kind:
            return
        _known_troubles[self._broker] = kind
        if trouble is None:
            emit(of_telemetry.BrokerBack())
        else:
            emit(of_telemetry.BrokerTrouble(kind=trouble.kind, error=trouble.text))

    def _complain(self) -> None:
        """Say, once each, what is wrong with the outbox, and now and then how much was dropped."""
        outbox, of = self._outbox, of_telemetry
        if problem := outbox.disk_problem:
            self._say_once(of.OutboxNotWritten(folder=str(outbox.folder), error=problem))
        else:
            self._told.pop(of.OutboxNotWritten.name, None)
        if outbox.is_over:
            self._say_once(of.OutboxOver())
        else:
            self._told.pop(of.OutboxOver.name, None)
        if self._unfit:
            self._say_once(of.RowsUnfit(rows=self._unfit))
        if outbox.damaged_bytes:
            self._say_once(of.OutboxDamaged(count=outbox.damaged_bytes))
        if lost := outbox.dropped["rows"]:
            self._say_once(of.RowsLost(rows=lost))
        dropped = outbox.dropped["debug"] + outbox.dropped["logs"] + self._not_taken
        is_due = time.monotonic() - self._reported_at >= _REPORT_SECONDS
        if dropped and (is_due or self._closing) and self._say_once(of.LogsDropped(rows=dropped)):
            self._reported_at = time.monotonic()

    def _say_once(self, event: Event) -> bool:
        """Tell an event unless it is as it was told before, and say whether it was told."""
        if self._told.get(event.name) == event:
            return False
        self._told[event.name] = event
        emit(event)
        return True


def _by_message(entries: Iterable[Entry]) -> dict[tuple[str, Importance], list[Entry]]:
    """Return entries by what goes into one message, in their order."""
    found: dict[tuple[str, Importance], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.table, entry.importance), []).append(entry)
    return found


def _importance(row: Mapping[str, Any]) -> Importance:
    return "debug" if row.get("level") == "DEBUG" else "logs"


def _read_life(path: Path, otherwise: int = 0) -> int:
    """Return the number of a run's last life; where it is damaged one that is higher than all before."""
    try:
        return int(path.read_bytes())
    except FileNotFoundError:
        return otherwise
    except (OSError, ValueError):
        return int(time.time())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
