"""What operators ask of the Training service over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric

from rattle.services.training.metrics import families
from rattle.services.training.service import TrainingService
from rattle.services.training.status import as_plain, service_status
from rattle.wire.problems import RequestError


class Operating:
    """The service as its operators see it; the gRPC face starts and stops it."""

    def __init__(self, service: TrainingService) -> None:
        self._service = service

    def start(self) -> None:
        """It has begun already."""

    def stop(self) -> None:
        """It has stopped already."""

    def check_ready(self) -> None:
        """Raise RequestError while no rollouts are taken."""
        if not self._service.takes_rollouts():
            raise RequestError("not_ready", "no rollouts are taken: the service stops, or all its runs have failed")

    def status(self) -> dict[str, Any]:
        """Return what GetStatus answers, ready for JSON."""
        return as_plain(service_status(self._service))

    def collect(self) -> Iterator[Metric]:
        """Yield its numbers for Prometheus."""
        yield from families(self._service.loops)
