"""What is learnt over the wire is what `rattle train` learns, whoever plays and whatever breaks on the way."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rattle.analytics.run_directory import RunDirectory
from rattle.policies.file import load_policy
from rattle.rollouts.complete import complete
from rattle.rollouts.worlds import build_worlds, settings_of_policy
from rattle.runs.progress import Summary
from rattle.runs.run_tables import read_run_row
from rattle.samples.rollout import as_tensors, join
from rattle.services.training.rollout_messages import RunRolloutSpec, read_contribution
from rattle.services.utils.protos import training_pb2
from rattle.trainer.build import build_learner
from rattle.trainer.train import train
from tests.services.training.playing import (
    ACCEPTED,
    DUPLICATE,
    FINISHED,
    SECONDS,
    STALE,
    BusyLearner,
    Client,
    Player,
    Server,
    SlowDisk,
    episodes_in,
    train_to_the_end,
)
from tests.services.training.test_rollout_messages import episode
from tests.trainer.conftest import Silence, read_rows, small_settings

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]

EXPERIMENTS = {
    "a2c": (),
    "reinforce": ("algorithm={id: reinforce, max_episode_ticks: 64}", "train.steps=6000"),
    "ppo": ("algorithm={id: ppo, ticks: 16, passes: 2}",),
    "duel": ("env.num_snakes=3", "env.food=2"),
    "cartpole": ("env={id: 'gym:CartPole-v1', worlds: 6}", "train.steps=3000"),
}
CLOCKS = ("time", "run_id", "seconds", "env_steps_per_second")


def steps_of(directory: RunDirectory) -> list[dict[str, object]]:
    """Return the recorded episodes, but for the name of the run."""
    tables = [pq.read_table(path) for path in sorted(directory.table("steps").glob("*.parquet"))]
    return [row for table in tables for row in table.drop_columns(["run_id"]).to_pylist()]


@pytest.mark.parametrize("overrides", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_run_equals_that_of_rattle_train(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    settings = complete(small_settings(*overrides))
    expected, directory = RunDirectory(tmp_path / "here"), RunDirectory(tmp_path / "served")
    summary = train(settings, expected.path, Silence())
    with Server(settings, directory.path) as server, server.client() as client:
        last = train_to_the_end(client, Player(settings))
        assert client.contribute(Player(settings, life="late").play(client.policy())) == FINISHED
        status = _until(client, "finished")
    assert last.version == summary.updates
    assert last.file == directory.policy.read_bytes() == expected.policy.read_bytes()
    assert status.policy_sha256 == summary.policy_sha256
    assert (status.env_steps, status.episodes) == (summary.env_steps, summary.episodes)
    assert (status.mean_return, status.mean_episode_length) == (summary.mean_return, summary.mean_episode_length)
    for table in ("updates", "episodes"):
        assert read_rows(directory, table, *CLOCKS) == read_rows(expected, table, *CLOCKS)
    assert steps_of(directory) == steps_of(expected)
    row, wanted = read_run_row(directory), read_run_row(expected)
    for name in ("status", "updates", "episodes", "env_steps", "policy_sha256", "mean_return"):
        assert row[name] == wanted[name]


@pytest.mark.parametrize("overrides", [EXPERIMENTS["a2c"], EXPERIMENTS["reinforce"]], ids=["a2c", "reinforce"])
def test_neither_shares_nor_order_nor_broken_streams_matter(
    train_small: TrainSmall, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    _, expected = train_small(*overrides)
    settings, chance = small_settings(*overrides), random.Random(0)  # noqa: S311
    shares = [(0, 5), (5, 12), (17, 7)]
    players = [Player(settings, first, worlds, actor=f"actor {first}") for first, worlds in shares]
    directory = RunDirectory(tmp_path / "served")
    with Server(settings, directory.path) as server, server.client() as watcher:
        clients = [server.client() for _ in players]
        for policy in watcher.watch():
            if policy.finished:
                break
            for number in chance.sample(range(3), 3):
                rollout = players[number].play(policy)
                if chance.random() < 0.3:  # the stream breaks, and nobody knows whether the rollout has arrived
                    clients[number].send(rollout)
                    clients[number].close()
                    clients[number] = server.client()
                    assert clients[number].contribute(rollout) in (ACCEPTED, DUPLICATE)
                else:
                    assert clients[number].contribute(rollout) == ACCEPTED
                if chance.random() < 0.5:
                    assert clients[number].contribute(rollout) in (DUPLICATE, FINISHED)
        for client in clients:
            client.close()
        _until(watcher, "finished")
    assert directory.policy.read_bytes() == expected.policy.read_bytes()
    for table in ("updates", "episodes"):
        assert read_rows(directory, table, *CLOCKS) == read_rows(expected, table, *CLOCKS)


def test_a_service_that_is_started_again_goes_on_where_it_was_stopped(train_small: TrainSmall, tmp_path: Path) -> None:
    _, expected = train_small()
    settings, player = small_settings(), Player(small_settings())
    directory = RunDirectory(tmp_path / "served")
    lineages = set()
    for life in range(3):
        with Server(settings, directory.path) as server, server.client() as client:
            policies = client.watch()
            for policy in policies:
                if policy.finished or (life < 2 and policy.version == 4 * (life + 1)):
                    break
                lineages.add(policy.lineage)
                assert client.contribute(player.play(policy)) == ACCEPTED
        assert read_run_row(directory)["status"] == ("interrupted" if life < 2 else "finished")
    assert len(lineages) == 3
    assert directory.policy.read_bytes() == expected.policy.read_bytes()
    for table in ("updates", "episodes"):
        assert read_rows(directory, table, *CLOCKS) == read_rows(expected, table, *CLOCKS)
    assert [row["event"] for row in read_rows(directory, "logs")] == [
        "run_started",
        "training_stopped",
        "run_resumed",
        "training_stopped",
        "run_resumed",
        "run_finished",
    ]


def test_an_update_that_is_due_is_made_before_it_stops(
    train_small: TrainSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_updates = ("train.steps=768",)
    _, expected = train_small(*two_updates)
    settings, directory = small_settings("train.steps=null"), RunDirectory(tmp_path / "served")
    disk = SlowDisk(monkeypatch)
    with Server(settings, directory.path) as server, server.client() as client, server.client() as watcher:
        player = Player(settings)
        for _, policy in zip(range(2), watcher.watch(), strict=False):
            assert client.contribute(player.play(policy)) == ACCEPTED
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        with pytest.raises(grpc.RpcError):  # it is stopping; the first update is still being written down
            client.receipt()
        arrived, until_stored = threading.Event(), server.service.until_stored

        async def arrive() -> None:
            arrived.set()
            await until_stored()

        monkeypatch.setattr(server.service, "until_stored", arrive)
        asked = watcher.stub.GetStatus.future(training_pb2.GetStatusRequest(), timeout=SECONDS)
        assert arrived.wait(SECONDS)
        assert not asked.done()
        disk.go_on()
        status = asked.result().policies[0]
        stopping.join()
    assert (status.status, status.policy_version, status.checkpoint_version) == ("interrupted", 2, 2)
    assert status.policy_sha256 == read_run_row(directory)["policy_sha256"]
    assert read_run_row(directory)["status"] == "interrupted"
    assert read_run_row(directory)["updates"] == 2
    assert directory.policy.read_bytes() == expected.policy.read_bytes()


def test_rollouts_of_an_earlier_start_are_stale(tmp_path: Path) -> None:
    settings = small_settings()
    player = Player(settings)
    with Server(settings, tmp_path / "run") as server, server.client() as client:
        first = player.play(client.policy())
        assert client.contribute(first) == ACCEPTED
        late = player.play(client.policy())
        _until(client, "running", version=1)
    with Server(settings, tmp_path / "run") as server, server.client() as client:
        assert client.policy().version == 1
        assert client.contribute(late) == STALE
        assert client.contribute(first) == DUPLICATE
        assert client.status().rollouts_stale == 1


def test_episodes_with_a_hole_are_not_counted_and_all_others_are(tmp_path: Path) -> None:
    settings = small_settings("env.worlds=3", "train.steps=null", "record.every_episodes=1")
    directory = RunDirectory(tmp_path / "run")
    player, played, lost = Player(settings), list[training_pb2.Rollout](), range(48, 64)
    with Server(settings, directory.path) as server, server.client() as client:
        for version, policy in zip(range(60), client.watch(), strict=False):
            played.append(player.play(policy))
            if version == 3:  # it never arrives, and the worlds go on
                played.append(player.play(policy))
            assert client.contribute(played[-1]) == ACCEPTED
        _until(client, "running", version=60)
    whole = [row for row in episodes_in(played) if row["last_tick"] < lost.start or row["first_tick"] >= lost.stop]
    names = ("world", "world_episode", "length", "return")
    found = [{name: row[name] for name in names} for row in read_rows(directory, "episodes")]
    assert found == [{name: row[name] for name in names} for row in whole]
    assert 0 < len(found) < len(episodes_in(played))
    recorded = {row["world_episode"]: 0 for row in steps_of(directory)}
    assert list(recorded) == [row["world_episode"] for row in whole if row["world"] == 0]


class TestAsItComes:
    ASYNC = ("training.mode=async", "train.steps=null")

    def test_updates_are_made_of_what_is_there_and_say_how_old_it_was(self, tmp_path: Path) -> None:
        settings = small_settings(*self.ASYNC, "training.max_policy_age=2")
        directory = RunDirectory(tmp_path / "run")
        players = [Player(settings, first, 12, actor=f"actor {first}") for first in (0, 12)]
        with Server(settings, directory.path) as server, server.client() as client, server.client() as other:
            first = client.policy()
            # One actor alone makes updates, with a policy that grows old.
            for number in range(6):
                assert client.contribute(players[0].play(first)) == ACCEPTED
                _until(client, "running", version=(number + 1) // 2)
            assert client.contribute(players[0].play(first)) == STALE
            assert other.contribute(players[1].play(first)) == STALE
            newest = client.policy()
            assert other.contribute(players[1].play(newest)) == ACCEPTED
            assert client.contribute(players[0].play(newest)) == ACCEPTED
            _until(client, "running", version=4)
            while (status := client.status()).env_steps < 16 * 24 * 4:
                time.sleep(0.01)
            assert (status.rollouts_accepted, status.rollouts_stale) == (8, 2)
            assert (status.policy_age, status.max_policy_age) == (0, 0)
            assert status.metrics["mean_rho"] == 1
        rows = read_rows(directory, "updates")
        assert [row["metrics"]["mean_rho"] < 1 for row in rows] == [False, True, True, False]
        assert [(row["policy_age"], row["max_policy_age"]) for row in rows] == [(0, 0), (1, 1), (2, 2), (0, 0)]
        assert [row["env_steps"] for row in rows] == [16 * 24 * count for count in (1, 2, 3, 4)]

    def test_each_slot_is_corrected_by_the_age_of_the_policy_that_played_it(self, tmp_path: Path) -> None:
        """An update of two halves, of which one was played an update ago, beside a learner that is told which."""
        settings = small_settings(*self.ASYNC, "algorithm.learning_rate=0.1")
        halves = [Player(settings, first, 12, actor=f"actor {first}") for first in (0, 12)]
        with Server(settings, tmp_path / "run") as server, server.client() as client, server.client() as other:
            first = client.policy()
            played = [halves[0].play(first), halves[1].play(first)]
            assert [client.contribute(played[0]), other.contribute(played[1])] == [ACCEPTED] * 2
            _until(client, "running", version=1)
            played += [halves[0].play(first), halves[1].play(client.policy())]
            assert [client.contribute(played[2]), other.contribute(played[3])] == [ACCEPTED] * 2
            _until(client, "running", version=2)
            found = load_policy(client.policy().file).parameters
        spec = load_policy(first.file).spec
        environment = build_worlds(settings, 24, 0).spec
        form = RunRolloutSpec.of(settings, environment, spec)
        parts = [read_contribution(message, form).rollout for message in played]
        states = []
        for ages in ((1, 0), (0, 0)):
            with closing(build_learner(settings, spec)) as learner:
                learner.update(as_tensors(join(parts[:2])))
                second = as_tensors(join(parts[2:]))
                learner.update(second.replace(policy_version=1 - torch.tensor(ages).repeat_interleave(12)))
                states.append(learner.parameters())
        assert all((found[name] == array).all() for name, array in states[0].items())
        assert any((found[name] != array).any() for name, array in states[1].items())

    def test_a_fast_actor_is_held_back_while_the_learner_is_busy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = small_settings(*self.ASYNC, "training.max_waiting=3")
        busy = BusyLearner(monkeypatch)
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            player = Player(settings)
            policy = client.policy()
            for _ in range(20):
                client.send(player.play(policy))
            # One is being learnt from, two more wait; the receipt of the third that waits is held back.
            assert [client.receipt().sequence for _ in range(3)] == [1, 2, 3]
            held = client.status()
            assert held.rollouts_waiting == 3
            busy.go_on()
            assert [client.receipt().verdict for _ in range(17)].count(ACCEPTED) >= 1
            assert client.status().rollouts_accepted >= 4


def test_each_policy_is_trained_by_itself(train_small: TrainSmall, tmp_path: Path) -> None:
    _, expected = train_small()
    settings = small_settings("training.policies=[main, rival]")
    with Server(settings, tmp_path / "run") as server:
        files = {}
        for policy_id in ("rival", "main"):
            with server.client() as client:
                player = Player(settings_of_policy(settings, policy_id))
                policies = client.watch(policy_id=policy_id)
                for policy in policies:
                    assert policy.policy_id == policy_id
                    if policy.finished:
                        files[policy_id] = policy.file
                        break
                    assert client.contribute(player.play(policy)) == ACCEPTED
    assert files["main"] == expected.policy.read_bytes() == (tmp_path / "run/policy.safetensors").read_bytes()
    assert files["rival"] == (tmp_path / "run-rival/policy.safetensors").read_bytes()
    assert files["rival"] != files["main"]
    rows = [read_run_row(RunDirectory(tmp_path / name)) for name in ("run", "run-rival")]
    assert rows[1]["run_id"] == f"{rows[0]['run_id']}-rival"
    # Two processes share the policies: the other one finds the same directories.
    with Server(small_settings("training.policies=[rival]"), tmp_path / "run") as server, server.client() as client:
        assert client.policy().file == files["rival"]


def test_snakes_of_the_agent_api_are_learnt_from_episode_by_episode(tmp_path: Path) -> None:
    settings = small_settings("inference.api=agent", "inference.snakes=3", "train.steps=null", "policy.inputs=[]")
    directory = RunDirectory(tmp_path / "run")
    with Server(settings, directory.path) as server, server.client() as client:
        lineage = client.policy().lineage
        for version, lengths in enumerate([(3, 9, 5), (40, 1, 2)]):
            for snake, ticks in enumerate(lengths):
                rollout = episode(snake, ticks)
                rollout.reward.data = np.ones((ticks, 1), np.float32).tobytes()
                rollout.actor, rollout.sequence = f"snake {snake}", version + 1
                rollout.policy_version, rollout.lineage = version, lineage
                with server.client() as actor:
                    assert actor.contribute(rollout) == ACCEPTED
            _until(client, "running", version=version + 1)
    rows = read_rows(directory, "episodes")
    assert [(row["world"], row["length"], row["return"]) for row in rows] == [
        (0, 3, 3.0),
        (1, 9, 9.0),
        (2, 5, 5.0),
        (0, 40, 40.0),
        (1, 1, 1.0),
        (2, 2, 2.0),
    ]
    assert [row["env_steps"] for row in read_rows(directory, "updates")] == [17, 60]


def test_the_seconds_of_a_run_begin_with_the_first_reader_and_end_it_though_nobody_plays(tmp_path: Path) -> None:
    settings = small_settings("train.steps=null", "train.seconds=0.2")
    with Server(settings, tmp_path / "run") as server, server.client() as client:
        assert not client.policy().finished
        assert client.status().seconds == 0
        finished = [policy.finished for _, policy in zip(range(2), client.watch(), strict=False)]
        assert finished == [False, True]
        assert _until(client, "finished").seconds >= 0.2


def _until(client: Client, status: str, version: int = 0) -> training_pb2.PolicyStatus:
    """Wait until a run has a status and a version that is written down; watching costs no waiting in vain."""
    for policy in client.watch():
        if policy.version >= version and (policy.finished or status == "running"):
            break
    while True:
        found = client.status()
        if found.status == status and found.policy_version >= version:
            return found
        assert found.status in ("running", status), found.error


def test_policies_load_where_they_arrive(tmp_path: Path) -> None:
    with Server(small_settings(), tmp_path / "run") as server, server.client() as client:
        policy = client.policy()
        assert load_policy(policy.file).version == policy.version == 0
        assert policy.first_tick == 0
