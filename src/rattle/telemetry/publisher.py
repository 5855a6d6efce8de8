"""The thread that publishes an outbox: many messages under way at a time, each confirmed by the broker."""

from __future__ import annotations

import threading
from typing import Final

import tenacity

from rattle.analytics.errors import AnalyticsError
from rattle.telemetry.broker import Broker
from rattle.telemetry.errors import TelemetryError
from rattle.telemetry.outbox import Outbox
from rattle.telemetry.session import BrokerSession, Tell
from rattle.telemetry.troubles import Trouble, trouble_of

_FIRST_WAIT, _LONGEST_WAIT = 0.25, 5.0  # seconds between connections
_BACK_OFF: Final = tenacity.wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT) + tenacity.wait_random(
    0, _FIRST_WAIT
)


class Publisher:
    """Publishes an outbox from a thread of its own until it is stopped, whatever the broker does."""

    def __init__(self, broker: Broker, outbox: Outbox, service: str, tell: Tell) -> None:
        self._broker = broker
        self._outbox = outbox
        self._service = service
        self._tell = tell
        self.tries = 0  # connections that were begun
        self._told: Trouble | None = None
        self._stop = threading.Event()
        self._knows = threading.Event()  # whether the broker takes messages
        self._session: BrokerSession | None = None
        self._thread = threading.Thread(target=self._run, name="telemetry-publisher", daemon=True)
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether the broker takes messages now."""
        session = self._session
        return session is not None and session.is_ready

    def wait_for_first_try(self, seconds: float) -> bool:
        """Wait until the first connection is made, or has failed, and say whether the broker takes messages."""
        self._knows.wait(seconds)
        return self.is_connected

    def wake(self) -> None:
        """Have it look into the outbox."""
        if (session := self._session) is not None:
            session.wake()

    def stop(self, seconds: float) -> None:
        """End the thread, within so many seconds or else with the process."""
        self._stop.set()
        if (session := self._session) is not None:
            session.end()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            retrying = tenacity.Retrying(
                wait=_BACK_OFF,
                stop=tenacity.stop_when_event_set(self._stop),
                sleep=tenacity.sleep_using_event(self._stop),
                retry=tenacity.retry_if_result(lambda has_published: not has_published),
                retry_error_callback=lambda _call: None,
            )
            retrying(self._publish)
            self._stop.wait(_FIRST_WAIT)

    def _publish(self) -> bool:
        """Publish over one connection until it ends, and say whether anything has arrived."""
        self.tries += 1
        try:
            session = BrokerSession(self._broker, self._outbox, self._service, self._take_note)
        except (AnalyticsError, TelemetryError) as error:
            self._take_note(Trouble("settings", str(error)))
            return False
        self._session = session
        if self._stop.is_set():  # meanwhile
            session.end()
        try:
            trouble = session.run()
        except Exception as error:  # of pika, which meets strangers' bytes
            trouble = trouble_of(self._broker, error)
        finally:
            self._session = None
            self._outbox.rewind()
        if trouble is not None and not self._stop.is_set():
            self._take_note(trouble)
        return session.has_published

    def _take_note(self, trouble: Trouble | None) -> None:
        self._knows.set()
        kind = None if trouble is None else trouble.kind
        if kind != (None if self._told is None else self._told.kind):
            self._told = trouble
            self._tell(trouble)
