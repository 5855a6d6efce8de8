"""Publishing to a real RabbitMQ that is killed, cut off, full, or not what it should be."""

from __future__ import annotations

import json
import logging
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from platform import node
from typing import Any

import pytest

from rattle.events import Event, of_telemetry
from rattle.telemetry import session
from rattle.telemetry.broker import Broker, find_broker
from rattle.telemetry.broker_sink import BrokerSink
from tests.rabbitmq import PASSWORD, POWERLESS, USER, RabbitMQ, needs_rabbitmq

pytestmark = needs_rabbitmq


def broker_at(url: str, exchange: str, **others: Any) -> Broker:
    broker = find_broker(url, {}, exchange=exchange, **others)
    assert broker is not None
    return broker


def sink_to(broker: Broker, folder: Path) -> BrokerSink:
    return BrokerSink(broker, folder / "outbox" / "test", 2**30, service="test", experiment="mine", run_id="run")


def wait_for(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record.msg for record in caplog.records if isinstance(record.msg, Event)]
    return [f"broker_{one.kind}" if isinstance(one, of_telemetry.BrokerTrouble) else one.name for one in told]


def rows_of(messages: list[tuple[Any, bytes]], table: str) -> list[dict[str, Any]]:
    """Return a table's rows, each once, as a store that knows them by the identity of their messages' rows."""
    lines = [line for properties, body in messages if properties.type == table for line in body.splitlines()]
    return [json.loads(line) for line in dict.fromkeys(lines)]


def test_messages_say_what_they_hold(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    broker = broker_at(rabbitmq.url(), exchange)
    began = time.time_ns() // 1000
    sink = sink_to(broker, tmp_path)
    sink.cut_back({"update": 0})
    sink.append("episodes", [{"episode_id": 1}, {"episode_id": 2}], made_by=7)
    sink.append("logs", [{"event": "a", "level": "INFO"}, {"event": "b", "level": "DEBUG"}])
    sink.append("runs", [{"run_id": "run"}])
    sink.close()
    messages = rabbitmq.messages(broker.queue)
    assert Counter(properties.type for properties, _body in messages) == {
        "lives": 1,
        "episodes": 1,
        "logs": 2,
        "runs": 1,
    }
    assert rows_of(messages, "episodes") == [
        {"episode_id": 1, "life": 0, "made_by": 7},
        {"episode_id": 2, "life": 0, "made_by": 7},
    ]
    assert rows_of(messages, "lives")[0].keys() == {"run_id", "life", "after_update", "time"}
    assert "written" in rows_of(messages, "runs")[0]
    logs = rows_of(messages, "logs")
    assert sorted(row["number"] for row in logs) == [0, 1]
    assert len({row["writer"] for row in logs}) == 1
    for properties, body in messages:
        assert properties.headers["rows"] == len(body.splitlines())
        assert properties.headers["crc32"] == zlib.crc32(body)
        assert (properties.headers["schema"], properties.headers["run_id"]) == (1, "run")
        assert (properties.app_id, properties.delivery_mode) == ("test", 2)
        assert properties.content_type == "application/x-ndjson"
        assert began <= properties.headers["made"] <= properties.headers.get("sent", began + 10**8) < began + 10**9
    assert {properties.headers["host"] for properties, _body in messages if "sent" in properties.headers} == {node()}
    assert len({properties.message_id for properties, _body in messages}) == 5


def test_nothing_is_lost_when_connections_are_cut_and_the_broker_is_killed(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    broker = broker_at(rabbitmq.url(), exchange)
    messages = []
    with closing(sink_to(broker, tmp_path)) as sink:
        for number in range(20_000):
            sink.append("updates", [{"policy_version": number}], made_by=number)
            sink.append("logs", [{"event": "e", "level": "INFO"}])
            if number % 4000 == 2000:
                rabbitmq.gate.cut()
            if number % 100 == 0:
                time.sleep(0.01)
            if number == 10_000:
                rabbitmq.kill()
            if number == 15_000:
                rabbitmq.start()
        sink.mark()[1]()
        wait_for(lambda: sink.waiting == 0)
        messages = rabbitmq.messages(broker.queue)
    assert [row["policy_version"] for row in rows_of(messages, "updates")] == list(range(20_000))
    assert [row["number"] for row in rows_of(messages, "logs") if row["event"] == "e"] == list(range(20_000))


@pytest.mark.parametrize("what", ["password", "user", "vhost", "tls", "garbage", "no_answer", "away", "not_declared"])
def test_each_trouble_is_told_once_and_rows_are_kept(
    what: str,
    rabbitmq: RabbitMQ,
    exchange: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    request.addfinalizer(silent.close)
    if what == "no_answer":
        request.getfixturevalue("monkeypatch").setattr("rattle.telemetry.broker._SECONDS", 0.2)
    url, event, others = {
        "password": (rabbitmq.url("/", USER, "wrong"), "broker_credentials", {}),
        "user": (rabbitmq.url(user=POWERLESS), "broker_no_permission", {}),
        "vhost": (rabbitmq.url("not there"), "broker_vhost", {}),
        "tls": (rabbitmq.url(tls=True), "broker_tls", {}),
        "garbage": (f"amqp://localhost:{rabbitmq.epmd_port}", "broker_garbage", {}),
        "no_answer": (f"amqp://127.0.0.1:{silent.getsockname()[1]}", "broker_no_answer", {}),
        "away": ("amqp://localhost:1", "broker_away", {}),
        "not_declared": (rabbitmq.url(), "broker_not_declared", {"declare": False}),
    }[what]
    caplog.set_level(logging.WARNING)
    sink = sink_to(broker_at(url, exchange, **others), tmp_path)
    sink.append("updates", [{"policy_version": 1}])
    wait_for(lambda: sink.tries > 3)
    sink.close()
    assert events(caplog) == [event, "rows_left"]
    assert PASSWORD not in caplog.text
    sink = sink_to(broker_at(rabbitmq.url(), exchange), tmp_path)
    sink.close()
    assert len(rows_of(rabbitmq.messages(f"{exchange}.rows"), "updates")) == 1


def test_a_queue_that_somebody_has_declared_otherwise_is_told_and_used_when_it_is_gone(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_at(rabbitmq.url(), exchange)
    with closing(rabbitmq.connect()) as connection:
        channel = connection.channel()
        channel.queue_declare(broker.queue)
        with closing(sink_to(broker, tmp_path)) as sink:
            sink.append("updates", [{"policy_version": 1}])
            wait_for(lambda: "broker_declared_otherwise" in events(caplog))
            assert sink.waiting == 1
            channel.queue_delete(broker.queue)
            wait_for(lambda: sink.waiting == 0)
    assert events(caplog) == ["broker_declared_otherwise", "broker_back"]
    assert len(rows_of(rabbitmq.messages(broker.queue), "updates")) == 1


def test_queues_of_an_operator_are_used_as_they_are(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_at(rabbitmq.url(), exchange, declare=False)
    with closing(rabbitmq.connect()) as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange, "topic")
        with closing(sink_to(broker, tmp_path)) as sink:
            sink.append("updates", [{"policy_version": 1}])
            wait_for(lambda: "broker_unroutable" in events(caplog))
            channel.queue_declare(f"{exchange}-own")
            channel.queue_bind(f"{exchange}-own", exchange, "mine.updates")
            wait_for(lambda: sink.waiting == 0)
    assert len(rabbitmq.messages(f"{exchange}-own")) == 1


def test_a_broker_without_room_is_told_and_waited_for(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_at(rabbitmq.url(), exchange)
    with closing(sink_to(broker, tmp_path)) as sink:
        sink.append("updates", [{"policy_version": 1}])
        wait_for(lambda: sink.waiting == 0)
        with rabbitmq.full_disk():
            sink.append("updates", [{"policy_version": 2}])
            wait_for(lambda: "broker_blocked" in events(caplog))
            sink.append("updates", [{"policy_version": 3}])
            assert sink.waiting > 0
        wait_for(lambda: sink.waiting == 0)
    assert events(caplog) == ["broker_blocked", "broker_back"]
    rows = rows_of(rabbitmq.messages(broker.queue), "updates")
    assert [row["policy_version"] for row in rows] == [1, 2, 3]


def test_tls_is_used_with_the_authority_that_is_named(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    broker = broker_at(rabbitmq.url(tls=True), exchange, ca_file=str(rabbitmq.authority))
    with closing(sink_to(broker, tmp_path)) as sink:
        sink.append("updates", [{"policy_version": 1}])
        wait_for(lambda: sink.waiting == 0)


def test_logs_that_found_no_room_are_counted_and_seen_in_their_numbers(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_at(rabbitmq.url(), exchange)
    rabbitmq.gate.is_open = False
    try:
        sink = BrokerSink(broker, tmp_path / "outbox" / "test", 2**18, service="test", experiment="mine", run_id="run")
        for number in range(3000):
            sink.append("logs", [{"event": "e", "level": "INFO", "fields": "x" * 500}])
            if number % 100 == 0:
                sink.append("episodes", [{"episode_id": number}])
                sink.mark()[1]()
    finally:
        rabbitmq.gate.is_open = True
    wait_for(lambda: sink.waiting == 0)
    sink.close()
    messages = rabbitmq.messages(broker.queue)
    logs = [row for row in rows_of(messages, "logs") if row["event"] == "e"]
    dropped = [record.msg for record in caplog.records if isinstance(record.msg, of_telemetry.LogsDropped)][-1]
    assert 0 < len(logs) < 3000
    assert dropped.rows == 3000 - len(logs)
    assert [row["number"] for row in logs] == list(range(3000))[-len(logs) :]
    assert [row["episode_id"] for row in rows_of(messages, "episodes")] == list(range(0, 3000, 100))


def test_a_broker_that_confirms_nothing_is_told_and_waited_for(
    rabbitmq: RabbitMQ,
    exchange: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "_SILENCE_SECONDS", 0.3)
    broker = broker_at(rabbitmq.url(), exchange)
    with closing(sink_to(broker, tmp_path)) as sink:
        sink.append("updates", [{"policy_version": 1}])
        wait_for(lambda: sink.waiting == 0)
        with rabbitmq.stopped():
            sink.append("updates", [{"policy_version": 2}])
            wait_for(lambda: "broker_not_confirmed" in events(caplog))
        wait_for(lambda: sink.waiting == 0)
        wait_for(lambda: events(caplog)[-1] == "broker_back")


def test_rows_reach_the_broker_although_the_disk_of_the_outbox_is_full(
    rabbitmq: RabbitMQ, exchange: str, tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_at(rabbitmq.url(), exchange)
    rabbitmq.gate.is_open = False
    try:
        sink = sink_to(broker, tiny_disk)
        for number in range(1000):
            sink.append("episodes", [{"episode_id": number, "text": "x" * 1000}])
        wait_for(lambda: "outbox_not_written" in events(caplog))
    finally:
        rabbitmq.gate.is_open = True
    sink.mark()[1]()
    wait_for(lambda: sink.waiting == 0)
    sink.close()
    rows = rows_of(rabbitmq.messages(broker.queue), "episodes")
    assert [row["episode_id"] for row in rows] == list(range(1000))
