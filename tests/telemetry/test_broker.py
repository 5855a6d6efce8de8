"""Which broker settings and environment variables name."""

from __future__ import annotations

import pytest

from rattle.addresses import AMQP, CREDENTIALS_VARIABLE, keep_credentials
from rattle.redaction import redact
from rattle.settings.services import TelemetrySection
from rattle.telemetry import log_publishing
from rattle.telemetry.broker import Broker, find_broker
from rattle.telemetry.errors import TelemetryError
from rattle.telemetry.troubles import refusal


def test_without_a_url_and_variables_there_is_none() -> None:
    assert find_broker(None, {}) is None
    assert find_broker(None, {"ENABLE_RABBITMQ": "false", "RABBITMQ_HOST": "there"}) is None


def test_variables_name_a_broker() -> None:
    broker = find_broker(
        None,
        {
            "ENABLE_RABBITMQ": "true",
            "RABBITMQ_HOST": "there",
            "RABBITMQ_PORT": "1234",
            "RABBITMQ_USERNAME": "me",
            "RABBITMQ_PASSWORD": "p@ss/word",
            "RABBITMQ_VHOST": "a/b",
            "RABBITMQ_EXCHANGE": "events",
            "RABBITMQ_ROUTING_KEY": "mine",
            "RABBITMQ_DECLARE": "no",
        },
    )
    assert broker is not None
    assert not broker.declare
    assert (broker.host, broker.port, broker.vhost) == ("there", 1234, "a/b")
    assert (broker.user, broker.password) == ("me", "p@ss/word")
    assert (broker.exchange, broker.queue, broker.routing_key) == ("events", "events.rows", "mine")
    assert "p@ss" not in repr(broker)


def test_the_url_of_the_settings_wins_and_variables_give_its_credentials() -> None:
    environ = {"ENABLE_RABBITMQ": "1", "RABBITMQ_HOST": "there", "RABBITMQ_USERNAME": "me", "RABBITMQ_PASSWORD": "x"}
    broker = find_broker("amqps://here/%2Fmine", environ, exchange="e")
    assert broker is not None
    assert (broker.url, broker.port, broker.tls) == ("amqps://here/%2Fmine", 5671, True)
    assert (broker.vhost, broker.user, broker.password) == ("/mine", "me", "x")


def test_what_settings_say_of_a_broker_holds_for_the_one_that_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_RABBITMQ", "true")
    brokers: list[Broker] = []
    monkeypatch.setattr(log_publishing, "publish_logs", lambda broker, *_: brokers.append(broker))
    TelemetrySection().publish_logs(None)
    TelemetrySection(declare=False).publish_logs(None)
    assert [(broker.host, broker.declare) for broker in brokers] == [("localhost", False)]


def test_credentials_of_a_url_are_kept_apart_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_credentials("amqp://me:secret@here:1/v", AMQP) == "amqp://here:1/v"
    kept = find_broker("amqp://here:1/v", {})
    monkeypatch.setenv(CREDENTIALS_VARIABLE, "amqp://you:hidden@there:1")
    told = find_broker("amqp://there:1/v", {})
    unknown = find_broker("amqp://elsewhere", {})
    assert kept is not None
    assert told is not None
    assert unknown is not None
    assert (kept.user, kept.password) == ("me", "secret")
    assert (told.user, told.password) == ("you", "hidden")
    assert (unknown.user, unknown.password, unknown.vhost) == ("guest", "guest", "/")


@pytest.mark.parametrize(
    ("url", "environ", "said"),
    [
        ("http://here", {}, "'http://here' is no server's address: write it as amqp://HOST:PORT"),
        ("amqp://me:secret@", {}, "'amqp://' is no server's address: write it as amqp://HOST:PORT"),
        ("amqp://me:secret@here:port", {}, "'amqp://here:port' has a port that is not a number from 0 to 65535"),
        (None, {"ENABLE_RABBITMQ": "perhaps"}, "ENABLE_RABBITMQ is 'perhaps': write true or false"),
        (
            None,
            {"ENABLE_RABBITMQ": "yes", "RABBITMQ_DECLARE": "ask"},
            "RABBITMQ_DECLARE is 'ask': write true or false",
        ),
        (
            None,
            {"ENABLE_RABBITMQ": "yes", "RABBITMQ_PORT": "99999"},
            "RABBITMQ_PORT is '99999': write a number from 1 to 65535",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(url: str | None, environ: dict[str, str], said: str) -> None:
    with pytest.raises(TelemetryError) as wrong:
        find_broker(url, environ)
    assert str(wrong.value) == said


def test_what_is_said_of_credentials_is_not_taken_for_a_secret() -> None:
    broker = find_broker("amqp://here/", {})
    assert broker is not None
    text = refusal(broker, 403, "ACCESS_REFUSED - Login was refused").text
    assert redact(text) == text
