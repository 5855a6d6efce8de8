"""What is wrong with a broker or a store is told once, while rows wait; they are stored when it is mended."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from rattle.analytics.store import SCHEMA_VERSION, Store
from rattle.events import Event
from rattle.services.ingest import taking as taking_module
from rattle.services.ingest.consumer import Consumer
from rattle.settings.services import IngestSection
from rattle.telemetry.broker import find_broker
from rattle.wire.problems import RequestError
from tests.rabbitmq import PASSWORD, USER, RabbitMQ, needs_rabbitmq
from tests.services.ingest.test_ingest import Publisher, count, publisher, url, wait_for

__all__ = ["publisher", "url"]

pytestmark = needs_rabbitmq


@contextmanager
def taking(broker_url: str, exchange: str, store_url: str) -> Iterator[Consumer]:
    """Rows are taken from a broker into a store."""
    broker = find_broker(broker_url, {}, exchange=exchange)
    assert broker is not None
    consumer = Consumer(broker, store_url, IngestSection(batch_seconds=0.1))
    consumer.start()
    try:
        yield consumer
    finally:
        consumer.stop()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was told of the store and the broker."""
    events = [record.msg for record in caplog.records if isinstance(record.msg, Event)]
    return [f"{event.name} {getattr(event, 'place', '')}" for event in events if event.name.startswith("ingest_")]


@pytest.mark.parametrize("what", ["password", "vhost", "tls", "garbage", "away"])
def test_a_broker_that_cannot_be_used_is_told_once(
    what: str, rabbitmq: RabbitMQ, exchange: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker_url, said = {
        "password": (rabbitmq.url("/", USER, "wrong"), "does not accept this password for user"),
        "vhost": (rabbitmq.url("not there"), "has no virtual host 'not there'"),
        "tls": (rabbitmq.url(tls=True), "the certificate of"),
        "garbage": (f"amqp://localhost:{rabbitmq.epmd_port}", "does not speak AMQP"),
        "away": ("amqp://localhost:1", "cannot be reached"),
    }[what]
    caplog.set_level(logging.INFO)
    with taking(broker_url, exchange, url) as consumer:
        wait_for(lambda: _failures(consumer, "broker") > 2)
        assert said in consumer.status()["broker_trouble"]
        with pytest.raises(RequestError, match=re.escape(said)):
            consumer.check_ready()
    assert told(caplog) == ["ingest_waits broker"]
    assert PASSWORD not in caplog.text


def test_a_queue_that_somebody_has_declared_otherwise_is_told_and_used_when_it_is_gone(
    rabbitmq: RabbitMQ, exchange: str, url: str, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with closing(rabbitmq.connect()) as connection:
        channel = connection.channel()
        channel.queue_delete(f"{exchange}.rows")
        channel.queue_declare(f"{exchange}.rows")
        with taking(rabbitmq.url(), exchange, url) as consumer:
            wait_for(lambda: _failures(consumer, "broker") > 2)
            assert "has declared an exchange or a queue" in consumer.status()["broker_trouble"]
            channel.queue_delete(f"{exchange}.rows")
            wait_for(lambda: consumer.status()["broker_trouble"] is None)
            publisher.logs(10)
            wait_for(lambda: count(url) == 10)
    assert told(caplog) == ["ingest_waits broker", "ingest_goes_on broker"]


def test_a_message_that_is_kept_finds_its_place_as_soon_as_there_is_one(
    rabbitmq: RabbitMQ, exchange: str, url: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker would end a connection that has had a message for long."""
    monkeypatch.setattr(taking_module, "_KEEP_SECONDS", 0.2)
    dead = f"{exchange}.dead"
    with closing(rabbitmq.connect()) as connection:
        channel = connection.channel()
        with taking(rabbitmq.url(), exchange, url) as consumer:
            wait_for(lambda: consumer.status()["broker_trouble"] is None)
            channel.exchange_delete(dead)
            publisher.publish("logs", b'{"no_column":1}\n')
            publisher.logs(10)
            wait_for(lambda: count(url) == 10)
            channel.exchange_declare(dead, "fanout", durable=True)
            channel.queue_bind(dead, dead)
            wait_for(lambda: consumer.status()["rejected"] == 1)
            assert _failures(consumer, "broker") == 0
    assert [body for _, body in rabbitmq.messages(dead)] == [b'{"no_column":1}\n']


def test_a_store_of_a_newer_schema_is_told_once_and_rows_wait(
    rabbitmq: RabbitMQ,
    exchange: str,
    url: str,
    store: Store,
    publisher: Publisher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    store.command(f"INSERT INTO schema_migrations (version) VALUES ({SCHEMA_VERSION + 1})")  # noqa: S608
    with taking(rabbitmq.url(), exchange, url) as consumer:
        wait_for(lambda: consumer.status()["broker_trouble"] is None)
        publisher.logs(10)
        wait_for(lambda: _failures(consumer, "store") > 2)
        assert f"has schema {SCHEMA_VERSION + 1}" in consumer.status()["store_trouble"]
        assert count(url, "stored_logs") == 0
        store.command(f"ALTER TABLE schema_migrations DELETE WHERE version > {SCHEMA_VERSION}")
        wait_for(lambda: count(url) == 10)
    assert told(caplog) == ["ingest_waits store", "ingest_goes_on store"]


def _failures(consumer: Consumer, place: str) -> float:
    """Return how often a broker or a store was tried in vain."""
    samples = [sample for metric in consumer.collect() for sample in metric.samples]
    of_place = [sample for sample in samples if sample.labels.get("place") == place]
    return sum(sample.value for sample in of_place if sample.name.endswith("failures_total"))
