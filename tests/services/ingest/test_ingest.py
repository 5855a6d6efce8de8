"""The service between a real broker and a real store: rows arrive once, and what cannot be stored is put aside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from secrets import token_hex
from signal import SIGTERM
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from rattle.analytics.store import Store, create_tables, open_store
from tests.clickhouse import ClickHouse
from tests.processes import ServiceProcess
from tests.rabbitmq import PASSWORD, USER, RabbitMQ, needs_rabbitmq
from tests.services.measured import check_described

pytestmark = needs_rabbitmq


@pytest.fixture
def url(store: Store, database: str) -> str:
    """The URL of `store`."""
    return database


@pytest.fixture
def named(rabbitmq: RabbitMQ, exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the broker as containers do."""
    for name, value in {
        "ENABLE_RABBITMQ": "true",
        "RABBITMQ_HOST": "localhost",
        "RABBITMQ_PORT": str(rabbitmq.gate.port),
        "RABBITMQ_USERNAME": USER,
        "RABBITMQ_PASSWORD": PASSWORD,
        "RABBITMQ_EXCHANGE": exchange,
    }.items():
        monkeypatch.setenv(name, value)


class Publisher:
    """Publishes messages as the sink does, and counts their rows."""

    def __init__(self, connection: Any, exchange: str) -> None:
        self._channel = connection.channel()
        self._channel.confirm_delivery()
        self._exchange = exchange
        self.rows = 0

    def logs(self, rows: int, *, age: float = 0.0) -> None:
        """Publish lines of the log, in a message that has waited for so many seconds."""
        first, self.rows = self.rows, self.rows + rows
        lines = (
            {"time": "2026-01-02T03:04:05.678Z", "level": "INFO", "run_id": "r", "writer": "w", "number": number}
            for number in range(first, self.rows)
        )
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        made = round((time.time() - age) * 1e6)
        self.publish("logs", body, headers={"schema": 1, "run_id": "r", "rows": rows, "made": made})

    def publish(self, table: str, body: bytes, **known: Any) -> None:
        import pika

        properties = pika.BasicProperties(
            **{
                "type": table,
                "content_type": "application/x-ndjson",
                "message_id": token_hex(8),
                "delivery_mode": 2,
                "headers": {"schema": 1, "run_id": "r", "rows": body.count(b"\n")},
                **known,
            }
        )
        self._channel.basic_publish(self._exchange, f"snake.{table}", body, properties, mandatory=True)


@pytest.fixture
def publisher(rabbitmq: RabbitMQ, exchange: str) -> Iterator[Publisher]:
    with closing(rabbitmq.connect()) as connection:
        yield Publisher(connection, exchange)


def wait_for(what: Callable[[], bool], seconds: float = 60.0, otherwise: Callable[[], object] = lambda: "") -> None:
    """Wait for something; where it does not come, `otherwise` says how things stand."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.05)


def count(url: str, table: str = "logs") -> int:
    """Return how many rows of the run there are: ingest's own events come the same way."""
    with open_store(url) as store:
        return int(store.read(f"SELECT count() FROM {table} WHERE run_id = 'r'", "TSVRaw"))  # noqa: S608


def get(process: ServiceProcess, path: str) -> tuple[int, bytes]:
    try:
        with urlopen(process.url + path, timeout=20) as answer:  # noqa: S310 (this machine's)
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def number(process: ServiceProcess, name: str) -> float:
    """Return a number of `/metrics`."""
    lines = get(process, "/metrics")[1].decode().splitlines()
    return next(float(value) for line in lines for key, _, value in [line.rpartition(" ")] if key == name)


def is_ready(process: ServiceProcess) -> bool:
    return get(process, "/readyz")[0] == 200


@pytest.fixture
def ingest(named: None, url: str) -> Iterator[ServiceProcess]:
    with ServiceProcess("ingest", "--store", url, settings=("ingest.batch_seconds=0.2",)) as process:
        wait_for(lambda: is_ready(process))
        yield process


def test_rows_arrive_and_what_cannot_be_stored_is_put_aside(
    rabbitmq: RabbitMQ, exchange: str, ingest: ServiceProcess, url: str, publisher: Publisher
) -> None:
    for _ in range(10):
        publisher.logs(500)
    publisher.publish("updates", b"{}\n", headers={"schema": 1, "rows": 1, "crc32": zlib.crc32(b"{}\n") ^ 8})
    publisher.publish("logs", b'{"no_column":1}\n')
    publisher.publish("nix", b"{}\n")
    publisher.logs(1)
    wait_for(lambda: count(url) == publisher.rows)
    wait_for(lambda: json.loads(get(ingest, "/v1/status")[1])["rejected"] == 3)
    assert json.loads(get(ingest, "/v1/status")[1])["rows"] >= publisher.rows
    shown = check_described(get(ingest, "/metrics")[1], "ingest")
    assert {"rattle_ingest_rows", "rattle_ingest_lag_seconds", "rattle_ingest_queue_messages"} <= shown
    letters = {
        properties.type: (properties.headers, body) for properties, body in rabbitmq.messages(f"{exchange}.dead")
    }
    assert letters["logs"][1] == b'{"no_column":1}\n'
    assert "Unknown field" in letters["logs"][0]["reason"]
    assert letters["nix"][0]["reason"].startswith("its type is 'nix'")
    assert "it was damaged on the way" in letters["updates"][0]["reason"]
    assert letters["nix"][0]["routing_key"] == "snake.nix"
    assert ingest.kill(SIGTERM) == 0
    assert [body for properties, body in rabbitmq.messages(f"{exchange}.rows") if properties.app_id != "ingest"] == []


@pytest.mark.parametrize("has_exchange", [False, True], ids=["no exchange", "no queue"])
def test_what_cannot_be_stored_stays_in_the_queue_of_an_operator_without_a_place_for_it(
    rabbitmq: RabbitMQ, exchange: str, url: str, has_exchange: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    own = ("ingest.batch_seconds=0.1", "ingest.prefetch=4")
    settings = (*own, "telemetry.declare=false", f"telemetry.exchange={exchange}")
    rows, dead = f"{exchange}.rows", f"{exchange}.dead"
    with closing(rabbitmq.connect()) as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.queue_declare(rows, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind(rows, exchange, "#")
        if has_exchange:
            channel.exchange_declare(dead, "fanout", durable=True)
        publisher = Publisher(connection, exchange)
        servers = ("--store", url, "--broker", rabbitmq.url())
        with ServiceProcess("ingest", *servers, settings=settings) as process:
            for number_of_poison in range(10):
                publisher.publish("logs", b'{"no_column":%d}\n' % number_of_poison)
                publisher.logs(5)
            wait_for(lambda: count(url) == publisher.rows)
            wait_for(lambda: number(process, "rattle_ingest_kept_messages") == 10)
            publisher.logs(5)
            wait_for(lambda: count(url) == publisher.rows)
            assert is_ready(process)
            assert json.loads(get(process, "/v1/status")[1])["rejected"] == 0
            assert process.kill(SIGTERM) == 0
            said = capfd.readouterr().err
            assert (said.count('"event":"message_kept"'), said.count('"event":"message_rejected"')) == (1, 0)
            channel.exchange_declare(dead, "fanout", durable=True)
            channel.queue_declare(dead, durable=True, arguments={"x-queue-type": "quorum"})
            channel.queue_bind(dead, dead)
            process.start()
            wait_for(lambda: json.loads(get(process, "/v1/status")[1])["rejected"] == 10)
            assert number(process, "rattle_ingest_kept_messages") == 0
    assert sorted(body for _, body in rabbitmq.messages(dead)) == [b'{"no_column":%d}\n' % each for each in range(10)]
    assert count(url) == publisher.rows


PRODUCER = """
import sys, time
from pathlib import Path

now, off = time.time_ns, int(sys.argv[1]) * 10**9
time.time_ns = lambda: now() + off
import platform
from rattle.telemetry.broker import find_broker
from rattle.telemetry.broker_sink import BrokerSink

platform.node = lambda: f"host{sys.argv[1]}"
sink = BrokerSink(find_broker(None), Path(sys.argv[2]), 2**20, service="train", experiment="snake", run_id="r")
for number in map(int, sys.stdin):
    sink.append("logs", [{"run_id": "r", "time": time.time_ns() // 10**9, "level": "DEBUG"}])
sink.close()
"""


def test_producers_whose_clocks_differ_are_told_of_once_and_their_rows_stay(
    ingest: ServiceProcess, url: str, tmp_path: Path
) -> None:
    def told() -> list[tuple[str, float]]:
        with open_store(url) as store:
            found = store.read("SELECT fields FROM logs WHERE event = 'clock_differs'", "TSVRaw").splitlines()
        return sorted((fields["host"], fields["seconds"]) for fields in map(json.loads, found))

    with ExitStack() as stack:
        producers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PRODUCER, str(off), str(tmp_path / f"outbox{off}")],
                    stdin=subprocess.PIPE,
                    text=True,
                )
            )
            for off in (-3600, 0, 3600)
        ]
        rows = 0
        until = time.monotonic() + 60.0
        while len(told()) < 2:
            assert time.monotonic() < until
            for producer in producers:
                assert producer.stdin is not None
                print(rows, file=producer.stdin, flush=True)
            rows += 1
            time.sleep(0.2)
    wait_for(lambda: count(url) == rows * len(producers))
    [behind, ahead] = told()
    assert (behind[0], round(behind[1], -2)) == ("host-3600", -3600.0)
    assert (ahead[0], round(ahead[1], -2)) == ("host3600", 3600.0)
    assert b'rattle_ingest_clock_differences_total{place="producer"}' in get(ingest, "/metrics")[1]


def test_a_store_that_is_away_costs_nothing(named: None, publisher: Publisher, tmp_path: Path) -> None:
    with ClickHouse(tmp_path / "store") as server:
        with open_store(server.url) as store:
            create_tables(store)
        with ServiceProcess("ingest", "--store", server.url, settings=("ingest.batch_seconds=0.1",)) as process:
            wait_for(lambda: is_ready(process))
            publisher.logs(100)
            server.kill()
            publisher.logs(100, age=600.0)
            wait_for(lambda: not is_ready(process))
            wait_for(lambda: number(process, "rattle_ingest_lag_seconds") > 600.0)
            status, said = get(process, "/readyz")
            assert status == 503
            assert b"connection refused" in said
            server.start()
            wait_for(lambda: count(server.url) == 200)
            wait_for(lambda: number(process, "rattle_ingest_lag_seconds") == 0.0)
            assert number(process, 'rattle_ingest_delivery_seconds_bucket{le="300.0"}') >= 1
            assert number(process, "rattle_ingest_delivery_seconds_sum") > 600.0
            wait_for(lambda: is_ready(process))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_of_the_store_costs_nothing(
    named: None, rabbitmq: RabbitMQ, exchange: str, publisher: Publisher, small_disk: Path
) -> None:
    with ClickHouse(small_disk / "store") as server:
        with open_store(server.url) as store:
            create_tables(store)
        with ServiceProcess("ingest", "--store", server.url, settings=("ingest.batch_seconds=0.1",)) as process:
            wait_for(lambda: is_ready(process))
            publisher.logs(100)
            wait_for(lambda: count(server.url) == 100)
            filler = small_disk / "filler"
            with suppress(OSError), filler.open("wb") as file:  # which the store may have filled already
                while file.write(bytes(2**14)):
                    file.flush()
            publisher.logs(5000)
            wait_for(lambda: not is_ready(process))
            assert b"default: " in get(process, "/readyz")[1]
            filler.unlink(missing_ok=True)
            wait_for(lambda: count(server.url) == publisher.rows)
            assert json.loads(get(process, "/v1/status")[1])["rejected"] == 0
    assert rabbitmq.messages(f"{exchange}.dead") == []


def test_a_store_without_tables_is_waited_for(named: None, database: str, publisher: Publisher) -> None:
    with ServiceProcess("ingest", "--store", database, settings=("ingest.batch_seconds=0.1",)) as process:
        wait_for(lambda: b"run 'rattle create-tables'" in get(process, "/readyz")[1])
        wait_for(lambda: json.loads(get(process, "/v1/status")[1])["broker_trouble"] is None)
        publisher.logs(10)
        with open_store(database) as store:
            create_tables(store)
        wait_for(lambda: count(database) == 10)


def test_several_ingests_side_by_side(ingest: ServiceProcess, url: str, publisher: Publisher) -> None:
    with ServiceProcess("ingest", "--store", url, settings=("ingest.batch_seconds=0.1", "ingest.prefetch=4")) as other:
        wait_for(lambda: is_ready(other))
        for number in range(100):
            publisher.logs(20)
            if number == 50:
                other.kill()
                other.start()
        wait_for(lambda: count(url) == publisher.rows)


def test_a_broker_that_does_not_let_it_in_is_said(named: None, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_PASSWORD", "wrong")
    with ServiceProcess("ingest", "--store", url) as process:
        wait_for(lambda: b"does not accept this password for user 'rattle'" in get(process, "/readyz")[1])
        assert b"wrong" not in get(process, "/readyz")[1].replace(b"wrong_method", b"")
        assert process.kill(SIGTERM) == 0
