"""A run that is spread over services gives the same bytes as one in a single process."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.rollouts.complete import complete
from rattle.trainer.train import resume, train
from tests.flips import FlippingProxy
from tests.services.cluster import Cluster
from tests.trainer.conftest import Silence, read_rows, small_settings

TIMES = ("time", "seconds", "env_steps_per_second", "run_id")
SMALL = ("env.worlds=24", "train.steps=4608", "policy.hidden_sizes=[16]", "record.every_episodes=2")
REINFORCE = ("algorithm.id=reinforce", "algorithm.max_episode_ticks=100", "train.steps=12000")
PPO = ("algorithm={id: ppo, ticks: 16, max_kl: 0.02}",)
GOOD_ENOUGH = ("train.steps=100000", "train.stop_at_return=-0.9")
DUEL = ("env.num_snakes=3", "env.food=2")
STEERED = ("env={id: 'gym:Pendulum-v1', worlds: 4}", "train.steps=1500", "algorithm={ticks: 64}")
EVALUATED = ("evaluation={every_steps: 1000, episodes: 9}",)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("overrides", "envs", "inferences", "actors"),
    [
        ((), 1, 1, None),
        ((), 2, 1, None),
        ((), 4, 1, None),
        (DUEL, 2, 2, 3),
        (EVALUATED, 2, 1, None),
        (GOOD_ENOUGH, 1, 1, None),
        (GOOD_ENOUGH, 2, 2, None),
        (PPO, 1, 1, None),
        (PPO, 2, 2, 3),
        (STEERED, 2, 1, None),
        (REINFORCE, 1, 1, None),
        (REINFORCE, 2, 1, 3),
    ],
)
def test_services_in_mode_on_policy_change_nothing(
    tmp_path: Path, overrides: tuple[str, ...], envs: int, inferences: int, actors: int | None
) -> None:
    here = train(complete(small_settings(*overrides)), tmp_path / "here", Silence())
    settings = [*SMALL, *overrides, *([f"inference.actors={actors}"] if actors else [])]
    with Cluster(tmp_path / "there", *settings, envs=envs, inferences=inferences) as cluster:
        status = cluster.wait_for(lambda status: status.status == "finished")
    assert status.policy_sha256 == here.policy_sha256
    assert (status.policy_version, status.env_steps, status.episodes) == (here.updates, here.env_steps, here.episodes)
    one, other = RunDirectory(tmp_path / "here"), RunDirectory(tmp_path / "there")
    for table in ("episodes", "updates", "evaluations"):
        assert read_rows(other, table, *TIMES) == read_rows(one, table, *TIMES)
    assert other.policy.read_bytes() == one.policy.read_bytes()
    assert other.best_policy.exists() == one.best_policy.exists()
    assert one.best_policy.exists() or overrides not in (GOOD_ENOUGH, EVALUATED)
    if one.best_policy.exists():
        assert other.best_policy.read_bytes() == one.best_policy.read_bytes()


@pytest.mark.whole(suite="slow")
def test_flipped_bits_change_nothing(tmp_path: Path) -> None:
    here = train(complete(small_settings("train.steps=12000")), tmp_path / "here", Silence())
    networks: list[FlippingProxy] = []

    def network(address: str) -> str:
        host, _, port = address.rpartition(":")
        networks.append(FlippingProxy((host, int(port)), flips=20, share=0.25, seed=len(networks)))
        return f"127.0.0.1:{networks[-1].port}"

    waits = ("env.answer_seconds=1", "inference.answer_seconds=1")
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(tmp_path / "there", *SMALL, "train.steps=12000", *waits, network=network))
        for one in networks:
            stack.enter_context(one)
        status, deadline = None, time.monotonic() + 200
        while status is None or status.status != "finished":
            assert time.monotonic() < deadline, status
            cluster.start_again_after(-signal.SIGABRT)  # what some flips in a frame's head do to gRPC's own code
            with suppress(grpc.RpcError):
                status = cluster.status(5)
            time.sleep(0.05)
        assert [one.left for one in networks] == [0, 0]
    assert status.policy_sha256 == here.policy_sha256
    one, other = RunDirectory(tmp_path / "here"), RunDirectory(tmp_path / "there")
    for table in ("episodes", "updates"):
        assert read_rows(other, table, *TIMES) == read_rows(one, table, *TIMES)


def test_a_run_may_move_from_one_process_to_services_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(small_settings("train.steps=2000"), folder, Silence())
    with Cluster(folder, *SMALL, "train.steps=3500") as cluster:
        status = cluster.wait_for(lambda status: status.status == "finished")
    assert status.env_steps >= 3500
    moved = resume(str(folder), 4608, None, Silence())
    assert (moved.status, moved.env_steps) == ("finished", 4608)
    directory = RunDirectory(folder)
    assert [row["policy_version"] for row in read_rows(directory, "updates")] == list(range(1, moved.updates + 1))
    numbers = [row["episode_id"] for row in read_rows(directory, "episodes")]
    assert numbers == list(range(moved.episodes))
