"""The pods of the rendered chart run: the policy is that of one process, and what ends comes back to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.runs.run_tables import read_run_row
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import pods
from tests.deploy.pods import Cluster
from tests.networks import NoNetworkError

pytestmark = [pytest.mark.integration, pytest.mark.promised]

CHART = ROOT / "k8s" / "platform"
EXPERIMENT = {
    "seed": 3,
    "env": {"worlds": 32, "width": 7, "height": 7, "vision_radius": 3},
    "policy": {"hidden_sizes": [16]},
    "train": {"steps": 32 * 16 * 60, "checkpoint_seconds": 0.5},
}


@pytest.fixture(scope="module")
def cluster(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return the pods of the chart, with two of Env and two of Inference, started."""
    sets = {"experiment": EXPERIMENT, "env.replicas": 2, "inference.replicas": 2, "inference.drainSeconds": 1}
    manifests = helm.template(CHART, sets=sets)
    folder = tmp_path_factory.mktemp("cluster")
    for outer in (folder, *folder.parents):
        if outer.stat().st_uid == 0 and outer != Path("/tmp"):  # noqa: S108
            outer.chmod(outer.stat().st_mode | 0o011)  # the user of pods may pass
    try:
        made = Cluster(manifests, [pod for pod in pods(manifests) if "test" not in pod.name], folder)
    except NoNetworkError as error:
        pytest.skip(str(error))
    with made:
        for pod in made.pods.values():
            pod.start()
        yield made


def test_a_run_learns_what_one_process_learns(cluster: Cluster, tmp_path: Path) -> None:
    for name in cluster.pods:
        for kind in ("startup", "readiness", "liveness"):
            cluster.pods[name].wait_until(kind)
    run = RunDirectory(cluster.claims / "runs-rattle-training-0" / "rattle")
    until = time.monotonic() + 120
    while read_run_row(run)["status"] == "running":
        assert time.monotonic() < until
        time.sleep(0.2)
