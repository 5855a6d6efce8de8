"""From the broker into the store: one thread speaks to the broker, another to the store.

While a batch is being stored the next one gathers. Nothing is acknowledged before it is stored, so that whatever dies,
the broker delivers it again; and what was stored already counts once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import tenacity

from rattle.errors import RattleError
from rattle.events import emit
from rattle.events.of_telemetry import IngestGoesOn, IngestWaits, MessageKept, MessageRejected
from rattle.services.ingest.clocks import Clocks
from rattle.services.ingest.messages import Job, Rejected
from rattle.services.ingest.numbers import Numbers, age
from rattle.services.ingest.storing import StoreThread
from rattle.services.ingest.taking import Taking
from rattle.settings.services import IngestSection
from rattle.telemetry.broker import Broker
from rattle.telemetry.troubles import trouble_of
from rattle.text import one_line
from rattle.wire.problems import RequestError

if TYPE_CHECKING:
    from prometheus_client import Metric

_ASK_SECONDS: Final = 2.0  # between questions how much waits
_STOP_SECONDS: Final = 4.0  # for what is being stored when the service stops
_PAUSE_SECONDS: Final = 0.5  # before a connection that was lost is made again


class Consumer:
    """Takes rows from a broker's queue into a store, until it is stopped."""

    def __init__(self, broker: Broker, store_url: str, own: IngestSection) -> None:
        self._broker = broker
        self._own = own
        self._numbers = Numbers()
        self._clocks = Clocks(self._numbers.clocks)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._troubles: dict[str, str | None] = {"broker": "not connected yet", "store": "not connected yet"}
        self._told: dict[str, str] = {}
        self._store = StoreThread(store_url, self._jobs, self._stopping, self._numbers, self._tell, self._clocks)
        self._thread = threading.Thread(target=self._run, name="ingest-broker", daemon=True)

    def start(self) -> None:
        """Begin to take rows."""
        self._store.start()
        self._thread.start()

    def stop(self) -> None:
        """Store what has been taken, if that is possible in short time, and end."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS + _PAUSE_SECONDS)
        self._jobs.put(None)
        self._store.join(_PAUSE_SECONDS)

    def check_ready(self) -> None:
        """Raise RequestError while the broker or the store cannot be used."""
        for trouble in self._troubles.values():
            if trouble is not None:
                raise RequestError("not_ready", trouble)

    def status(self) -> dict[str, Any]:
        """Return what has been done, and what is in the way."""
        return {**self._numbers.totals, **{f"{place}_trouble": said for place, said in self._troubles.items()}}

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        return self._numbers.collect()

    def _run(self) -> None:
        """Take messages, over one connection after the other."""
        connecting = tenacity.Retrying(
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=10.0, jitter=0.2),
            stop=tenacity.stop_when_event_set(self._stopping),
            sleep=tenacity.sleep_using_event(self._stopping),
        )
        while not self._stopping.is_set():
            try:
                connection, taking = connecting(self._connect)
            except tenacity.RetryError:
                return
            try:
                self._take(taking)
            except Exception as error:  # of the library, and of whatever answers: the next connection may be better
                self._tell("broker", self._trouble(error))
                self._stopping.wait(_PAUSE_SECONDS)
            finally:
                with suppress(Exception):  # it may be closed already
                    connection.close()

    def _connect(self) -> tuple[Any, Taking]:
        import pika

        connection = None
        try:
            connection = pika.BlockingConnection(self._broker.parameters("rattle ingest"))
            taking = Taking(connection, self._broker, self._own, self._clocks)
        except Exception as error:
            self._tell("broker", self._trouble(error))
            if connection is not None:
                with suppress(Exception):
                    connection.close()
            raise
        self._tell("broker", None)
        return connection, taking

    def _trouble(self, error: Exception) -> str:
        return str(error) if isinstance(error, RattleError) else trouble_of(self._broker, error).text

    def _take(self, taking: Taking) -> None:
        """Take messages over a connection until the service stops; raises whatever ends the connection."""
        job: Job | None = None
        asked = time.monotonic()
        try:
            while not self._stopping.is_set():
                taking.wait(is_storing=job is not None)
                self._numbers.lag.set(age(taking.oldest(job)))
                if time.monotonic() - asked > _ASK_SECONDS:
                    asked = time.monotonic()
                    self._numbers.waiting.set(taking.waiting())
                job = self._advance(taking, job)
            taking.hurry()
            until = time.monotonic() + _STOP_SECONDS
            job = self._advance(taking, job)
            while job is not None and time.monotonic() < until:
                taking.wait(is_storing=True)
                job = self._advance(taking, job)
        finally:
            self._numbers.lag.set(0.0)  # nothing is taken any more
            self._numbers.kept.set(0)
            if job is not None:
                job.abandoned.set()

    def _advance(self, taking: Taking, job: Job | None) -> Job | None:
        """Acknowledge what has been stored, hand on what is due, and return what is being stored."""
        if job is not None:
            if not job.is_stored:
                return job
            refused = taking.settle(job)
            for one in job.rejected:
                self._tell_rejected(one, refused.get(one.delivery.tag))
            self._numbers.count(job, refused)
            self._numbers.kept.set(taking.kept)
        following = taking.due()
        if following is not None:
            self._jobs.put(following)
        return following

    def _tell_rejected(self, one: Rejected, refused: str | None) -> None:
        """Say that a message is put aside; of those that must stay in the queue say it once, however many there are."""
        table, reason = one_line(one.delivery.table, 80), one_line(one.reason, 500)
        if refused is None:
            emit(MessageRejected(table=table, reason=reason))
        elif self._told.get("dead letters") != refused:
            emit(MessageKept(table=table, reason=reason, error=refused))
        self._told["dead letters"] = refused or ""

    def _tell(self, place: str, said: str | None) -> None:
        """Take note of what is in the way, None for nothing, and say it once however long it lasts."""
        self._troubles[place] = said
        if said is None:
            if self._told.pop(place, None) is not None:
                emit(IngestGoesOn(place=place))
            return
        self._numbers.failures.labels(place).inc()
        if self._told.get(place) != said:
            self._told[place] = said
            emit(IngestWaits(place=place, error=said))
