"""What a broker or a connection to it can lack, each kind with a name and one line of advice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from rattle.addresses import CREDENTIALS_VARIABLE, tls_problem
from rattle.telemetry.broker import Broker
from rattle.text import one_line

#: What the event `broker_trouble` may say; docs/telemetry.md explains each.
Kind = Literal[
    "away",
    "blocked",
    "credentials",
    "declared_otherwise",
    "garbage",
    "no_answer",
    "no_permission",
    "not_confirmed",
    "not_declared",
    "not_stored",
    "settings",
    "tls",
    "too_large",
    "unroutable",
    "vhost",
]


class Trouble(NamedTuple):
    """Why nothing is published now. It is told once, however long it lasts."""

    kind: Kind
    text: str


def trouble_of(broker: Broker, error: BaseException) -> Trouble:
    """Return what kept a connection from being made, or ended it, for an error that `pika` reports."""
    causes = list(_causes(error))
    if said := next(filter(None, (tls_problem(broker.url, cause) for cause in causes)), None):
        return Trouble("tls", said)
    described = (_describe(broker, cause) for cause in causes)
    lost = Trouble("away", one_line(f"the connection to the broker {broker.url} is lost: {error}", 300))
    return next(filter(None, described), lost)


def _describe(broker: Broker, cause: BaseException) -> Trouble | None:
    """Return what one of the errors that wrap each other says, None where it says nothing by itself."""
    import pika.exceptions as known
    from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

    if isinstance(cause, known.ConnectionClosedByBroker | known.ChannelClosedByBroker):
        return refusal(broker, cause.reply_code, cause.reply_text)
    said_by_kind = (
        (known.ProbableAuthenticationError | known.AuthenticationError, _wrong_credentials),
        (known.ProbableAccessDeniedError, _no_vhost),
        (known.IncompatibleProtocolError | known.ProtocolSyntaxError | known.UnexpectedFrameError, _garbage),
    )
    for error, say in said_by_kind:
        if isinstance(cause, error):
            return say(broker)
    if isinstance(cause, AMQPConnectorStackTimeout | known.ConnectionOpenAborted):
        return Trouble("no_answer", f"{broker.url} takes connections and does not answer as a broker does")
    if isinstance(cause, known.AMQPHeartbeatTimeout):
        return Trouble("away", f"the broker {broker.url} has not been heard for too long")
    if isinstance(cause, socket.gaierror):
        return Trouble("away", f"the broker's host {broker.host} is not known: {cause.strerror}")
    if isinstance(cause, OSError):
        return Trouble("away", f"the broker {broker.url} cannot be reached: {cause.strerror or cause}")
    return None


def refusal(broker: Broker, code: int, said: str) -> Trouble:
    """Return what a broker that closes a connection or a channel complains of."""
    said = one_line(said, 300)
    if code == 403 and "login" in said.lower():
        return _wrong_credentials(broker)
    if code == 403:
        return Trouble("no_permission", f"the broker {broker.url} does not allow user '{broker.user}' to write: {said}")
    if code == 404:
        return Trouble(
            "not_declared",
            f"the broker {broker.url} lacks what rows are published to ({said}): have its operator make it, or set "
            "telemetry.declare to true",
        )
    if code == 406 and "message size" in said:
        return Trouble("too_large", f"a message is larger than the broker {broker.url} takes ({said}): raise its limit")
    if code == 406 and "timed out" not in said:  # as an acknowledgement may be
        return Trouble(
            "declared_otherwise",
            f"somebody has declared an exchange or a queue of {broker.url} in another way ({said}): delete it there, "
            "choose another telemetry.exchange, or set telemetry.declare to false and use it as it is",
        )
    if code == 530:
        return _no_vhost(broker)
    if code in (501, 502, 503, 505):
        return _garbage(broker)
    return Trouble("away", f"the broker {broker.url} has ended the connection: {code} {said}")


def blocked(broker: Broker, said: Any) -> Trouble:
    """Return that a broker takes nothing for now."""
    reason = one_line(said.decode() if isinstance(said, bytes) else said, 200)
    return Trouble("blocked", f"the broker {broker.url} takes nothing until its operator has made room: {reason}")


def unroutable(broker: Broker) -> Trouble:
    """Return that no queue takes what is published."""
    return Trouble(
        "unroutable",
        f"no queue is bound to the exchange '{broker.exchange}' of {broker.url} for these rows: have its operator "
        f"bind one with the key #, or set telemetry.declare to true",
    )


def nacked(broker: Broker) -> Trouble:
    """Return that the broker could not store what was published."""
    return Trouble("not_stored", f"the broker {broker.url} could not store what was published: look into its log")


def not_confirmed(broker: Broker) -> Trouble:
    """Return that a broker takes messages, and does not say that it has stored them."""
    said = "takes messages and has confirmed none for a minute: look into its log, a queue may have no leader"
    return Trouble("not_confirmed", f"the broker {broker.url} {said}")


def _wrong_credentials(broker: Broker) -> Trouble:
    return Trouble(
        "credentials",
        f"the broker {broker.url} does not accept this password for user '{broker.user}': put both into the URL, "
        f"RABBITMQ_USERNAME and RABBITMQ_PASSWORD, or a URL with both into {CREDENTIALS_VARIABLE}",
    )


def _no_vhost(broker: Broker) -> Trouble:
    return Trouble(
        "vhost",
        f"the broker {broker.url} has no virtual host '{broker.vhost}', or none for user '{broker.user}': have its "
        "operator make it, or name another at the end of the URL (%2F is '/')",
    )


def _garbage(broker: Broker) -> Trouble:
    return Trouble(
        "garbage",
        f"what answers at {broker.url} does not speak AMQP 0-9-1: it has not started yet, or is not RabbitMQ's port",
    )


def _causes(error: Any) -> Iterator[BaseException]:
    """Yield an error and those that it wraps, as connectors of `pika` do."""
    if isinstance(error, BaseException):
        yield error
        for wrapped in (*getattr(error, "exceptions", ()), getattr(error, "exception", None), error.__cause__):
            yield from _causes(wrapped)
        for argument in error.args:
            yield from _causes(argument)
