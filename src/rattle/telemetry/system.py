"""The load of this process and its machine, as an event every few seconds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rattle.events import emit
from rattle.events.of_services import SystemMetrics


@contextmanager
def watching_system(seconds: float, folder: Path | None = None) -> Iterator[None]:
    """Tell the load every so many seconds from a thread, as long as the block continues; 0: never.

    The first is told after the first of these times. `folder` is one on the disk that fills. Nothing is told where
    `psutil` is not installed.
    """
    stop = threading.Event()
    if seconds > 0:
        threading.Thread(target=_watch, args=(seconds, folder, stop), name="system metrics", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _watch(seconds: float, folder: Path | None, stop: threading.Event) -> None:
    try:
        load = Load(folder)
    except ImportError:
        return
    while not stop.wait(seconds):
        emit(load.sample())


class Load:
    """What this process, its machine and its GPUs do; raises ImportError where `psutil` is not installed."""

    def __init__(self, folder: Path | None = None) -> None:
        self._psutil: Any = import_module("psutil")
        self._process = self._psutil.Process()
        self._folder = folder
        self._gpus = Gpus()
        self.sample()  # shares of time are those since the sample before

    def sample(self) -> SystemMetrics:
        """Return the load now, and of processors since the last time; None for what the system does not tell."""
        machine = self._psutil.virtual_memory()
        return SystemMetrics(
            process_cpu_percent=self._process.cpu_percent(),
            process_memory_bytes=self._process.memory_info().rss,
            process_threads=self._process.num_threads(),
            cpu_percent=self._psutil.cpu_percent(),
            memory_percent=machine.percent,
            memory_available_bytes=machine.available,
            disk_free_bytes=self._disk(),
            **self._gpus.sample(),
        )

    def _disk(self) -> int | None:
        with suppress(OSError):
            return None if self._folder is None else shutil.disk_usage(self._folder).free
        return None


class Gpus:
    """NVIDIA's GPUs of this machine, where its library and the package `nvidia-ml-py` are installed."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            self._nvml: Any = import_module("pynvml")
            self._nvml.nvmlInit()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        except Exception:  # noqa: S110  # no GPU, no driver, or none that may be asked
            pass

    def sample(self) -> dict[str, Any]:
        """Return the share of time of the busiest and the memory in use of all; {} where there are none."""
        if not self._handles:
            return {}
        try:
            busy = [self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in self._handles]
            memory = [self._nvml.nvmlDeviceGetMemoryInfo(handle) for handle in self._handles]
        except Exception:  # a GPU that was taken away is asked no more
            self._handles = []
            return {}
        return {
            "gpu_percent": float(max(busy)),
            "gpu_memory_bytes": sum(one.used for one in memory),
            "gpu_memory_total_bytes": sum(one.total for one in memory),
        }
