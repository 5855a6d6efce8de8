"""Which broker rows go to: read from settings and from environment variables, and what is made there."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from rattle.addresses import AMQP, parse_address, without_credentials
from rattle.analytics.extras import require
from rattle.telemetry.errors import TelemetryError

if TYPE_CHECKING:
    import pika

#: Variables that name a broker where the settings name none, in addition to those of its credentials.
ENABLE, HOST, PORT, VHOST = "ENABLE_RABBITMQ", "RABBITMQ_HOST", "RABBITMQ_PORT", "RABBITMQ_VHOST"
EXCHANGE, ROUTING_KEY, DECLARE = "RABBITMQ_EXCHANGE", "RABBITMQ_ROUTING_KEY", "RABBITMQ_DECLARE"
USERNAME, PASSWORD = "RABBITMQ_USERNAME", "RABBITMQ_PASSWORD"
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})
_SECONDS: Final = 10.0  # for each part of connecting
_HEARTBEAT: Final = 30  # seconds

#: What is done at the broker, in this order: the methods of a channel of `pika`, and their arguments.
Declarations = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ broker, and the exchange there that rows are published to."""

    url: str  # without credentials
    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    tls: bool = False
    exchange: str = "rattle"
    declare: bool = True  # false: exchange and queues were made by an operator
    routing_key: str | None = None  # its first part; None: the experiment's name
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def queue(self) -> str:
        """Return the name of the queue that rows wait in."""
        return f"{self.exchange}.rows"

    @property
    def dead(self) -> str:
        """Return the name of the exchange, and of the queue, for messages that nobody can read."""
        return f"{self.exchange}.dead"

    def parameters(self, name: str) -> pika.ConnectionParameters:
        """Return what `pika` connects with; `name` is what operators see. Raises a RattleError, also without pika."""
        require("tenacity", "telemetry", "telemetry.broker")
        pika = require("pika", "telemetry", "telemetry.broker")
        logging.getLogger("pika").setLevel(logging.CRITICAL + 1)  # what it says of each try, those who try tell once
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
            ssl_options=pika.SSLOptions(self._tls_context(), self.host) if self.tls else None,
            heartbeat=_HEARTBEAT,
            socket_timeout=_SECONDS,
            stack_timeout=1.5 * _SECONDS,
            client_properties={"connection_name": name},
        )

    def declarations(self) -> Declarations:
        """Return what makes the exchanges and queues, or checks that rows have where to go."""
        if not self.declare:
            return [("exchange_declare", {"exchange": self.exchange, "passive": True})]
        durable, quorum = {"durable": True}, {"x-queue-type": "quorum"}
        dead_letters = {**quorum, "x-dead-letter-exchange": self.dead}
        return [
            ("exchange_declare", {"exchange": self.dead, "exchange_type": "fanout", **durable}),
            ("queue_declare", {"queue": self.dead, "arguments": quorum, **durable}),
            ("queue_bind", {"queue": self.dead, "exchange": self.dead}),
            ("exchange_declare", {"exchange": self.exchange, "exchange_type": "topic", **durable}),
            ("queue_declare", {"queue": self.queue, "arguments": dead_letters, **durable}),
            ("queue_bind", {"queue": self.queue, "exchange": self.exchange, "routing_key": "#"}),
        ]

    def _tls_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(file for file in (self.ca_file, self.cert_file, self.key_file) if file)
            raise TelemetryError(f"telemetry: cannot read the certificates ({files}): {error.strerror}") from None
        return context


def find_broker(url: str | None, environ: Mapping[str, str] = os.environ, **others: Any) -> Broker | None:
    """Return the broker of `url`, else the one that environment variables name; None where neither does.

    `others` are further fields of `Broker`. Credentials are those of the URL, the ones known of it, or those of
    RABBITMQ_USERNAME and RABBITMQ_PASSWORD. Raises TelemetryError.
    """
    if url is None:
        url = _url_of(environ)
        if url is None:
            return None
        named = {"exchange": environ.get(EXCHANGE), "routing_key": environ.get(ROUTING_KEY)}
        others = {**others, **{name: value for name, value in named.items() if value}}
        if environ.get(DECLARE):
            others["declare"] = _says_yes(DECLARE, environ)
    try:
        address = parse_address(url, AMQP)
    except ValueError as error:
        raise TelemetryError(str(error)) from None
    user = address.user or environ.get(USERNAME) or "guest"
    password = address.password or environ.get(PASSWORD) or "guest"
    vhost = unquote(address.prefix.removeprefix("/")) or "/"
    return Broker(address.url, address.host, address.port, vhost, user, password, address.tls, **others)


def _says_yes(name: str, environ: Mapping[str, str]) -> bool:
    """Return whether a variable is set to true."""
    said = environ.get(name, "").strip().lower()
    if said not in _YES | _NO:
        raise TelemetryError(f"{name} is '{without_credentials(said)}': write true or false")
    return said in _YES


def _url_of(environ: Mapping[str, str]) -> str | None:
    """Return the URL, without credentials, of the broker that environment variables name, None where they do not."""
    if not _says_yes(ENABLE, environ):
        return None
    host, port = environ.get(HOST) or "localhost", environ.get(PORT) or "5672"
    host = f"[{host}]" if ":" in host else host
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise TelemetryError(f"{PORT} is '{without_credentials(port)}': write a number from 1 to 65535")
    return f"amqp://{host}:{port}/{quote(environ.get(VHOST) or '/', safe='')}"
