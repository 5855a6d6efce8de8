"""One connection to the broker, over which an outbox is published."""

from __future__ import annotations

import platform
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from rattle.telemetry.broker import Broker
from rattle.telemetry.messages import SCHEMA, Message
from rattle.telemetry.outbox import Outbox
from rattle.telemetry.troubles import Trouble, blocked, nacked, not_confirmed, refusal, trouble_of, unroutable

#: Under way at a time, at most.
_MESSAGES, _BYTES = 256, 1 << 25
#: A broker that confirms nothing for so long is told of.
_SILENCE_SECONDS = 60.0
_TIDY_SECONDS: Final = 0.02  # that `pika` has to close its socket after it has said that a connection is lost
_PERSISTENT: Final = 2  # a delivery mode

#: Gets what is wrong, or None where all is well again.
Tell = Callable[[Trouble | None], object]


class BrokerSession:
    """One connection, from its opening to its end; all but `wake` and `end` happens in the thread that calls `run`."""

    def __init__(self, broker: Broker, outbox: Outbox, service: str, tell: Tell) -> None:
        from pika import SelectConnection

        self._broker = broker
        self._outbox = outbox
        self._service = service
        self._tell = tell
        self.is_ready = False
        self.has_published = False
        self._trouble: Trouble | None = None
        self._channel: Any = None
        self._tag = 0
        self._under_way: dict[int, Message] = {}
        self._bytes = 0
        self._returned: set[str] = set()
        self._is_blocked = self._is_to_end = self._is_silent = False
        self._watch: Any = None  # the timer that goes off when nothing is confirmed
        self._connection = SelectConnection(
            broker.parameters(f"rattle {service}"),
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
        )

    def run(self) -> Trouble | None:
        """Publish until the connection ends, and return why, None where it was to end."""
        try:
            self._connection.ioloop.start()
        finally:
            with suppress(Exception):
                self._connection.ioloop.close()
        return self._trouble

    def wake(self) -> None:
        """Have it look into the outbox; any thread may call it."""
        with suppress(Exception):  # the loop has just ended
            self._connection.ioloop.add_callback_threadsafe(self._publish)

    def end(self) -> None:
        """Have it end; any thread may call it."""
        with suppress(Exception):
            self._connection.ioloop.add_callback_threadsafe(self._end)

    def _end(self) -> None:
        """Close the connection, or else leave that to who opens it: `pika` cannot break off what it has begun."""
        self._is_to_end = True
        if self._connection.is_open:
            self._connection.close()

    def _give_up(self, trouble: Trouble) -> None:
        self._trouble = self._trouble or trouble
        self._end()

    def _on_lost(self, _connection: Any, error: BaseException) -> None:
        """End: the connection could not be opened, or has been closed."""
        self.is_ready = False
        if self._trouble is None:
            self._trouble = trouble_of(self._broker, error)
        self._connection.ioloop.call_later(_TIDY_SECONDS, self._connection.ioloop.stop)

    def _on_open(self, connection: Any) -> None:
        if self._is_to_end:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_returned)
        self._declare(0)

    def _on_channel_closed(self, _channel: Any, error: BaseException) -> None:
        code, said = getattr(error, "reply_code", 0), getattr(error, "reply_text", str(error))
        if not self._connection.is_closing and not self._connection.is_closed:
            self._give_up(refusal(self._broker, code, said))

    def _declare(self, number: int, _answer: Any = None) -> None:
        """Do one declaration after another, and then begin to publish."""
        declarations = self._broker.declarations()
        if number < len(declarations):
            method, arguments = declarations[number]
            getattr(self._channel, method)(**arguments, callback=partial(self._declare, number + 1))
        else:
            self._channel.confirm_delivery(self._on_confirmed, callback=self._on_ready)

    def _on_ready(self, _answer: Any) -> None:
        self.is_ready = True
        self._tell(None)
        self._publish()

    def _publish(self) -> None:
        """Publish what waits, as far as it may be under way."""
        if not self.is_ready or self._is_blocked or not self._channel.is_open:
            return
        while len(self._under_way) < _MESSAGES and self._bytes < _BYTES:
            message = self._outbox.take()
            if message is None:
                break
            self._tag += 1
            self._under_way[self._tag] = message
            self._bytes += len(message.body)
            self._channel.basic_publish(
                self._broker.exchange, message.routing_key, message.body, self._properties(message), mandatory=True
            )
        if self._under_way and self._watch is None and not self._is_silent:
            self._watch = self._connection.ioloop.call_later(_SILENCE_SECONDS, self._on_silence)

    def _on_silence(self) -> None:
        """Say that nothing is confirmed; the connection stays, for another would not be answered either."""
        self._watch, self._is_silent = None, True
        self._tell(not_confirmed(self._broker))

    def _properties(self, message: Message) -> Any:
        from pika import BasicProperties

        # Only what is alone on the connection is surely sent now.
        sent = {"sent": time.time_ns() // 1000, "host": platform.node()} if len(self._under_way) == 1 else {}
        about = {"schema": SCHEMA, "run_id": message.run_id, "rows": message.rows, "made": message.made}
        return BasicProperties(
            content_type=message.content_type,
            delivery_mode=_PERSISTENT,
            type=message.table,
            message_id=message.message_id,
            app_id=self._service,
            headers={**sent, **about, "crc32": zlib.crc32(message.body)},
        )

    def _on_confirmed(self, frame: Any) -> None:
        """Take note of what has arrived, and of what the broker did not take."""
        if self._watch is not None:
            self._connection.ioloop.remove_timeout(self._watch)
            self._watch = None
        if self._is_silent:
            self._is_silent = False
            self._tell(None)
        method = frame.method
        is_ack = type(method).__name__ == "Ack"
        last = method.delivery_tag
        tags = [tag for tag in self._under_way if tag <= last] if method.multiple else [last]
        arrived = []
        for tag in tags:
            message = self._under_way.pop(tag)
            self._bytes -= len(message.body)
            if not is_ack:
                self._give_up(nacked(self._broker))
            elif message.message_id in self._returned:
                self._give_up(unroutable(self._broker))
            else:
                arrived.append(message.number)
        if arrived:
            self.has_published = True
            self._outbox.confirm(arrived)
        self._publish()

    def _on_returned(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        """Take note that no queue takes a message; its confirmation follows."""
        self._returned.add(properties.message_id)

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._is_blocked = True
        if self._watch is not None:  # what is under way may wait for as long as it takes
            self._connection.ioloop.remove_timeout(self._watch)
            self._watch = None
        self._tell(blocked(self._broker, frame.method.reason))

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self._is_blocked = False
        self._tell(None)
        self._publish()
