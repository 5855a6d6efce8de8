"""Events of telemetry: the broker and what waits for it, and tools that a run is sent to."""

from __future__ import annotations

from typing import ClassVar

from rattle.events.event import Event, Level


class BrokerTrouble(Event, frozen=True, kw_only=True):
    """The broker takes nothing: `kind` says why, such as away, credentials, vhost, blocked or declared_otherwise."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}; what is emitted meanwhile waits in the outbox"
    kind: str
    error: str


class BrokerBack(Event, frozen=True, kw_only=True):
    """The broker takes rows again."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the broker takes rows again: what has waited for it follows"


class RowsLeft(Event, frozen=True, kw_only=True):
    """A process ends while rows wait for the broker; the next one of the same run or service publishes them."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "{rows} rows wait in {place}, since the broker has not taken them: the next start publishes them"
    )
    rows: int
    place: str


class RowsLost(Event, frozen=True, kw_only=True):
    """Neither the disk nor the broker take the rows of a run: so many are not published so far."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = (
        "{rows} rows of the run are not published, since neither disk nor broker take them: load them from the run "
        "directory with 'rattle ingest'"
    )
    rows: int


class RowsUnfit(Event, frozen=True, kw_only=True):
    """So many rows could not be made JSON so far, and are left out."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{rows} rows that are no JSON are left out"
    rows: int


class LogsDropped(Event, frozen=True, kw_only=True):
    """There was no room in the outbox for so many rows of logs so far."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{rows} rows of logs were dropped for lack of room so far"
    rows: int


class OutboxNotWritten(Event, frozen=True, kw_only=True):
    """The disk does not take the outbox: messages are kept in memory as far as they fit."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the outbox in {folder} cannot be written: {error}"
    folder: str
    error: str


class OutboxOver(Event, frozen=True, kw_only=True):
    """The rows of a run that wait for the broker are more than `telemetry.outbox_bytes`."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "the outbox is full, and logs are dropped; its rows alone are more than telemetry.outbox_bytes: they stay on "
        "the disk"
    )


class OutboxDamaged(Event, frozen=True, kw_only=True):
    """A process that has died has left so many bytes of the outbox half written."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{count} bytes of the outbox are left out: a process that died has left them half written"
    count: int


class TelemetryFailed(Event, frozen=True, kw_only=True):
    """Rows could not be written to the outbox for a reason that nobody thought of; the next ones are tried again."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "rows of telemetry could not be written"


class IngestWaits(Event, frozen=True, kw_only=True):
    """Ingest cannot use the broker or the store (`place`), and tries again; what is not stored stays in the broker."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}; rows wait in the broker"
    place: str
    error: str


class IngestGoesOn(Event, frozen=True, kw_only=True):
    """Ingest can use the broker or the store (`place`) again."""

    level: ClassVar[Level] = "INFO"
    sentence: ClassVar[str] = "the {place} can be used again"
    place: str


class MessageRejected(Event, frozen=True, kw_only=True):
    """A message cannot be stored, and is put into the dead-letter queue with the reason."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "a message of the table '{table}' cannot be stored: {reason}"
    table: str
    reason: str


class MessageKept(Event, frozen=True, kw_only=True):
    """A message cannot be stored, and no dead-letter queue takes it (`error`), so it stays in the queue.

    Told once, however many they are, until one is taken; ingest tries again over the next connection.
    """

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = (
        "a message of the table '{table}' cannot be stored: {reason}; it stays in the queue, unacknowledged, as others "
        "will, because nothing takes dead letters ({error}): fix that, and start ingest again"
    )
    table: str
    reason: str
    error: str


class ClockDiffers(Event, frozen=True, kw_only=True):
    """The clock of a producer's host or of the store (`place`) is more than 5 seconds off ingest's; told once per host.

    `seconds` is negative where it is behind. Its rows are kept, with the times that they have.
    """

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "the clock of the {place} {host} differs from that of ingest by {seconds:+} seconds: rows are kept with the "
        "times that they have; set the clocks of all hosts by NTP"
    )
    place: str
    host: str
    seconds: float


class ToolFailed(Event, frozen=True, kw_only=True):
    """A tool that a hook sends a run to takes no rows."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{tool} takes no rows ({error}): the run continues without it"
    tool: str
    error: str


class ToolLacksRows(Event, frozen=True, kw_only=True):
    """A tool that a hook sends a run to has not taken so many rows by the end of the run."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{tool} has not taken {rows} rows of the run; the run's own tables have them all"
    tool: str
    rows: int
