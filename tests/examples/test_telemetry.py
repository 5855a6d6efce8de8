"""The examples of telemetry, one after the other, as their page says."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.processes import ServiceProcess
from tests.rabbitmq import RabbitMQ, needs_rabbitmq
from tests.trainer.conftest import rattle

EXAMPLES = Path(__file__).parents[2] / "examples" / "telemetry"
SMALL = ["--set", "env.worlds=24", "--set", "policy.hidden_sizes=[16]", "--steps", "20000"]
HOST = "another host"  # of the node: the examples name the exchange that is the default


def python(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def stored(service: ServiceProcess, table: str) -> int:
    """Return how many rows of a table ingest has stored."""
    from urllib.request import urlopen

    with closing(urlopen(f"{service.url}/metrics")) as answer:  # noqa: S310
        found = re.search(rf'^rattle_ingest_rows_total{{.*table="{table}".*}} (\S+)', answer.read().decode(), re.M)
    return int(float(found[1])) if found else 0


class TestWithABroker:
    pytestmark = needs_rabbitmq

    def test_from_a_run_to_a_store(self, rabbitmq: RabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        broker, store = rabbitmq.url(HOST), f"chdb://{tmp_path}/store"
        assert rattle("create-tables", store, cwd=tmp_path).returncode == 0
        consume = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "consume.py"), broker, "50"], stdout=subprocess.PIPE, text=True
        )
        assert consume.stdout is not None
        assert consume.stdout.readline() == "listening\n"
        with ServiceProcess("ingest", "--broker", broker, "--store", store) as ingest:
            trained = rattle("train", *SMALL, "--set", f"telemetry.broker={broker}", "--run-dir", "run", cwd=tmp_path)
            assert trained.returncode == 0, trained.stderr
            published = python("publish.py", broker, cwd=tmp_path)
            assert (published.returncode, published.stdout) == (0, ""), published.stderr
            seen, _ = consume.communicate(timeout=120)
            assert consume.returncode == 0
            assert len(re.findall(r"^\S+ +[\d,]+ steps  mean return \S+$", seen, re.M)) >= 50
            eventually(lambda: stored(ingest, "updates") >= 53 and stored(ingest, "logs") >= 101)
            ingest.kill(SIGTERM)
        answer = python("ask.py", store, cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
        assert "finished  20352" in answer.stdout
        assert "my-simulator  pond_ticked  100" in answer.stdout
        assert "train  run_finished  1" in answer.stdout
        query = ("query", "SELECT count() AS n FROM updates", "--format", "json", "--store", store)
        assert rattle(*query, cwd=tmp_path).stdout == '{"n":53}\n'


def test_a_store_is_asked_without_a_broker_too(tmp_path: Path) -> None:
    store = f"chdb://{tmp_path}/store"
    assert rattle("train", *SMALL, "--run-dir", "run", cwd=tmp_path).returncode == 0
    assert rattle("create-tables", store, cwd=tmp_path).returncode == 0
    loaded = rattle("ingest", "run", "--store", store, cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    answer = python("ask.py", store, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "finished  20352" in answer.stdout


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"]({path.name})" in page for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))
