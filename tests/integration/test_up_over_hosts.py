"""`rattle up` over hosts with networks of their own: the same policy as in one process, and nothing outlives it.

The launcher, the environment, the actors and Training each have a network namespace. Training has no disk with the
launcher in common: what that has is hidden from it. The actors are started through a stand-in of Slurm's srun.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.runs.run_tables import read_run_row
from tests.launch.test_processes import PATIENCE, wait_for_end
from tests.launch.test_up_services import SMALL, Running, running
from tests.networks import Network, NoNetworkError
from tests.template import NAMESPACE
from tests.trainer.conftest import last_json, rattle

# The last test resumes the run of the first: none is left out without the others.
pytestmark = [pytest.mark.integration, pytest.mark.promised, pytest.mark.whole(suite="slow")]

HOSTS = ("hub", "env", "actors", "learner")
STEPS = 20_000
LOCKSTEP = ("sync.mode=lockstep", "inference.snakes=1", "train.steps=null")
SRUN = Path(__file__).with_name("srun")
#: Runs a command in the learner's folder, where what the launcher has on its disk is not to be seen.
WITHOUT_DISK = 'mount -t tmpfs none "$0" && cd "$1" && shift && exec "$@"'
NETWORK_SECONDS = 2.0  # within which all must be gone


class Hosts:
    """Where the services of a run are, and how they are started there."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.hub, self.learner = network, folder / "hub", folder / "learner"
        self.hub.mkdir()
        self.learner.mkdir()
        prefixes = {
            "env": network.within("env"),
            "inference": (str(SRUN), "-N1", "-n1", *network.within("actors")),
            "training": (
                *network.within("learner"),
                *("unshare", "-m", "sh", "-c", WITHOUT_DISK, str(self.hub), str(self.learner)),
            ),
        }
        words = {kind: ", ".join(f"'{word}'" for word in prefix) for kind, prefix in prefixes.items()}
        self.settings = tuple(
            part for kind, listed in words.items() for part in ("--set", f"topology.prefix.{kind}=[{listed}]")
        )
        self.variables = {
            NAMESPACE: network.namespace("hub"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FAKE_SRUN_USED": str(folder / "srun-was-used"),
        }

    def pids(self, *hosts: str) -> list[int]:
        """List the processes of hosts."""
        asking = [["ip", "netns", "pids", self.network.namespace(host)] for host in hosts]
        return [int(pid) for ask in asking for pid in subprocess.check_output(ask).split()]

    def pid_of(self, host: str, service: str) -> int:
        """Return the process of a service on its host."""
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in self.pids(host)}
        return next(pid for pid, words in commands.items() if service.encode() in words and b"--leash" in words)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with ExitStack() as stack:
        try:
            network = stack.enter_context(Network(HOSTS))
        except NoNetworkError as error:
            pytest.skip(f"no network namespaces here: {error}")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for variable in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):  # there is none in there
            for name in (variable, variable.upper()):
                patch.delenv(name, raising=False)
        yield Hosts(network, tmp_path_factory.mktemp("hosts"))


def test_services_on_other_hosts_make_the_policy_of_one_process(hosts: Hosts) -> None:
    arguments = ("--run-dir", "run", "--steps", str(STEPS), *SMALL, *hosts.settings)
    with running(hosts.hub, *arguments, **hosts.variables) as run:
        status, said = run.end()
    assert status == 0, said
    assert run.address("env-0").startswith(f"http://{hosts.network.address('env')}:")
    assert run.address("training-0").startswith(f"{hosts.network.address('learner')}:")
    assert "inference-0: died: srun: error: Unable to create step" in said
    assert "the run's files are not on this machine, but where training-0 runs (ip netns exec" in said
    assert said.rstrip().endswith(f": {hosts.learner / 'run'}")
    train = rattle("train", "--json", "--run-dir", "own", "--steps", str(STEPS), *SMALL, cwd=hosts.learner)
    assert run.summary["status"] == "finished"
    assert run.summary["policy_sha256"] == last_json(train.stdout)["policy_sha256"]
    for where in (hosts.hub, hosts.learner):
        row = read_run_row(RunDirectory(where / "run"))
        assert (row["status"], row["policy_sha256"]) == ("finished", run.summary["policy_sha256"])
        assert not RunDirectory(where / "run").token.exists()


def test_a_run_in_lockstep_has_finished_on_the_disk_of_training_too(hosts: Hosts) -> None:
    ticks = tuple(part for setting in (*LOCKSTEP, "sync.ticks=60") for part in ("--set", setting))
    with running(hosts.hub, "--run-dir", "ticks", *ticks, *hosts.settings, **hosts.variables) as run:
        status, said = run.end()
    assert (status, run.summary["status"]) == (0, "finished"), said
    for where in (hosts.hub, hosts.learner):
        assert read_run_row(RunDirectory(where / "ticks"))["status"] == "finished"


def times_ready(run: Running) -> Counter[str]:
    """Return how often each service has been ready."""
    rows = [json.loads(line) for line in (run.directory.table("logs") / "up.jsonl").read_text().splitlines()]
    return Counter(json.loads(row["fields"])["service"] for row in rows if row["event"] == "service_ready")


def test_a_resumed_run_outlives_its_services_and_commands_and_nothing_outlives_its_launcher(hosts: Hosts) -> None:
    with running(hosts.hub, "--resume", "run", "--steps", str(1000 * STEPS), **hosts.variables) as run:
        steps = run.progress()
        assert next(steps) > STEPS
        before = {name: run.address(name) for name in ("env-0", "training-0", "inference-0")}
        starts = times_ready(run)
        os.kill(run.pids()["inference-0"], signal.SIGKILL)  # the srun, which leaves its task behind
        os.kill(hosts.pid_of("learner", "training"), signal.SIGKILL)
        back = starts + Counter(("inference-0", "training-0"))
        next(_ for _ in steps if times_ready(run) == back)
        assert {name: run.address(name) for name in before} == before, "all came back at their ports"
        next(steps)
        srun = run.pids()["inference-0"]
        assert len(hosts.pids(*HOSTS)) > len(HOSTS)
        run.signal(signal.SIGKILL)
        killed = time.monotonic()
        while (left := hosts.pids(*HOSTS)) and time.monotonic() < killed + PATIENCE:
            time.sleep(0.05)
        took = time.monotonic() - killed
        wait_for_end(srun)
    assert not left
    assert took < NETWORK_SECONDS, took
