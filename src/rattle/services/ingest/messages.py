"""Messages as they come from the broker, and batches of them."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rattle.analytics.store.tables import STORED
from rattle.telemetry.messages import JSON_LINES, PARQUET, SCHEMA
from rattle.text import one_line

#: What the engine calls the formats of bodies.
FORMATS: Final[Mapping[str, str]] = {JSON_LINES: "JSONEachRow", PARQUET: "Parquet"}

#: Bytes of bodies in a batch: beyond, it is stored though it has room for more rows.
_MOST_BYTES: Final = 2**26


class Delivery(NamedTuple):
    """A message that waits for its acknowledgement; `properties` are AMQP's."""

    tag: int
    routing_key: str
    properties: Any
    body: bytes

    @property
    def table(self) -> str:
        """The table that the rows belong to."""
        return str(self.properties.type or "")

    @property
    def message_id(self) -> str:
        """What tells the message from others; "" where its publisher gave it none."""
        return str(self.properties.message_id or "")

    @property
    def rows(self) -> int:
        """How many rows its publisher says it has, else how many lines."""
        said = (self.properties.headers or {}).get("rows")
        return said if isinstance(said, int) and said >= 0 else self.body.count(b"\n") + 1

    @property
    def made(self) -> float:
        """When its publisher says that it was made, in seconds since 1970; infinity where it does not say so."""
        said = (self.properties.headers or {}).get("made")
        return said / 1e6 if isinstance(said, int) and said > 0 else float("inf")

    @property
    def is_damaged(self) -> bool:
        """Whether the body is another than its publisher sent, as far as it gave a checksum."""
        said = (self.properties.headers or {}).get("crc32")
        return said is not None and said != zlib.crc32(self.body)

    @property
    def engine_format(self) -> str:
        """What the engine calls the format of the body."""
        return FORMATS[str(self.properties.content_type)]

    def problem(self) -> str | None:
        """Return why it can go into no store, whatever its body holds; None where it may."""
        schema = (self.properties.headers or {}).get("schema")
        if schema != SCHEMA:
            return f"its header 'schema' is {_shown(schema)}, and this version of Rattle reads {SCHEMA}"
        if self.table not in STORED:
            return f"its type is {_shown(self.properties.type)}, which is none of the tables {', '.join(STORED)}"
        if self.properties.content_type not in FORMATS:
            known = " and ".join(FORMATS)
            return f"its content type is {_shown(self.properties.content_type)}: known are {known}"
        if self.is_damaged:
            return "its body does not match its header 'crc32': it was damaged on the way"
        return None


def _shown(value: object) -> str:
    return "not given" if value is None else f"'{one_line(value, 80)}'"


class Rejected(NamedTuple):
    """A message that cannot be stored, and why."""

    delivery: Delivery
    reason: str


class Job:
    """A batch on its way into the store."""

    def __init__(self, deliveries: Sequence[Delivery], oldest: float, wake: Callable[[], None]) -> None:
        """`oldest` is when its oldest message was made; `wake` is called when it `is_stored`."""
        self.deliveries = deliveries
        self.oldest = oldest
        self.wake = wake
        self.rejected: Sequence[Rejected] = ()
        self.is_stored = False
        self.abandoned = threading.Event()  # it cannot be acknowledged any more: anyone who stores it may stop


class MessageBatch:
    """Messages that are stored together, in the order in which they came."""

    def __init__(self, most_rows: int, most_messages: int, most_seconds: float) -> None:
        self._most_rows = most_rows
        self._most_messages = most_messages
        self._most_seconds = most_seconds
        self.oldest = float("inf")  # when the oldest message was made
        self._began = 0.0  # when the first message came
        self._rows = 0
        self._bytes = 0
        self._deliveries: list[Delivery] = []

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, delivery: Delivery, now: float) -> None:
        """Add a message that came at a time, in seconds."""
        if not self._deliveries:
            self._began = now
        self._deliveries.append(delivery)
        self.oldest = min(self.oldest, delivery.made)
        self._rows += delivery.rows
        self._bytes += len(delivery.body)

    def due_in(self, now: float) -> float:
        """Return in how many seconds it should be stored: 0 when it is full, infinity while it is empty."""
        if not self._deliveries:
            return float("inf")
        full = self._rows >= self._most_rows or self._bytes >= _MOST_BYTES
        if full or len(self._deliveries) >= self._most_messages:
            return 0.0
        return max(0.0, self._began + self._most_seconds - now)

    def hurry(self) -> None:
        """Be due from now on, unless empty."""
        self._most_seconds = 0.0

    def take(self) -> list[Delivery]:
        """Return the messages, and be empty."""
        taken, self._deliveries, self._rows, self._bytes = self._deliveries, [], 0, 0
        self.oldest = float("inf")
        return taken


def by_table(deliveries: Iterable[Delivery]) -> dict[tuple[str, str], list[Delivery]]:
    """Return messages by table and format, each in their order."""
    groups: dict[tuple[str, str], list[Delivery]] = {}
    for delivery in deliveries:
        groups.setdefault((delivery.table, delivery.engine_format), []).append(delivery)
    return groups
