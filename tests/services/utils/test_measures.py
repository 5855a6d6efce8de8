"""Numbers of services are described in one way, so that the glossary has them all."""

from __future__ import annotations

import re
from pathlib import Path

import rattle.services
from rattle.services.utils.measures import CounterMeasure, GaugeMeasure, HistogramMeasure, measures


def test_no_service_makes_numbers_in_another_way() -> None:
    made = re.compile(r"\b(Counter|Gauge|Histogram|Summary|Info|Enum)(MetricFamily)?\(\s*f?[\"']")
    root = Path(rattle.services.__file__).parent
    wrong = [path for path in root.rglob("*.py") if path.name != "measures.py" and made.search(path.read_text())]
    assert wrong == []


def test_every_number_is_described() -> None:
    found = [measure for of_service in measures().values() for measure in of_service]
    assert len(found) > 30
    for measure in found:
        assert re.fullmatch(r"rattle_[a-z0-9_]+", measure.name)
        assert not measure.name.endswith("_total")
        assert measure.unit
        assert measure.meaning.endswith(".")
        if measure.name.endswith("_seconds"):
            assert measure.unit == "seconds"


def test_names_labels_and_values_come_from_the_description() -> None:
    counter = CounterMeasure("rattle_x", "things", "Things.", ("kind",))
    assert counter.shown_as == "rattle_x_total"
    family = counter.family()
    family.add_metric(["a"], 3)
    [sample] = family.samples
    assert (sample.name, sample.labels, sample.value) == ("rattle_x_total", {"kind": "a"}, 3)
    assert GaugeMeasure("rattle_y", "things", "Things.").family(2).samples[0].value == 2
    histogram = HistogramMeasure("rattle_z", "seconds", "Time.", buckets=(1.0, 2.0)).family([1, 2], 3, 9.5)
    assert [sample.value for sample in histogram.samples] == [1, 2, 3, 3, 9.5]
