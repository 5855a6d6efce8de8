"""The pods of the rendered chart run as containers of the images, and keep what pods that are processes keep."""

from __future__ import annotations

import pytest

from tests.deploy.containers import needs_images
from tests.deploy.pods import Cluster
from tests.deploy.pods_in_containers import ContainerCluster
from tests.deploy.test_platform_pods import (  # noqa: F401 (the same tests, with another kind of pods)
    alone,
    cluster,
    finished,
    test_a_container_writes_to_its_volumes_only_and_is_not_root,
    test_helm_test_passes,
    test_in_lockstep_with_certificates_all_ticks_are_made,
    test_pods_that_end_leave_in_peace_and_come_back_to_the_run,
    test_the_policy_is_that_of_one_process,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600), needs_images]


@pytest.fixture(scope="module")
def kind() -> type[Cluster]:
    """Return what pods are here: containers."""
    return ContainerCluster
