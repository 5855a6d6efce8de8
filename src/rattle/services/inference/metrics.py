"""What the Inference service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

#: A number of each model, read when somebody asks.
ByModel = Callable[[], Mapping[str, int]]


class InferenceMetrics:
    """The service's numbers in a registry of their own; names carry their units."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("rattle_requests", "Answered requests.", ["api", "status"], registry=self.registry)
        self._request_seconds = self._histogram("rattle_request_seconds", "Time to answer a request.", "api", _SECONDS)
        passes = "rattle_inference_pass"
        self._pass_seconds = self._histogram(f"{passes}_seconds", "Time of a forward pass.", "model", _SECONDS)
        self._pass_rows = self._histogram(f"{passes}_rows", "Rows of a forward pass.", "model", _COUNTS)
        self._pass_requests = self._histogram(
            f"{passes}_requests", "Requests that a forward pass has joined.", "model", _COUNTS
        )
        self._answered: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._passed: dict[str, tuple[Histogram, Histogram, Histogram]] = {}

    def _histogram(self, name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, [label], registry=self.registry, buckets=buckets)

    def watch(self, versions: ByModel, waiting_rows: ByModel, running_rows: ByModel) -> None:
        """Show what the models themselves know, too."""
        self.registry.register(_ModelGauges(versions, waiting_rows, running_rows))

    def request(self, api: str, status: str, seconds: float) -> None:
        """Count one answered request."""
        found = self._answered.get((api, status))
        if found is None:  # labels are looked up once: that takes longer than counting
            found = self._requests.labels(api, status), self._request_seconds.labels(api)
            self._answered[api, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def forward_pass(self, model: str, requests: int, rows: int, seconds: float) -> None:
        """Count one forward pass."""
        found = self._passed.get(model)
        if found is None:
            found = self._passed[model] = (
                self._pass_requests.labels(model),
                self._pass_rows.labels(model),
                self._pass_seconds.labels(model),
            )
        for histogram, value in zip(found, (requests, rows, seconds), strict=True):
            histogram.observe(value)


class _ModelGauges(Collector):
    def __init__(self, versions: ByModel, waiting_rows: ByModel, running_rows: ByModel) -> None:
        self._gauges = (
            ("rattle_inference_policy_version", "Policy version that is served.", versions),
            ("rattle_inference_waiting_rows", "Rows that wait for a forward pass.", waiting_rows),
            ("rattle_inference_running_rows", "Rows of the forward pass that runs.", running_rows),
        )

    def collect(self) -> Iterator[Metric]:
        for name, text, by_model in self._gauges:
            family = GaugeMetricFamily(name, text, labels=["model"])
            for model, number in by_model().items():
                family.add_metric([model], number)
            yield family
