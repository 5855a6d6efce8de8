"""What is served under which name, and from when on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy
from rattle.services.inference.metrics import InferenceMetrics
from rattle.services.inference.serving.dataplane import DataPlane
from rattle.services.inference.serving.models import Models
from rattle.wire.problems import RequestError
from tests.services.inference.serving.building import CODES, FLOATS, Sequences, data_plane, policy, run


def test_versions_of_one_policy_share_what_describes_them() -> None:
    """Sequences hold it for as long as they are idle, and that of a network of a user has megabytes."""
    models = Models()
    models.publish("main", policy())
    spec = models.get("main").spec
    models.publish("main", replace(policy(version=8), spec=CODES.model_copy()))
    assert models.get("main").spec is spec
    models.publish("main", policy(FLOATS))
    assert models.get("main").spec == FLOATS


def test_a_name_stands_for_the_last_policy_that_was_published() -> None:
    models = Models()
    for version in (3, 9, 4):  # after a crash of the learner versions go back
        models.publish("main", policy(version=version))
        assert models.get("main").version == models.get("main", str(version)).version == str(version)
    models.publish("another", policy(FLOATS))
    assert [served.name for served in models.all()] == ["another", "main"]


def test_requests_that_have_begun_with_a_version_end_with_it() -> None:
    models = Models()
    models.publish("main", policy(version=1))
    earlier, row = models.get("main"), CODES.observation.zeros(1)
    before = earlier.acting.forward(row)[0].tobytes()
    other = {name: array + 1 for name, array in policy().parameters.items()}
    models.publish("main", StoredPolicy(CODES, other, 2, "snake", {}))
    assert earlier.acting.forward(row)[0].tobytes() == before
    assert models.get("main").acting.forward(row)[0].tobytes() != before


@pytest.mark.parametrize(
    ("name", "version", "message", "field"),
    [
        ("rival", "", "model_name: there is no 'rival'; served are: main", "model_name"),
        ("", "", "model_name: there is no ''", "model_name"),
        ("main", "8", "model_version: '8' of model 'main' is not served, but version 7", "model_version"),
        ("main", "07", "model_version: '07'", "model_version"),
        ("x" * 10_000, "", "model_name: there is no 'xxx", "model_name"),
    ],
)
def test_what_is_not_served_is_said(name: str, version: str, message: str, field: str) -> None:
    models = Models()
    models.publish("main", policy())
    with pytest.raises(RequestError, match=message) as refused:
        models.get(name, version)
    assert (refused.value.code, refused.value.field) == ("unknown_policy", field)
    assert len(str(refused.value)) < 300


def test_parameters_that_do_not_fit_are_not_served() -> None:
    models, good = Models(), policy()
    models.publish("main", good)
    broken = StoredPolicy(CODES, policy(FLOATS).parameters, 8, "snake", {})
    with pytest.raises(PolicyError, match="expected the parameters"):
        models.publish("main", broken)
    assert models.get("main").policy is good


def test_policies_may_be_published_from_many_threads() -> None:
    models = Models()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: models.publish(f"policy-{number:02}", policy(version=number)), range(40)))
    assert [served.policy.version for served in models.all()] == list(range(40))


def test_nothing_is_ready_before_the_first_policy_has_come() -> None:
    async def test() -> None:
        plane, _ = data_plane()
        plane.check_ready()
        plane.check_model_ready("main", "7")
        with pytest.raises(RequestError, match="there is no 'rival'"):
            plane.check_model_ready("rival", "")
        empty = DataPlane(Models(), InferenceMetrics(), 1, Sequences())
        with pytest.raises(RequestError, match="no policy has come yet"):
            empty.check_ready()

    run(test)
