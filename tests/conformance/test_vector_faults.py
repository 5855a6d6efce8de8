"""Each check of the vector API fails on a server that is broken for it, and passes on the same server unbroken."""

from __future__ import annotations

import pytest

from rattle.conformance.table import CHECKS
from tests.conformance.broken_env import Broken, Fault
from tests.conformance.running import asgi_server, results
from tests.conformance.vector_faults import FAULTS

pytestmark = pytest.mark.integration

#: Two snakes on a small board that starve soon: worlds end often, and agents die before their worlds.
SMALL = (
    "env.num_snakes=2",
    "env.width=7",
    "env.height=7",
    "env.vision_radius=2",
    "env.max_steps_without_food=12",
    "env_service.max_sessions=6",
    "env_service.max_body_bytes=32768",
)


def test_every_check_has_a_server_that_breaks_it() -> None:
    assert set(FAULTS) == {check.id for check in CHECKS if check.face == "vector"}


def test_the_unbroken_server_passes_every_check_but_that_of_lacking_features() -> None:
    with asgi_server(Broken(Fault(), *SMALL)) as url:
        found = results(url, "vector")
    assert {name: result for name, result in found.items() if result.result == "fail"} == {}
    assert [name for name, result in found.items() if result.result == "skip"] == ["vector.state.absent"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_server_fails_the_check_that_is_meant_for_it(name: str) -> None:
    with asgi_server(Broken(FAULTS[name], *SMALL)) as url:
        result = results(url, name, timeout=3.0)[name]
    assert result.result == "fail", result.sentence
    assert "not of the shape" not in result.sentence, "the check stumbled instead of judging"
    assert result.evidence
