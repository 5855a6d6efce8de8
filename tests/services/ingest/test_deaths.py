"""Twenty deaths on the way from a run into a store: every row is there, and counts once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.store import create_tables, open_store
from rattle.telemetry.broker import find_broker
from rattle.telemetry.broker_sink import BrokerSink
from rattle.telemetry.sinks import UPDATE
from tests.analytics.build import episode_row, update_row
from tests.clickhouse import ClickHouse
from tests.processes import ServiceProcess
from tests.rabbitmq import RabbitMQ, needs_rabbitmq
from tests.services.ingest.test_ingest import is_ready, named, wait_for

__all__ = ["named"]

pytestmark = needs_rabbitmq

UPDATES, EPISODES, LINES = 100, 2000, 20  # episodes and lines of the log an update
RESUMED_AFTER, RESUMED_AT = 50, 60  # updates


class Run:
    """A run that publishes its rows."""

    def __init__(self, sink: BrokerSink) -> None:
        self._sink = sink
        self._directory = RunDirectory(Path("r"))
        self.lines = 0

    def update(self, version: int, entropy: float) -> None:
        """Publish an update, and what was seen while it was made."""
        first = (version - 1) * EPISODES
        episodes = [episode_row(self._directory, first + number) for number in range(EPISODES)]
        self._sink.append("episodes", episodes, version)
        self._sink.append("updates", [update_row(self._directory, version, entropy=entropy)], version)
        line = {"time": "2026-01-02T03:04:05Z", "level": "INFO", "event": "e", "run_id": "r", "service": "train"}
        self._sink.append("logs", [line] * LINES)
        self.lines += LINES


@contextmanager
def sink_to(exchange: str, folder: Path) -> Iterator[BrokerSink]:
    broker = find_broker(None)
    assert broker is not None
    assert broker.exchange == exchange
    sink = BrokerSink(broker, folder, 2**30, service="train", experiment="snake", run_id="r")
    sink.cut_back({})
    try:
        yield sink
        wait_for(lambda: sink.waiting == 0)
    finally:
        sink.close()


def test_twenty_deaths_lose_nothing_and_store_nothing_twice(
    rabbitmq: RabbitMQ, exchange: str, named: None, tmp_path: Path
) -> None:
    random = Random(7)  # noqa: S311 (when what dies)
    with ClickHouse(tmp_path / "store") as server:
        with open_store(server.url) as store:
            create_tables(store)
        settings = ("ingest.batch_seconds=0.2", "ingest.prefetch=40")
        with (
            ServiceProcess("ingest", "--store", server.url, settings=settings) as ingest,
            sink_to(exchange, tmp_path / "run" / "outbox") as sink,
        ):
            wait_for(lambda: is_ready(ingest))
            victims: list[tuple[Callable[[], object], Callable[[], object]]] = [
                *[(ingest.kill, ingest.start)] * 8,
                *[(server.kill, server.start)] * 8,
                *[(rabbitmq.kill, rabbitmq.start)] * 2,
                *[(rabbitmq.gate.cut, lambda: None)] * 2,
            ]
            random.shuffle(victims)
            run = Run(sink)
            versions = [*range(1, RESUMED_AT + 1), *range(RESUMED_AFTER + 1, UPDATES + 1)]
            for number, version in enumerate(versions):
                if number == RESUMED_AT:
                    sink.cut_back({UPDATE: RESUMED_AFTER})
                run.update(version, entropy=0.25 if number < RESUMED_AT else 0.75)
                if number % 5 == 4 and victims:
                    kill, start = victims.pop()
                    time.sleep(random.uniform(0, 0.4))
                    kill()
                    start()
            assert not victims
        with open_store(server.url) as store:

            def number(what: str) -> int:
                return int(store.read(f"SELECT {what}", "TSVRaw"))

            def arrived() -> dict[str, int]:
                return {table: number(f"count() FROM {table} WHERE run_id = 'r'") for table in expected}

            expected = {"updates": UPDATES, "episodes": UPDATES * EPISODES, "logs": run.lines, "lives": 2}
            with ServiceProcess("ingest", "--store", server.url):
                wait_for(lambda: arrived() == expected, otherwise=arrived)
            assert number("uniqExact(episode_id) FROM episodes") == UPDATES * EPISODES
            assert number("countIf(entropy = 0.25) FROM updates") == RESUMED_AFTER
            assert number("uniqExact(writer, number) FROM stored_logs WHERE run_id = 'r'") == run.lines
    assert rabbitmq.messages(f"{exchange}.rows") == []
    assert rabbitmq.messages(f"{exchange}.dead") == []
