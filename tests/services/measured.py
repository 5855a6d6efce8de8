"""What services show Prometheus, held to what is described."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from rattle.services.utils.measures import measures


def check_described(exposition: bytes, package: str) -> set[str]:
    """Return the names of the numbers that a service shows, all of which must be described, as what they are."""
    known = measures()
    described = {(measure.name, measure.kind): measure for measure in (*known["utils"], *known[package])}
    families = list(text_string_to_metric_families(exposition.decode()))
    for family in families:
        if family.name.endswith("_created"):  # the library's own, of each counter
            continue
        assert (family.name, family.type) in described, family
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        same_name = [one for one in (*known["utils"], *known[package]) if one.name == family.name]
        assert labels <= {frozenset(one.labels) for one in same_name}, family
    return {family.name for family in families}
