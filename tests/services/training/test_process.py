"""`rattle training` as a process that is killed, stopped, and spoken to in tongues."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rattle.analytics.run_directory import RunDirectory
from rattle.runs.checkpoint import list_checkpoints, load_checkpoint
from rattle.runs.progress import Summary
from rattle.runs.run_tables import read_run_row
from rattle.services.inference.training_link import TrainingLink
from rattle.services.utils.protos import training_pb2
from rattle.stop_signals import RUN_IS_COMPLETE
from tests.processes import ServiceProcess
from tests.services.raw_http2 import raw_connection
from tests.services.training.playing import ACCEPTED, SECONDS, Client, Player
from tests.template import run
from tests.trainer.conftest import RATTLE, read_rows, small_settings

pytestmark = pytest.mark.integration

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]

SMALL = ("env.worlds=24", "policy.hidden_sizes=[16]", "record.every_episodes=2", "train.steps=4608")
CLOCKS = ("time", "run_id", "seconds", "env_steps_per_second")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def start(directory: RunDirectory, *settings: str, more: tuple[str, ...] = ()) -> ServiceProcess:
    return ServiceProcess("training", "--run-dir", str(directory.path), *more, settings=(*SMALL, *settings))


@pytest.fixture
def service(directory: RunDirectory) -> Iterator[ServiceProcess]:
    with start(directory) as service:
        yield service


def resident_bytes(service: ServiceProcess) -> int:
    return int(Path(f"/proc/{service.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_it_is_asked_over_ipv6_at_the_address_that_it_says(directory: RunDirectory) -> None:
    with start(directory, "training.host=::1") as service:
        address = str(service.hello["address"])
        assert address.startswith("[::1]:")
        link = TrainingLink(address, 2**20)
        assert link.stub.GetStatus(training_pb2.GetStatusRequest(), timeout=SECONDS).policies
        link.close()


def test_bombs_and_calls_that_are_never_finished_leave_memory_and_health(service: ServiceProcess) -> None:
    address, before = str(service.hello["address"]), resident_bytes(service)
    path, unlimited = "/rattle.v1.Training/UpdatePolicy", [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, unlimited) as channel, raw_connection(address) as attacker:
        health, update = health_pb2_grpc.HealthStub(channel), channel.unary_unary(path)
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                update(bytes(200_000_000), timeout=SECONDS, compression=grpc.Compression.Gzip)
        assert resident_bytes(service) - before < 150_000_000
        streams = [attacker.begin(path) for _ in range(20)]
        taken = [attacker.send(stream, 200_000_000, 20_000_000, SECONDS) for stream in streams[:2]]
        assert taken == [20_000_005] * 2
        for stream in streams[2:]:
            assert attacker.send(stream, 200_000_000, 20_000_000, 0.05) < 2**18
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == 1
        with client_of(service) as client:
            assert client.status().status, "who asks how things stand waits for none of them"
        assert resident_bytes(service) - before < 300_000_000


def test_health_is_answered_while_calls_are_reset_as_fast_as_a_connection_can(service: ServiceProcess) -> None:
    address, over = str(service.hello["address"]), threading.Event()

    def flood() -> None:
        with raw_connection(address) as attacker:
            while not over.is_set() and not attacker.told_to_go:
                for _ in range(200):
                    attacker.reset(attacker.begin("/rattle.v1.Training/UpdatePolicy"))
                attacker.read()

    attack = threading.Thread(target=flood)
    attack.start()
    try:
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for _ in range(100):
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == 1
    finally:
        over.set()
        attack.join(SECONDS)


def client_of(service: ServiceProcess) -> Client:
    return Client(str(service.hello["address"]))


def train(client: Client, player: Player, rollouts: list[training_pb2.Rollout], last: int) -> None:
    """Contribute until a version is made: rollouts that were played before, then new ones."""
    for policy in client.watch():
        if policy.finished or policy.version == last:
            return
        if policy.version == len(rollouts):
            rollouts.append(player.play(policy))
        rollout = rollouts[policy.version]
        rollout.lineage = policy.lineage
        assert client.contribute(rollout) == ACCEPTED


def test_it_says_where_it_is_and_that_it_is_well(service: ServiceProcess) -> None:
    assert service.hello["service"] == "training"
    assert service.hello["policies"] == ["main"]
    assert service.hello["mode"] == "on_policy"
    with client_of(service) as client:
        health = health_pb2_grpc.HealthStub(client.channel)
        for name in ("", "rattle.v1.Training"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_operators_are_answered_over_http(directory: RunDirectory) -> None:
    player, rollouts = Player(small_settings(*SMALL)), list[training_pb2.Rollout]()
    with start(directory, "training.http_port=0") as service, client_of(service) as client:
        train(client, player, rollouts, 2)
        client.contribute(rollouts[1])  # once more
        while client.status().env_steps < 2 * 384:  # it is written down after the policy has gone out
            pass
        numbers = httpx.get(f"{service.url}/metrics").text
        for said in (
            'rattle_training_updates_total{policy="main"} 2.0',
            'rattle_training_policy_version{policy="main"} 2.0',
            'rattle_training_env_steps_total{policy="main"} 768.0',
            'rattle_training_rollouts_total{policy="main",verdict="accepted"} 2.0',
            'rattle_training_runs{status="running"} 1.0',
        ):
            assert said in numbers
        came = re.findall(r"^rattle_training_rollouts_total{.*} (\S+)", numbers, re.MULTILINE)
        assert sum(map(float, came)) == 3
        (waited,) = re.findall(r"^rattle_training_wait_seconds_total{.*} (\S+)", numbers, re.MULTILINE)
        assert float(waited) > 0
        (policy,) = httpx.get(f"{service.url}/v1/status").json()["policies"]
        assert (policy["policy_id"], policy["status"], policy["policy_version"]) == ("main", "running", 2)
        assert policy["evaluation_return"] is None
        assert policy["actors"]["actor"]["worlds"] == 24
        assert [httpx.get(f"{service.url}{path}").status_code for path in ("/healthz", "/readyz")] == [200, 200]
        assert service.kill(signal.SIGTERM) == 0


def test_killed_at_any_time_it_goes_on_exactly_from_its_last_checkpoint(
    train_small: TrainSmall, directory: RunDirectory
) -> None:
    _, expected = train_small(*SMALL)
    player, rollouts = Player(small_settings(*SMALL)), list[training_pb2.Rollout]()
    with start(directory, "train.checkpoint_seconds=0.05") as service:
        for last in (3, 7, 10, 100):
            with client_of(service) as client:
                train(client, player, rollouts, last)
                if last < 100:
                    service.kill()
            if last < 100:
                newest = list_checkpoints(directory)[-1]
                stored = load_checkpoint(newest, read_run_row(directory)["run_id"]).update
                service.start()
                with client_of(service) as client:
                    assert client.policy().version == client.status().checkpoint_version == stored <= last
        assert service.kill(signal.SIGTERM) == 0
    assert directory.policy.read_bytes() == expected.policy.read_bytes()
    for table in ("updates", "episodes"):
        assert read_rows(directory, table, *CLOCKS) == read_rows(expected, table, *CLOCKS)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, "interrupted"), (signal.SIGINT, "interrupted"), (RUN_IS_COMPLETE, "finished")],
)
def test_a_signal_ends_it_in_good_order_with_a_checkpoint(
    service: ServiceProcess, directory: RunDirectory, number: signal.Signals, status: str
) -> None:
    player, rollouts = Player(small_settings(*SMALL)), list[training_pb2.Rollout]()
    with client_of(service) as client:
        train(client, player, rollouts, 2)
        watching = client.watch()
        next(watching)
        assert service.kill(number) == 0
        with pytest.raises(grpc.RpcError) as error:
            list(watching)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    row = read_run_row(directory)
    assert (row["status"], row["updates"]) == (status, 2)
    assert len(list_checkpoints(directory)) == 2


def until_its_end(watching: Iterator[training_pb2.Policy]) -> list[training_pb2.Policy]:
    """Return all policies that come until the service ends."""
    policies = []
    with suppress(grpc.RpcError):
        for policy in watching:
            policies.append(policy)  # noqa: PERF402 - those that came before the error stay
    return policies


def test_until_finished_it_ends_with_what_came_of_its_runs(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_ID", "chosen-1")
    player, rollouts = Player(small_settings(*SMALL)), list[training_pb2.Rollout]()
    with start(directory, more=("--until-finished",)) as service:
        with client_of(service) as client:
            train(client, player, rollouts, 2)
            assert service.kill(signal.SIGTERM) == 128 + signal.SIGTERM
        assert read_run_row(directory)["status"] == "interrupted"
        service.start()
        with client_of(service) as client, client_of(service) as other:
            watching = other.watch()
            assert next(watching).version == 2
            train(client, player, rollouts, 100)
            assert until_its_end(watching)[-1].finished
            assert service.wait() == 0
        row, checkpoints = read_run_row(directory), list_checkpoints(directory)
        assert (row["status"], row["run_id"]) == ("finished", "chosen-1")
        service.start()  # as a Job does whose pod was lost at the very end
        assert service.wait() == 0
    assert (read_run_row(directory), list_checkpoints(directory)) == (row, checkpoints), "it has ended once"
    assert [log["event"] for log in read_rows(directory, "logs")].count("run_finished") == 1


def test_until_finished_it_ends_with_an_error_where_a_run_has_failed(directory: RunDirectory) -> None:
    player = Player(small_settings(*SMALL))
    with start(directory, "train.max_reward=null", more=("--until-finished",)) as service, client_of(service) as client:
        with suppress(grpc.RpcError):
            for policy in client.watch():
                rollout = player.play(policy)
                rollout.reward.data = np.full(tuple(rollout.reward.shape), 3e38, np.float32).tobytes()
                client.send(rollout)
        assert service.wait() == 1
    assert read_run_row(directory)["status"] == "failed"


def test_garbage_on_the_port_disturbs_nobody(service: ServiceProcess) -> None:
    host, _, port = str(service.hello["address"]).rpartition(":")
    player, rollouts = Player(small_settings(*SMALL)), list[training_pb2.Rollout]()
    with client_of(service) as client:
        train(client, player, rollouts, 1)
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(100_000),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999,
        ):
            # It hangs up at any point of it.
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(2**16):
                    pass
        train(client, player, rollouts, 3)
        assert client.status().policy_version == 3


def test_an_address_that_is_taken_is_said_in_one_line_and_leaves_no_run(
    service: ServiceProcess, directory: RunDirectory
) -> None:
    port = str(service.hello["address"]).rpartition(":")[2]
    elsewhere = directory.path.with_name("elsewhere")
    found = run("training", "--port", port, "--run-dir", str(elsewhere), cwd=directory.path)
    assert found.returncode == 1
    assert found.stdout == ""
    assert "Address already in use" in found.stderr
    assert found.stderr.count("\n") == 1
    assert not elsewhere.exists()


SPY = """
import sys
events = []
def hook(event, arguments):
    if event in ("pickle.find_class", "marshal.load", "marshal.loads", "os.system", "exec", "compile") and watching:
        events.append((event, str(arguments)[:200]))
watching = []
sys.addaudithook(hook)
"""


def test_nothing_that_arrives_is_unpickled(tmp_path: Path) -> None:
    """The interpreter itself reports what is unpickled or run while a service is sent pickles in every place."""
    script = tmp_path / "spied.py"
    script.write_text(SPY + PICKLES)
    found = subprocess.run(
        [RATTLE[0], str(script)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1]) == {"refused": 9, "seen": [], "control": ["pickle.find_class"]}


PICKLES = """
import json, os, pickle, tempfile
from pathlib import Path
import grpc
from rattle.services.inference.training_link import TrainingLink
from rattle.services.utils.protos import training_pb2
from tests.services.training.playing import ACCEPTED, Player, Server
from tests.trainer.conftest import small_settings

class Evil:
    def __reduce__(self):
        return (os.system, ("false",))

evil = pickle.dumps(Evil())
settings = small_settings("env.worlds=4")
player = Player(settings)
refused = 0
with tempfile.TemporaryDirectory() as folder, Server(settings, Path(folder) / "run") as server:
    with server.client() as client:
        first = player.play(client.policy())
        client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(policy=client.policy().file, rollout=first))
        assert client.contribute(first) == ACCEPTED  # whatever is imported late has been by now
        next(client.watch())
    watching.append(True)
    for place in ("policy", "observation", "reward", "last_value", "metrics", "state", "actor", "world_episode", "raw"):
        with server.client() as client:
            request = training_pb2.UpdatePolicyRequest(rollout=first)
            rollout = request.rollout
            try:
                if place == "policy":
                    request.policy = evil
                    client.stub.UpdatePolicy(request)
                elif place == "metrics":
                    rollout.metrics["food"].data = evil
                    client.contribute(rollout)
                elif place == "state":
                    rollout.state.append(evil.decode("latin-1"))
                    client.contribute(rollout)
                elif place == "actor":
                    rollout.actor = evil.decode("latin-1") * 10
                    client.contribute(rollout)
                elif place == "raw":
                    client.channel.unary_unary("/rattle.v1.Training/UpdatePolicy")(evil, timeout=30)
                else:
                    getattr(rollout, place).data = evil
                    client.contribute(rollout)
            except grpc.RpcError:
                refused += 1
    seen = list(events)
    pickle.loads(pickle.dumps(Path))  # the spy does see what is unpickled
    control = [event for event, _ in events[len(seen):]]
    watching.clear()
print(json.dumps({"refused": refused, "seen": seen, "control": control}))
"""
