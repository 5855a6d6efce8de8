"""The logs of this process on their way to RabbitMQ."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rattle.events import LogEntry, context
from rattle.telemetry.broker import Broker
from rattle.telemetry.broker_sink import BrokerSink
from rattle.telemetry.pipe import pipe

#: What may wait on disk for the broker, in bytes, where no settings say so.
OUTBOX_BYTES: Final = 2**30

#: What publishes the logs of this process: twice would be once too often.
_published: list[PublishedLogs] = []


class PublishedLogs:
    """Publishes the rows of `logs` of this process; what cannot be published waits in an outbox."""

    is_shared = False

    def __init__(self, broker: Broker, folder: Path, most_bytes: int) -> None:
        self.place = broker.url
        self.pid = os.getpid()
        self._sink = BrokerSink(
            broker,
            folder / f"{context.service}-logs",
            most_bytes,
            service=context.service,
            experiment=context.experiment,
            run_id=context.run_id,
        )

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        """Publish the rows of events."""
        self._sink.append("logs", [entry.row() for entry, _ in entries])

    def settle(self) -> None:
        """Bring what was written so far to the disk."""
        self._sink.mark()[1]()

    def close(self) -> None:
        """Publish what is left, as long as the broker takes it."""
        self._sink.close()


def publish_logs(broker: Broker, folder: Path | None = None, most_bytes: int = OUTBOX_BYTES) -> Callable[[], None]:
    """Have the logs of this process published, instead of where they were published before; return what ends that.

    What waits for the broker is kept in a folder of its own below `folder`: a run's, else one of the user's.
    """
    for earlier in tuple(_published):
        _end(earlier)
    logs = PublishedLogs(broker, _users_folder() if folder is None else folder, most_bytes)
    _published.append(logs)
    pipe.add(logs)
    atexit.register(_end, logs)
    return lambda: _end(logs)


def _end(logs: PublishedLogs) -> None:
    if logs in _published and logs.pid == os.getpid():  # a forked process leaves it to its parent
        _published.remove(logs)
        pipe.remove(logs)


def _users_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "rattle" / "outbox"
