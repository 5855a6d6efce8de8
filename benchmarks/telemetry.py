"""Rows a second from a process through RabbitMQ and ingest into a store, and how soon each can be queried.

Broker, ingest and store are on this machine: the store is chDB, ClickHouse's engine, behind a small HTTP server.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import msgspec
import numpy as np
from measure import report, table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.clickhouse import ClickHouse  # noqa: E402
from tests.rabbitmq import SERVER, RabbitMQ  # noqa: E402

from rattle.analytics.store import Store, create_tables, open_store  # noqa: E402
from rattle.telemetry.broker import find_broker  # noqa: E402
from rattle.telemetry.broker_sink import BrokerSink  # noqa: E402

SECONDS = 10.0
LINES_AT_A_TIME, TICKS, EPISODES_AT_A_TIME = 500, 500, 40
OBSERVED = 60  # numbers that an agent of Snake sees
MOST_WAITING = 100_000  # rows on their way to the broker, more or less
PROBE_SECONDS = 0.1
DELAY_RATE = 2_000  # lines a second while the delay is measured


def count(store: Store, rows: str) -> int:
    """Return how many rows can be queried."""
    return int(store.read(f"SELECT count() FROM {rows}", "TSVRaw"))  # noqa: S608


def sustained(store: Store, sink: BrokerSink, rows: str, publish: Callable[[], int]) -> tuple[int, float]:
    """Publish for a while, as fast as the broker takes it; return how many rows, and how long until all are there."""
    began, published = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        rows_at_a_time = publish()
        published += rows_at_a_time
        while sink.waiting * rows_at_a_time > MOST_WAITING:
            time.sleep(0.005)
    while count(store, f"stored_{rows}") < published:  # which asks less of the engine
        time.sleep(0.1)
    if count(store, rows) != published:
        raise SystemExit(f"{rows}: {count(store, rows)} rows of {published}")
    return published, time.perf_counter() - began


def lines(sink: BrokerSink, run_id: str) -> int:
    """Publish lines of a log."""
    fields = '{"rollouts":12,"seconds":0.25,"address":"127.0.0.1:50051"}'
    row = {"time": "2026-01-02T03:04:05.678901Z", "level": "INFO", "service": "training", "event": "rollout_taken"}
    row |= {"experiment": "snake", "run_id": run_id, "host": "training-0", "pid": 7, "fields": fields}
    sink.append("logs", [row] * LINES_AT_A_TIME)
    return LINES_AT_A_TIME


class Episodes:
    """Publishes recorded episodes, each with a number of its own."""

    def __init__(self, sink: BrokerSink) -> None:
        self._sink = sink
        self._number = 0
        self._observation = np.random.default_rng(0).integers(0, 5, (TICKS, OBSERVED)).astype(np.float32)

    def __call__(self) -> int:
        """Publish some, and return how many rows they are."""
        self._sink.append("steps", [self._episode() for _ in range(EPISODES_AT_A_TIME)], 1)
        return EPISODES_AT_A_TIME * TICKS

    def _episode(self) -> dict[str, object]:
        self._number += 1
        ends = np.arange(TICKS) == TICKS - 1
        zeros = np.zeros(TICKS, np.float32)
        whole = {"run_id": "r", "world": 0, "world_episode": self._number, "agent": 0, "policy_version": 1, "state": ""}
        columns: dict[str, object] = {
            name: np.full(TICKS, value, object if isinstance(value, str) else np.uint64)
            for name, value in whole.items()
        }
        ticks = {"tick": np.arange(TICKS, dtype=np.uint32), "action": np.arange(TICKS, dtype=np.int32) % 3}
        numbers = {
            "reward": zeros,
            "log_prob": zeros - 1,
            "value": zeros,
            "truncated": ~ends & ends,
            "terminated": ends,
        }
        return {**columns, **ticks, **numbers, "observation": self._observation}


def delays(store: Store, sink: BrokerSink) -> list[float]:
    """Publish at a moderate rate, and return after how many seconds each of many lines could be queried."""
    sent: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        while not stop.wait(PROBE_SECONDS):
            sent.append(time.perf_counter())
            sink.append("logs", [{"time": "2026-01-02T03:04:05Z", "event": f"p{len(sent) - 1}", "run_id": "probe"}])
            sink.append(
                "logs", [{"time": "2026-01-02T03:04:05Z", "event": "e", "run_id": "other"}] * int(DELAY_RATE / 10)
            )

    thread = threading.Thread(target=probe)
    thread.start()
    arrived: dict[str, float] = {}
    ends = time.perf_counter() + SECONDS
    while (now := time.perf_counter()) < ends + 5 and (now < ends or len(arrived) < len(sent)):
        if now > ends:
            stop.set()
        for row in msgspec.json.Decoder(dict[str, str]).decode_lines(
            store.read("SELECT event FROM logs WHERE run_id = 'probe'")
        ):
            arrived.setdefault(row["event"], time.perf_counter())
        time.sleep(0.02)
    stop.set()
    thread.join()
    return [arrived.get(f"p{number}", float("inf")) - began for number, began in enumerate(sent)]


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the first line that a service prints."""
    if process.stdout is None:
        raise SystemExit("the service prints nothing")
    return process.stdout.readline()


def main() -> None:
    """Measure, and write the table."""
    if not SERVER.exists():
        print("there is no RabbitMQ: apt-get install rabbitmq-server")
        return
    with (
        closing(RabbitMQ(Path(mkdtemp(prefix="rattle-rabbitmq-")))) as rabbitmq,
        TemporaryDirectory() as folder,
        ClickHouse(Path(folder) / "store") as server,
        open_store(server.url) as store,
    ):
        rabbitmq.start()
        create_tables(store)
        command = [str(Path(sys.executable).with_name("rattle")), "ingest", "--port", "0"]
        command += ["--broker", rabbitmq.url(), "--store", server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as ingest:  # noqa: S603 (our own)
            read_line(ingest)
            broker = find_broker(rabbitmq.url())
            if broker is None:
                raise SystemExit("there is no broker")
            sink = BrokerSink(broker, Path(folder) / "outbox", 2**32, service="train", experiment="snake", run_id="r")
            waits = sorted(delays(store, sink))
            logs, log_seconds = sustained(store, sink, "logs WHERE run_id = 'bench'", lambda: lines(sink, "bench"))
            steps, step_seconds = sustained(store, sink, "steps", Episodes(sink))
            sink.close()
            ingest.terminate()
    rows = [
        ["log lines a second, published until queried", f"{logs / log_seconds:,.0f}", "50,000"],
        ["step rows a second, published until queried", f"{steps / step_seconds:,.0f}", "200,000"],
        ["seconds until a line can be queried: median", f"{waits[len(waits) // 2]:.2f}", ""],
        ["95 of 100 lines", f"{waits[int(len(waits) * 0.95)]:.2f}", "2"],
        ["the slowest", f"{waits[-1]:.2f}", ""],
    ]
    report("telemetry", "From a process into a store", table(["", "measured", "aim"], rows))


if __name__ == "__main__":
    main()
