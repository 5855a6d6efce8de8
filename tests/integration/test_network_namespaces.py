"""Lockstep over a network whose kernel drops datagrams, and where a member is cut off: the run is the same run.

Every service has a network namespace of its own; a router in between forwards, and drops.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.updates import read_updates
from rattle.launch.compare import Curves, MemberHistory, first_difference, first_different_update, read_history
from rattle.runs.run_tables import read_run_row
from rattle.tokens import make_token
from tests.networks import Network, NoNetworkError
from tests.processes import ServiceProcess

pytestmark = [pytest.mark.integration, pytest.mark.promised]

PATIENCE = 60.0  # seconds that something may take on a busy machine
TICKS = 300
LOST_PERCENT = 15
CUT_SECONDS = 3.0
MEMBERS = ("env", "inference-0", "inference-1")
SETTINGS = (
    "sync.mode=lockstep",
    f"sync.ticks={TICKS}",
    "sync.silence_seconds=1",
    "env.width=9",
    "env.height=9",
    "env.num_snakes=4",
    "env.food=4",
    "env.max_steps_without_food=20",
    "inference.snakes=4",
    "topology.inference=2",
    "policy.hidden_sizes=[16]",
    "train.steps=null",
)
#: Asks within the service's network, where the test itself is not.
ASK = """import sys, urllib.request
headers = {"Authorization": "Bearer " + open(sys.argv[2]).read().strip()}
print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers), timeout=30).read().decode())"""


class Run:
    """A run in progress: four snakes in one world, played by two Inference services, and learning."""

    def __init__(self, network: Network, folder: Path, stack: ExitStack, more: tuple[str, ...]) -> None:
        self._network, self._folder, self._stack = network, folder, stack
        self._history = folder / "history.jsonl"
        self._token = folder / "token"
        make_token(self._token)
        self._settings = (*SETTINGS, *more, f"security.token_file={self._token}")
        leading = ("--http-port", "0", "--members", str(len(MEMBERS)), "--history", str(self._history))
        self._sync = self._start("sync", "sync", *leading)
        self._settings += (f"sync.address={self._sync.hello['address']}",)
        env = self._start("env", "env")
        self._training = self._start("training", "training", "--run-dir", str(folder / "run"))
        playing = ("--training", str(self._training.hello["address"]), "--env", env.url, "--grpc-port", "0")
        self._inferences = [
            self._start(f"inference-{index}", "inference", *playing, "--set", f"inference.index={index}")
            for index in range(2)
        ]

    def _start(self, host: str, service: str, *arguments: str) -> ServiceProcess:
        given = (service, "--host", self._network.address(host), *arguments)
        process = ServiceProcess(*given, settings=self._settings, namespace=self._network.namespace(host))
        return self._stack.enter_context(process)

    def status(self) -> dict[str, Any]:
        """Ask the Sync service where it stands."""
        asking = [
            *self._network.within("sync"),
            sys.executable,
            "-I",
            "-c",
            ASK,
            f"{self._sync.url}/v1/status",
            self._token,
        ]
        status: dict[str, Any] = json.loads(subprocess.run(asking, capture_output=True, check=True).stdout)
        return status

    def wait_for(self, tick: int, phase: str) -> None:
        """Wait until a phase is complete."""
        line = f'{{"tick":{tick},"phase":"{phase}",'.encode()
        until(lambda: line in self._history.read_bytes())

    def end(self) -> Outcome:
        """Wait for the last phase, stop all services in good order, and return what came of the run."""
        self.wait_for(TICKS, "act")
        status = self.status()
        for service in (*self._inferences, self._training, self._sync):
            assert service.kill(SIGTERM) == 0
        run = RunDirectory(self._folder / "run")
        history = read_history(self._history.read_bytes(), str(self._history))
        sha256 = str(read_run_row(run)["policy_sha256"])
        return Outcome(history, sha256, read_updates(run), status, self._network.counted())


class Outcome(NamedTuple):
    """What a run leaves behind."""

    history: MemberHistory
    policy_sha256: str
    updates: Curves
    status: dict[str, Any]
    routed: dict[str, int]

    def must_be_as(self, other: Outcome) -> None:
        """Check that the same happened, and the same was learnt."""
        assert first_difference([self.history, other.history]) is None
        assert self.history.moments == other.history.moments
        assert first_different_update([self.updates, other.updates]) is None
        assert self.policy_sha256 == other.policy_sha256
        assert self.history.contradictions == self.status["disagreements"] == []
        assert self.status["epoch"] == 1


@contextmanager
def running(network: Network, folder: Path, *more: str) -> Iterator[Run]:
    """Have all services run, each in its own network, until the block ends."""
    with ExitStack() as stack:
        yield Run(network, folder, stack, more)


def states(status: dict[str, Any]) -> dict[str, str]:
    """Return where each member stands."""
    return {member["name"]: member["state"] for member in status["members"]}


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Network(("sync", "training", *MEMBERS)))
        except NoNetworkError as error:
            pytest.skip(f"no network namespaces here: {error}")
        for variable in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):  # there is none in there
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for name in (variable, variable.upper()):
                patch.delenv(name, raising=False)
        yield made


@pytest.fixture(scope="module")
def undisturbed(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Play it over the same network while that is well."""
    network.lose(0)
    with running(network, tmp_path_factory.mktemp("undisturbed")) as run:
        return run.end()


def test_every_datagram_crosses_the_router(network: Network, undisturbed: Outcome) -> None:
    addresses = {member["name"]: member["address"].partition(":")[0] for member in undisturbed.status["members"]}
    assert addresses == {member: network.address(member) for member in MEMBERS}
    datagrams, routed = undisturbed.status["datagrams"], undisturbed.routed
    assert routed["datagrams"] >= datagrams["sent"] > 2 * TICKS
    assert (routed["lost"], routed["cut"]) == (0, 0)
    assert routed["segments"] > TICKS, "moves and rollouts cross it too"
    assert undisturbed.history.ticks == TICKS
    assert sorted(undisturbed.history.newest()) == ["env", "main-0", "main-1", "main-2", "main-3"]
    assert len(undisturbed.updates["policy_version"]) > 2


@pytest.mark.whole(suite="slow")
def test_what_the_kernel_drops_decides_nothing(network: Network, undisturbed: Outcome, tmp_path: Path) -> None:
    network.lose(LOST_PERCENT)
    with running(network, tmp_path) as run:
        lossy = run.end()
    lossy.must_be_as(undisturbed)
    lost, datagrams = lossy.routed["lost"], lossy.routed["datagrams"]
    assert 0.6 < 100 * lost / datagrams / LOST_PERCENT < 1.4
    repeated = {member["name"]: member["repeated"] for member in lossy.status["members"]}
    assert min(repeated.values()) > 0
    # Half of what was lost came from the Sync service, and nearly all of that were ticks, which had to be repeated.
    assert sum(repeated.values()) > lost / 4


def test_a_member_that_is_cut_off_for_seconds_is_waited_for(
    network: Network, undisturbed: Outcome, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network.lose(0)
    with running(network, tmp_path, "sync.frequency=60") as run:  # so that there is a middle to hit
        run.wait_for(TICKS // 4, "step")
        with network.cut_off("inference-1"):
            end = time.monotonic() + CUT_SECONDS
            until(lambda: states(run.status())["inference-1"] == "suspected")
            before = run.status()
            time.sleep(max(0.0, end - time.monotonic()))
            after = run.status()
        outcome = run.end()
    outcome.must_be_as(undisturbed)
    assert outcome.routed["cut"] > 0
    assert before["waiting_for"] == after["waiting_for"] == ["inference-1"]
    assert before["tick"] == after["tick"] < TICKS
    assert states(after)["inference-1"] == "suspected"
    assert states(outcome.status)["inference-1"] == "present"
    assert "inference-1 has not been heard for 1 s: it is waited for" in capfd.readouterr().err
