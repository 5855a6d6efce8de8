"""What the Inference service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.registry import Collector

from rattle.services.utils.measures import (
    ANSWER_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    CounterMeasure,
    GaugeMeasure,
    HistogramMeasure,
)

_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_MODEL = ("model",)

PASS_SECONDS = HistogramMeasure(
    "rattle_inference_pass_seconds", "seconds", "Time of a forward pass.", _MODEL, ANSWER_SECONDS
)
PASS_ROWS = HistogramMeasure("rattle_inference_pass_rows", "rows", "Rows of a forward pass.", _MODEL, _COUNTS)
PASS_REQUESTS = HistogramMeasure(
    "rattle_inference_pass_requests", "requests", "Requests that a forward pass has joined.", _MODEL, _COUNTS
)
POLICY_VERSION = GaugeMeasure("rattle_inference_policy_version", "updates", "Policy version that is served.", _MODEL)
WAITING_ROWS = GaugeMeasure("rattle_inference_waiting_rows", "rows", "Rows that wait for a forward pass.", _MODEL)
RUNNING_ROWS = GaugeMeasure("rattle_inference_running_rows", "rows", "Rows of the forward pass that runs.", _MODEL)
SEQUENCES = GaugeMeasure("rattle_inference_sequences", "sequences", "Sequences whose memory is kept.", _MODEL)
EXPIRED_SEQUENCES = CounterMeasure(
    "rattle_inference_expired_sequences",
    "sequences",
    "Sequences that were idle for too long.",
    _MODEL,
)

#: A number of each model, read when somebody asks.
ByModel = Callable[[], Mapping[str, int]]


class InferenceMetrics:
    """The service's numbers in a registry of their own; names carry their units."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = REQUESTS.live(self.registry)
        self._request_seconds = REQUEST_SECONDS.live(self.registry)
        self._pass_seconds = PASS_SECONDS.live(self.registry)
        self._pass_rows = PASS_ROWS.live(self.registry)
        self._pass_requests = PASS_REQUESTS.live(self.registry)
        self._expired_sequences = EXPIRED_SEQUENCES.live(self.registry)
        self._answered: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._passed: dict[str, tuple[Histogram, Histogram, Histogram]] = {}

    def watch(self, versions: ByModel, waiting_rows: ByModel, running_rows: ByModel, sequences: ByModel) -> None:
        """Show what the models themselves know, too."""
        self.registry.register(_ModelGauges(versions, waiting_rows, running_rows, sequences))

    def request(self, api: str, status: str, seconds: float) -> None:
        """Count one answered request."""
        found = self._answered.get((api, status))
        if found is None:  # labels are looked up once: that takes longer than counting
            found = self._requests.labels(api, status), self._request_seconds.labels(api)
            self._answered[api, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def expired_sequence(self, model: str) -> None:
        """Count one sequence that was idle for too long."""
        self._expired_sequences.labels(model).inc()

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
    def __init__(self, *by_model: ByModel) -> None:
        self._gauges = tuple(zip((POLICY_VERSION, WAITING_ROWS, RUNNING_ROWS, SEQUENCES), by_model, strict=True))

    def collect(self) -> Iterator[Metric]:
        for measure, by_model in self._gauges:
            family = measure.family()
            for model, number in by_model().items():
                family.add_metric([model], number)
            yield family
