"""Messages and batches, without a broker and a store."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from rattle.services.ingest.messages import Delivery, MessageBatch, by_table
from rattle.services.ingest.taking import Taking
from rattle.settings.services import IngestSection
from rattle.telemetry.broker import Broker

BROKER = Broker("amqp://localhost", "localhost", 5672, "/", "guest", "guest")
LINES = "application/x-ndjson"
PARQUET = "application/vnd.apache.parquet"


def delivery(
    tag: int = 1, table: str | None = "logs", kind: str | None = LINES, body: bytes = b"{}\n", **headers: Any
) -> Delivery:
    known = {"schema": 1, "rows": body.count(b"\n"), **headers}
    properties = SimpleNamespace(type=table, content_type=kind, message_id=f"m{tag}", headers=known)
    return Delivery(tag, f"snake.{table}", properties, body)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (delivery(), None),
        (delivery(table="lives"), None),
        (delivery(table="steps", kind=PARQUET), None),
        (delivery(table=None), r"its type is not given, which is none of the tables runs, updates"),
        (delivery(table="stored_logs; DROP"), r"its type is 'stored_logs; DROP'"),
        (delivery(kind="text/plain"), r"its content type is 'text/plain': known are application/x-ndjson and"),
        (delivery(kind=None), r"its content type is not given"),
        (delivery(crc32=zlib.crc32(b"{}\n")), None),
        (delivery(crc32=zlib.crc32(b"{}\n") ^ 1), "does not match its header 'crc32'"),
        (delivery(schema=2), r"its header 'schema' is '2', and this version of Rattle reads 1"),
        (delivery()._replace(properties=SimpleNamespace(type="logs", content_type=LINES, headers=None)), "not given"),
    ],
)
def test_what_can_go_into_no_store_is_said(message: Delivery, said: str | None) -> None:
    problem = message.problem()
    assert (problem is None) if said is None else said in (problem or "")


@pytest.mark.parametrize(("said", "rows"), [(7, 7), (0, 0), (-5, 3), ("7", 3), (None, 3), (2.5, 3)])
def test_rows_are_those_that_the_publisher_says_or_the_lines(said: object, rows: int) -> None:
    assert delivery(body=b"{}\n{}\n", rows=said).rows == rows


def test_a_batch_is_due_when_it_is_full_or_old() -> None:
    batch = MessageBatch(most_rows=100, most_messages=3, most_seconds=1.0)
    assert batch.due_in(5.0) == float("inf")
    batch.add(delivery(1), 10.0)
    batch.add(delivery(2), 10.9)
    assert batch.due_in(10.25) == 0.75
    assert batch.due_in(11.5) == 0.0
    batch.add(delivery(3), 10.9)
    assert batch.due_in(10.9) == 0.0
    assert [one.tag for one in batch.take()] == [1, 2, 3]
    assert batch.due_in(12.0) == float("inf")
    batch.add(delivery(4, rows=100), 20.0)
    assert batch.due_in(20.0) == 0.0


def test_a_batch_is_as_old_as_its_oldest_message() -> None:
    batch = MessageBatch(100, 100, 1.0)
    assert batch.oldest == float("inf")
    for tag, made in enumerate((7_500_000, 5_500_000, None, "1", 0)):
        batch.add(delivery(tag, made=made), 1.0)
    assert batch.oldest == 5.5
    batch.take()
    assert batch.oldest == float("inf")


def test_a_batch_in_a_hurry_is_due_unless_it_is_empty() -> None:
    batch = MessageBatch(100, 100, 60.0)
    batch.hurry()
    assert batch.due_in(1.0) == float("inf")
    batch.add(delivery(), 2.0)
    assert batch.due_in(2.0) == 0.0


def test_messages_are_stored_by_table_in_their_order() -> None:
    mixed = [delivery(1), delivery(2, "steps", PARQUET), delivery(3), delivery(4, "steps")]
    groups = by_table(mixed)
    assert {key: [one.tag for one in some] for key, some in groups.items()} == {
        ("logs", "JSONEachRow"): [1, 3],
        ("steps", "Parquet"): [2],
        ("steps", "JSONEachRow"): [4],
    }


def test_a_damaged_message_is_asked_for_once_more(caplog: pytest.LogCaptureFixture) -> None:
    connection = MagicMock()
    taking = Taking(connection, BROKER, IngestSection(), MagicMock())
    damaged = delivery(crc32=1)
    for tag, redelivered in ((1, False), (2, True)):
        method = SimpleNamespace(delivery_tag=tag, routing_key="", redelivered=redelivered)
        taking._on_message(None, method, damaged.properties, damaged.body)
    connection.channel().basic_nack.assert_called_once_with(1, requeue=True)
    assert [message.tag for message in taking._batch.take()] == [2]
    assert caplog.text.count("its body does not match its checksum") == 1
