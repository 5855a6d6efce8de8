"""One connection to the broker: what was taken over it, and what was not acknowledged yet."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

from rattle.events import emit
from rattle.events.of_services import DamagedMessage
from rattle.services.ingest.clocks import Clocks
from rattle.services.ingest.messages import Delivery, Job, MessageBatch, Rejected
from rattle.services.utils.sockets import ServiceError
from rattle.settings.services import IngestSection
from rattle.telemetry.broker import Broker
from rattle.text import one_line

_IDLE_SECONDS: Final = 0.5  # between looks at whether to stop
_LONGEST_REASON: Final = 1000
_PERSISTENT: Final = 2
#: Messages that are kept are asked for again after so long: a broker ends a connection that has one for half an hour.
_KEEP_SECONDS: Final = 1500.0


class Taking:
    """Takes messages in batches; one thread may use it, and any may wake it."""

    def __init__(self, connection: Any, broker: Broker, own: IngestSection, clocks: Clocks) -> None:
        self._connection = connection
        self._broker = broker
        self._clocks = clocks
        self._batch = MessageBatch(own.batch_rows, max(1, own.prefetch // 2), own.batch_seconds)
        self._channel = connection.channel()
        for method, arguments in broker.declarations():
            getattr(self._channel, method)(**arguments)
        self._prefetch = own.prefetch
        self._channel.basic_qos(prefetch_count=own.prefetch)
        self._cancelled = self._hurries = False
        self._channel.add_on_cancel_callback(self._on_cancelled)
        self._consumers: list[str] = []
        self._kept: dict[int, float] = {}  # by tag, since when
        self._consume()
        self._letters: Any = None
        self._found_empty: float | None = None  # when the queue was empty, of which messages may still be on their way
        self._was_empty: float | None = None  # when the queue was empty, before the messages that come now were in it

    def wait(self, *, is_storing: bool) -> None:
        """Wait for messages or until a batch is due; while one is being stored, its end wakes the connection.

        Raises where the connection has ended, or the broker has taken the queue away.
        """
        due = float("inf") if is_storing else self._batch.due_in(time.monotonic())
        found_empty = self._found_empty
        self._connection.process_data_events(min(due, _IDLE_SECONDS))
        self._was_empty = found_empty
        self._give_back()
        if self._cancelled:
            raise ServiceError(f"the queue '{self._broker.queue}' of {self._broker.url} has been deleted")

    def due(self) -> Job | None:
        """Return the batch that should be stored now, None where it is not time yet."""
        if self._batch.due_in(time.monotonic()) > 0:
            return None
        oldest = self._batch.oldest
        return Job(self._batch.take(), oldest, self._wake)

    def oldest(self, job: Job | None) -> float:
        """Return when the oldest message was made that is not stored, in a job that is being stored or after it."""
        return self._batch.oldest if job is None else min(job.oldest, self._batch.oldest)

    def waiting(self) -> int:
        """Return how many messages wait in the broker."""
        asked = time.time()
        count = int(self._channel.queue_declare(self._broker.queue, passive=True).method.message_count)
        if count == 0:
            self._found_empty = asked
        return count

    @property
    def kept(self) -> int:
        """How many messages stay in the queue, because they cannot be stored and no dead-letter queue takes them."""
        return len(self._kept)

    def settle(self, job: Job) -> dict[int, str]:
        """Acknowledge messages that were stored; rejected ones go into the dead-letter queue first.

        Return, by tag, those that it does not take, and why. They are not acknowledged, so the broker has them still,
        and sends them over the next connection again.
        """
        refused = {one.delivery.tag: said for one in job.rejected if (said := self._bury(one)) is not None}
        self._kept |= dict.fromkeys(refused, time.monotonic())
        if self._kept:
            for delivery in job.deliveries:
                if delivery.tag not in refused:
                    self._channel.basic_ack(delivery.tag)
        else:
            self._channel.basic_ack(job.deliveries[-1].tag, multiple=True)
        if not self._hurries and len(self._kept) > (len(self._consumers) - 0.5) * self._prefetch:
            self._consume()  # those that are kept count as under way: there must be room for others
        return refused

    def hurry(self) -> None:
        """Take no more messages, and have those that were taken be due."""
        self._hurries = True
        for consumer in self._consumers:
            self._channel.basic_cancel(consumer)
        self._batch.hurry()

    def _give_back(self) -> None:
        """Have messages that were kept for long come again: there may be a place for them now."""
        if self._kept and not self._hurries and time.monotonic() - min(self._kept.values()) >= _KEEP_SECONDS:
            for tag in self._kept:
                self._channel.basic_nack(tag, requeue=True)
            self._kept.clear()

    def _consume(self) -> None:
        self._consumers.append(self._channel.basic_consume(self._broker.queue, self._on_message))

    def _wake(self) -> None:
        from pika.exceptions import ConnectionWrongStateError

        with suppress(ConnectionWrongStateError):  # it has closed, which is noticed where it is used
            self._connection.add_callback_threadsafe(lambda: None)

    def _bury(self, rejected: Rejected) -> str | None:
        """Put a message into the dead-letter queue with the reason; return why that does not take it, else None.

        Raises whatever ends the connection.
        """
        from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError

        if self._letters is None:
            self._letters = self._connection.channel()
            self._letters.confirm_delivery()
        delivery, properties = rejected.delivery, rejected.delivery.properties
        own = {
            "reason": one_line(rejected.reason, _LONGEST_REASON),
            "exchange": self._broker.exchange,
            "routing_key": delivery.routing_key,
        }
        properties.headers = {**(properties.headers or {}), **own}
        properties.headers.pop("sent", None)  # it is sent again now
        properties.delivery_mode = _PERSISTENT
        try:
            self._letters.basic_publish(
                self._broker.dead, delivery.routing_key, delivery.body, properties, mandatory=True
            )
        except UnroutableError:
            return f"no queue is bound to the exchange '{self._broker.dead}'"
        except NackError:
            return f"the queue of the exchange '{self._broker.dead}' takes no more"
        except ChannelClosedByBroker as error:
            self._letters = None
            return one_line(error.reply_text, _LONGEST_REASON)
        return None

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._clocks.compare(properties, None if method.redelivered else self._was_empty, time.time())
        delivery = Delivery(method.delivery_tag, method.routing_key, properties, body)
        if delivery.is_damaged and not method.redelivered:  # the broker may have it as it was
            emit(DamagedMessage(source=f"the queue {self._broker.queue}", error="its body does not match its checksum"))
            self._channel.basic_nack(method.delivery_tag, requeue=True)
            return
        self._batch.add(delivery, time.monotonic())

    def _on_cancelled(self, _frame: Any) -> None:
        self._cancelled = True
