"""The load of processes and machines: what it says, where there are GPUs and where not, and that it is in tables."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rattle.analytics.query import rows
from rattle.analytics.run_directory import RunDirectory
from rattle.events import Event, taps
from rattle.events.of_services import SystemMetrics
from rattle.telemetry.system import Gpus, Load, watching_system
from rattle.trainer.train import train
from tests.processes import ServiceProcess
from tests.trainer.conftest import Silence, rattle, small_settings


@pytest.fixture
def told() -> Iterator[list[Event]]:
    seen: list[Event] = []

    def take(_number: int, event: Event, *_: Any) -> None:
        seen.append(event)

    taps.append(take)
    yield seen
    taps.remove(take)


def test_a_sample_is_of_the_time_since_the_last(tmp_path: Path) -> None:
    load = Load(tmp_path)
    worked = time.process_time() + 0.2
    while time.process_time() < worked:
        pass
    sample = load.sample()
    assert sample.process_cpu_percent > 0
    assert sample.process_memory_bytes > 10_000_000
    assert sample.process_threads >= 1
    assert 0 <= sample.cpu_percent <= 100
    assert 0 < sample.memory_percent < 100
    assert sample.memory_available_bytes > 0
    assert sample.disk_free_bytes is not None
    assert "% of a core" in str(sample)


def test_a_disk_that_has_gone_is_left_out(tmp_path: Path) -> None:
    assert Load(tmp_path / "gone").sample().disk_free_bytes is None
    assert "disk_free_bytes" not in Load().sample().fields()


class FakeNvml(SimpleNamespace):
    """Two GPUs, as the library shows them."""

    broken = False

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def nvmlDeviceGetUtilizationRates(self, number: int) -> Any:  # noqa: N802
        if self.broken:
            raise RuntimeError("GPU is lost")
        return SimpleNamespace(gpu=(10, 90)[number])

    def nvmlDeviceGetMemoryInfo(self, _number: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=100, total=1000)


def test_gpus_are_told_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    load = Load()
    sample = load.sample()
    assert (sample.gpu_percent, sample.gpu_memory_bytes, sample.gpu_memory_total_bytes) == (90, 200, 2000)
    nvml.broken = True
    assert "gpu_percent" not in load.sample().fields()


def test_no_gpus_and_no_library_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpus().sample() == {}


def test_nothing_is_told_without_psutil_or_where_nobody_wants_it(
    told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching_system(0):
        pass
    monkeypatch.setitem(sys.modules, "psutil", None)
    with watching_system(0.001):
        time.sleep(0.05)  # a thread that fails would fail the test
    assert told == []


def test_it_is_told_as_long_as_the_block_goes_on(told: list[Event]) -> None:
    with watching_system(0.01):
        while len(told) < 3:
            time.sleep(0.01)
    assert all(isinstance(event, SystemMetrics) for event in told)


def test_a_run_has_its_load_in_its_table_logs(tmp_path: Path) -> None:
    settings = small_settings("train.steps=null", "train.seconds=3", "log.system_seconds=0.2")
    directory = RunDirectory(tmp_path / "run")
    train(settings, directory.path, Silence())
    found = rows("SELECT service, fields FROM logs WHERE event = 'system_metrics'", [directory])
    assert found
    fields = json.loads(found[-1]["fields"])
    assert {"process_cpu_percent", "process_memory_bytes", "cpu_percent", "disk_free_bytes"} <= set(fields)


@pytest.mark.parametrize("command", ["env", "sync"])
def test_services_tell_their_load(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("LOG_FILE", str(log))
    more = ("sync.participants=['127.0.0.1:9']", "sync.http_port=0") if command == "sync" else ()
    with ServiceProcess(command, settings=("log.system_seconds=0.1", *more)):
        deadline = time.monotonic() + 60
        while "system_metrics" not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    [first, *_] = [json.loads(line) for line in log.read_text().splitlines() if "system_metrics" in line]
    assert first["service"] == command


@pytest.mark.integration
def test_every_service_of_rattle_up_has_its_load_in_the_run(tmp_path: Path) -> None:
    settings = ["env.worlds=24", "policy.hidden_sizes=[16]", "log.system_seconds=0.3"]
    arguments = [part for one in settings for part in ("--set", one)]
    done = rattle("up", "--json", "--run-dir", "run", "--seconds", "4", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sql = "SELECT DISTINCT service FROM logs WHERE event = 'system_metrics' ORDER BY service"
    assert [row["service"] for row in rows(sql, [RunDirectory(tmp_path / "run")])] == [
        "env-0",
        "inference-0",
        "training-0",
    ]
