"""Twenty deaths on the way from a run into a store: every row is there, and counts once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from rattle.analytics.store import create_tables, open_store
from tests.clickhouse import ClickHouse
from tests.processes import ServiceProcess
from tests.rabbitmq import RabbitMQ, needs_rabbitmq
from tests.services.ingest.publishing_run import EPISODES, LINES, UPDATES, UPDATES_OF_A_CHECKPOINT, go_on
from tests.services.ingest.test_ingest import is_ready, named, number, wait_for
from tests.template import RattleProcess

__all__ = ["named"]

pytestmark = needs_rabbitmq

Victim = Literal["run", "ingest", "store", "broker", "connection"]
DEATHS: tuple[Victim, ...] = (*["run"] * 4, *["ingest"] * 6, *["store"] * 6, *["broker"] * 2, *["connection"] * 2)


class Run:
    """A run that is killed and resumed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self.resumed_after: list[int] = []
        self.lines = 0  # of the log, which had to arrive
        self.start()

    def start(self) -> None:
        """Go on after the newest checkpoint."""
        self.checkpoint = after = 0 if not self.resumed_after else self.checkpoint
        arguments = (str(self._folder), str(len(self.resumed_after)), str(after))
        self.resumed_after.append(after)
        program = "tests.services.ingest.publishing_run"
        self._process = RattleProcess(*arguments, stdout=subprocess.PIPE, program=program)

    def read(self) -> bool:
        """Wait for the next checkpoint; return False where the run has ended before it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            self.lines += (int(line) - self.checkpoint) * LINES
            self.checkpoint = int(line)
        return bool(line)

    def go_on(self) -> None:
        """Let it play on."""
        go_on(self._folder, self.checkpoint)

    def kill(self) -> None:
        """Kill it; checkpoints that it has made before count."""
        self._process.kill()
        while self.read():
            pass
        self._process.communicate()

    def end(self) -> None:
        """Wait until it has published all."""
        while self.read():
            self.go_on()
        self._process.communicate(timeout=120)
        assert self._process.returncode == 0

    def life_of(self, update: int) -> int:
        """Return which life of the run has made an update that counts."""
        return max(life for life, after in enumerate(self.resumed_after) if after < update)


def waiting(rabbitmq: RabbitMQ, queue: str) -> int:
    """Return how many messages nobody has taken."""
    with closing(rabbitmq.connect()) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)


@pytest.mark.whole(suite="slow")
def test_twenty_deaths_lose_nothing_and_store_nothing_twice(
    rabbitmq: RabbitMQ, exchange: str, named: None, tmp_path: Path
) -> None:
    random = Random(7)  # noqa: S311 (when what dies)
    with ClickHouse(tmp_path / "store") as server:
        with open_store(server.url) as store:
            create_tables(store)
        settings = ("ingest.batch_seconds=0.2", "ingest.prefetch=40")
        with ServiceProcess("ingest", "--store", server.url, settings=settings) as ingest:
            wait_for(lambda: is_ready(ingest))
            run = Run(tmp_path / "run")
            ends: dict[Victim, tuple[Callable[[], object], Callable[[], object]]] = {
                "run": (run.kill, run.start),
                "ingest": (ingest.kill, ingest.start),
                "store": (server.kill, server.start),
                "broker": (rabbitmq.kill, rabbitmq.start),
                "connection": (rabbitmq.gate.cut, lambda: None),
            }
            for victim in random.sample(DEATHS, len(DEATHS)):
                assert run.read(), "more updates are needed for so many deaths"
                run.go_on()
                time.sleep(random.uniform(0, 0.4))
                kill, start = ends[victim]
                kill()
                start()
            run.end()
        with open_store(server.url) as store:

            def ask(what: str) -> int:
                return int(store.read(f"SELECT {what}", "TSVRaw"))

            def arrived() -> dict[str, int]:
                return {table: ask(f"count() FROM {table} WHERE run_id = 'r'") for table in expected}

            expected = {"updates": UPDATES, "episodes": UPDATES * EPISODES, "lives": len(run.resumed_after)}
            with ServiceProcess("ingest", "--store", server.url) as ingest:
                wait_for(lambda: arrived() == expected, otherwise=arrived)
                wait_for(lambda: waiting(rabbitmq, f"{exchange}.rows") == 0)
                wait_for(lambda: number(ingest, "rattle_ingest_lag_seconds") == 0)
            assert ask("uniqExact(episode_id) FROM episodes") == UPDATES * EPISODES
            made_by = store.read("SELECT entropy FROM updates ORDER BY policy_version", "TSVRaw").split()
            assert [int(float(life)) for life in made_by] == [run.life_of(update) for update in range(1, UPDATES + 1)]
            # Lines that a killed run has written after its last checkpoint may have come, or not.
            lines = ask("count() FROM logs WHERE run_id = 'r'")
            assert run.lines <= lines <= run.lines + DEATHS.count("run") * UPDATES_OF_A_CHECKPOINT * LINES
            assert ask("uniqExact(writer, number) FROM stored_logs WHERE run_id = 'r'") == lines
    assert rabbitmq.messages(f"{exchange}.rows") == []
    assert rabbitmq.messages(f"{exchange}.dead") == []
