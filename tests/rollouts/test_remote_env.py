"""A process asks an environment server once what it is, and makes no session only to hear it again."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest

from rattle.clients.remote_vector_env import RemoteVectorEnv
from rattle.rollouts.remote_env import open_remote_worlds
from rattle.settings.experiment import EnvironmentSection
from tests.processes import ServiceProcess
from tests.services.cluster import Cluster
from tests.services.training.playing import Client, Player
from tests.template import start
from tests.trainer.conftest import rattle, read_rows, small_settings

SMALL = ("env.worlds=24", "train.steps=4608", "policy.hidden_sizes=[16]", "train.actors=2")


class Proxy:
    """Hands everything on to a server, and keeps what clients have sent."""

    def __init__(self, target: str) -> None:
        address = urlsplit(target)
        self._target = str(address.hostname), int(address.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = bytearray()
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for source, drain, keep in ((client, server, self.sent), (server, client, bytearray())):
                    threading.Thread(target=self._pump, args=(source, drain, keep), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, drain: socket.socket, keep: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                keep += data
                drain.sendall(data)
            drain.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    @property
    def counts(self) -> tuple[int, int]:
        """Return how often it was asked what it is, and for a session."""
        return self.sent.count(b"GET /v1/spec "), self.sent.count(b"POST /v1/sessions ")


@pytest.fixture(scope="module")
def server() -> Iterator[ServiceProcess]:
    with ServiceProcess("env") as process:
        yield process


@pytest.fixture
def proxy(server: ServiceProcess) -> Iterator[Proxy]:
    with closing(Proxy(server.url)) as between:
        yield between


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def test_train_asks_once_and_makes_its_sessions_and_one_to_try(tmp_path: Path, proxy: Proxy) -> None:
    done = rattle("train", "--json", "--run-dir", "run", *sets(f"env.url={proxy.url}", *SMALL), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert proxy.counts == (1, 2 + 1)
    proxy.sent.clear()
    more = rattle("train", "--json", "--resume", "run", "--steps", 6000, cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert proxy.counts == (1, 2)


def test_settings_of_its_own_and_evaluations_are_no_more_questions(tmp_path: Path, proxy: Proxy) -> None:
    own = (f"env.url={proxy.url}", "env.vision_radius=3", "evaluation={every_steps: 1000, episodes: 4}")
    done = rattle("train", "--json", "--run-dir", "run", *sets(*own, *SMALL), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert proxy.counts == (1, 2 + 1 + 1)


@pytest.mark.parametrize("overrides", [(), ("env.vision_radius=3",)])
def test_training_asks_once_and_makes_one_session_to_try(
    tmp_path: Path, proxy: Proxy, overrides: tuple[str, ...]
) -> None:
    own = (f"env.url={proxy.url}", *overrides, *SMALL)
    with ServiceProcess("training", "--run-dir", str(tmp_path / "run"), settings=own):
        assert proxy.counts == (1, 1)
    proxy.sent.clear()
    with ServiceProcess("training", "--run-dir", str(tmp_path / "run"), settings=own):  # goes on with it
        assert proxy.counts == (0, 0)  # the run directory says what it is


def test_a_vector_environment_of_several_sessions_asks_once(proxy: Proxy) -> None:
    with closing(RemoteVectorEnv(proxy.url, 4, sessions=4)) as envs:
        envs.reset(seed=1)
        assert proxy.counts == (1, 4)


def test_a_server_that_was_replaced_is_asked_again(server: ServiceProcess) -> None:
    """What it said before decides neither what is refused nor what is played."""
    with closing(Proxy(server.url)) as between:

        def play(num_snakes: int) -> int:
            env = EnvironmentSection.model_validate({"id": "snake", "url": between.url, "num_snakes": num_snakes})
            with closing(open_remote_worlds(env, 2, 0, 0)) as worlds:
                worlds.step(np.zeros(worlds.num_slots, np.int64))
                return worlds.num_slots

        assert [play(1), play(2), play(1)] == [2, 4, 2]
        assert between.counts[0] == 1
        with ServiceProcess("env", settings=("env.num_snakes=2",)) as other:
            between._target = "127.0.0.1", int(other.url.rpartition(":")[2])
            assert [play(2), play(1)] == [4, 2]
            assert between.counts[0] == 2


@pytest.mark.integration
def test_training_learns_what_only_env_services_can_make(tmp_path: Path) -> None:
    """Neither Training nor Inference has the package, or is told of a server that Training could ask."""
    (tmp_path / "only_there.py").write_text("from tests.envs.parallel_party import parallel_env\n")
    there = ("env", f"PYTHONPATH={tmp_path}:{Path(__file__).parents[2]}")
    named = "env={id: 'pettingzoo:only_there', worlds: 6}"
    small = ("train.steps=1000", "policy.hidden_sizes=[16]")
    with ServiceProcess("env", settings=(named,), prefix=there) as env:
        served = rattle(
            "train", "--run-dir", "served", *sets(f"env.url={env.url}", "env.worlds=6", *small), cwd=tmp_path
        )
        assert served.returncode == 0, served.stderr
        with Cluster(tmp_path / "run", named, *small, envs=0, inferences=0) as cluster:
            assert cluster.status().status == "waiting"
            cluster.services["training"].kill()
            cluster.services["training"].start()
            played = ("inference", "--training", cluster.address, "--env", env.url, "--grpc-port", "0")
            cluster.services["inference"] = ServiceProcess(*played, settings=(named, *small))
            cluster.wait_for(lambda status: status.status == "finished")
            cluster.services["training"].kill()
            cluster.services["training"].start()  # and its run directory says what it learns
            assert cluster.status().status != "waiting"
            assert cluster.status().env_steps >= 1000
    assert cluster.run.policy.read_bytes() == (tmp_path / "served" / "policy.safetensors").read_bytes()


@pytest.mark.integration
def test_an_actor_with_whose_environment_a_run_cannot_begin_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    trained = rattle("train", "--run-dir", "snake", "--steps", 1000, *sets("env.worlds=4"), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    own = ("env={id: 'gym:CartPole-v1'}", f"policy.weights={tmp_path / 'snake' / 'policy.safetensors'}")
    service = start("training", "--run-dir", "run", "--port", "0", *sets(*own), cwd=tmp_path, stdout=-1, stderr=-1)
    assert service.stdout is not None
    address = json.loads(service.stdout.readline())["address"]
    with Client(address) as client, pytest.raises(grpc.RpcError) as error:
        next(client.watch(environment=Player(small_settings(own[0], "env.worlds=1")).environment))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "policy.safetensors does not fit" in str(error.value.details())
    service.terminate()
    _, said = service.communicate(timeout=60)
    assert service.returncode == 0
    assert "policy.safetensors does not fit" in said
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.integration
def test_training_needs_no_package_of_an_environment_that_a_server_plays(tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("from tests.envs.parallel_party import parallel_env\n")
    there = ("env", f"PYTHONPATH={tmp_path}:{Path(__file__).parents[2]}")
    with ServiceProcess("env", settings=("env.id=pettingzoo:only_there",), prefix=there) as env:
        settings = (f"env.url={env.url}", "env.worlds=6", "train.steps=1000", "evaluation.every_steps=500")
        with Cluster(tmp_path / "run", *settings, envs=0, inferences=0) as cluster:
            played = ("inference", "--training", cluster.address, "--env", env.url, "--grpc-port", "0")
            cluster.services["inference"] = ServiceProcess(*played, settings=settings)
            status = cluster.wait_for(lambda status: status.status == "finished")
            assert status.env_steps >= 1000
        assert len(read_rows(cluster.run, "evaluations")) == 2
    here = rattle("train", "--set", "env.id=pettingzoo:only_there", cwd=tmp_path / "run")
    assert here.returncode == 1
    assert "cannot import 'only_there'" in here.stderr
    assert here.stderr.rstrip().endswith("a server that plays it needs no package here: name it in env.url")
