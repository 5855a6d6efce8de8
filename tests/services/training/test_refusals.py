"""What is refused changes nothing, says why by its code, and leaves everybody else alone."""

from __future__ import annotations

import queue
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.learning.learner import Learner
from rattle.policies.file import StoredPolicy, dump_policy, dump_tensors, load_policy
from rattle.rollouts.worlds import environment_of, policy_spec
from rattle.runs.run_tables import read_run_row
from rattle.samples.rollout import allocate, as_tensors
from rattle.services.inference.rollouts import to_message
from rattle.services.training.actors import MOST_UNLEARNT
from rattle.services.training.given_policies import GivenPolicies
from rattle.services.training.learning_loop import MOST_REQUESTS
from rattle.services.training.policy_run import PolicyRun
from rattle.services.utils.protos import training_pb2
from rattle.trainer.build import build_learner
from rattle.wire.problems import RequestError
from tests.services.training.playing import (
    ACCEPTED,
    FINISHED,
    SECONDS,
    STALE,
    BusyLearner,
    Client,
    Player,
    Server,
    episodes_in,
)
from tests.services.training.test_rollout_messages import Spoil, change, clear, put, say
from tests.trainer.conftest import read_rows, small_settings
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

SMALL = ("env.worlds=4", "train.steps=null", "training.update_policy=true", "train.max_reward=3.1e38")
Status = grpc.StatusCode


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(small_settings(*SMALL), tmp_path / "run") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def player() -> Player:
    return Player(small_settings(*SMALL))


@contextmanager
def ended(code: grpc.StatusCode, begins: str = "") -> Iterator[None]:
    """Expect a call to end with a status, in one line."""
    with pytest.raises(grpc.RpcError) as error:
        yield
    found: Any = error.value
    assert found.code() is code, found
    assert found.details().startswith(begins), found
    assert "\n" not in found.details()


def unchanged(client: Client) -> tuple[bytes, str]:
    """Return everything that a refusal must not change."""
    policy, status = client.policy(), client.status()
    status.seconds = 0
    return policy.SerializeToString(), str(status)


BAD_ROLLOUTS: dict[str, tuple[str, Spoil]] = {
    "shape": ("reward: ", put("reward", np.zeros((16, 3), np.float32))),
    "type": ("value: ", put("value", np.zeros((16, 4), np.int32))),
    "length": ("log_prob: ", lambda message: setattr(message.log_prob, "data", b"123")),
    "missing": ("observation: ", clear("observation")),
    "absurd": (
        "reward: must lie between -3.1e+38 and 3.1e+38 (train.max_reward), and [3, 1] is -3.3e+38",
        change("reward", (3, 1), -3.3e38),
    ),
    "not a number": ("reward: ", change("reward", (3, 1), np.nan)),
    "infinite": ("last_value: ", change("last_value", (0,), np.inf)),
    "action": ("action: ", change("action", (3, 1), 200)),
    "cells": ("observation: ", change("observation", (3, 1, 7), 3)),
    "version": ("policy_version: 7 was never made", say(policy_version=7)),
    "worlds": ("first_world: ", say(first_world=1)),
    "nobody": ("actor: ", say(actor="")),
    "number": ("sequence: ", say(sequence=0)),
}


@pytest.mark.parametrize(("begins", "spoil"), BAD_ROLLOUTS.values(), ids=BAD_ROLLOUTS)
def test_a_bad_rollout_is_refused_and_the_learner_untouched(
    server: Server, client: Client, player: Player, begins: str, spoil: Spoil
) -> None:
    rollout = player.play(client.policy())
    bad = training_pb2.Rollout.FromString(rollout.SerializeToString())
    spoil(bad)
    before = unchanged(client)
    with ended(Status.INVALID_ARGUMENT, begins):
        client.contribute(bad)
    assert unchanged(client) == before
    with server.client() as again:
        assert again.contribute(rollout) == ACCEPTED


def test_a_rollout_by_an_older_version_is_stale(client: Client, player: Player) -> None:
    old = client.policy()
    assert client.contribute(player.play(old)) == ACCEPTED
    until_version(client, 1)
    assert client.contribute(player.play(old)) == STALE


@pytest.mark.parametrize(
    "call",
    [
        lambda client, rollout: client.contribute(rollout),
        lambda client, rollout: client.policy("nobody"),
        lambda client, rollout: next(client.watch(policy_id="nobody")),
        lambda client, rollout: client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=rollout)),
    ],
)
def test_policies_that_are_not_trained_are_not_found(
    client: Client, player: Player, call: Callable[[Client, training_pb2.Rollout], object]
) -> None:
    rollout = player.play(client.policy())
    rollout.policy_id = "nobody"
    with pytest.raises(grpc.RpcError) as error:
        call(client, rollout)
    assert error.value.code() is Status.NOT_FOUND
    assert "'nobody', but main" in error.value.details()


class TestStreams:
    def test_a_second_stream_of_an_actor_ends_the_first(self, server: Server, client: Client, player: Player) -> None:
        assert client.contribute(player.play(client.policy())) == ACCEPTED
        with server.client() as second:
            until_version(second, 1)
            assert second.contribute(player.play(second.policy())) == ACCEPTED
            with ended(Status.ABORTED, "another stream of actor 'actor'"):
                client.receipt()
            until_version(second, 2)
            assert second.contribute(player.play(second.policy())) == ACCEPTED

    def test_a_stream_is_of_one_actor(self, client: Client, player: Player) -> None:
        assert client.contribute(player.play(client.policy())) == ACCEPTED
        until_version(client, 1)
        other = player.play(client.policy())
        other.actor = "somebody else"
        with ended(Status.INVALID_ARGUMENT, "actor: "):
            client.contribute(other)

    def test_what_is_too_large_is_refused_and_the_service_goes_on(self, tmp_path: Path, player: Player) -> None:
        with Server(small_settings(*SMALL), tmp_path / "run", 2**16) as server, server.client() as client:
            rollout = player.play(client.policy())
            rollout.state.append("x" * 2**16)
            with ended(Status.RESOURCE_EXHAUSTED):
                client.contribute(rollout)
            del rollout.state[:]
            with server.client() as again:
                assert again.contribute(rollout) == ACCEPTED

    def test_bytes_that_are_no_message_end_only_their_call(self, server: Server, client: Client) -> None:
        for method in ("GetPolicy", "UpdatePolicy", "GetStatus"):
            raw = client.channel.unary_unary(f"/rattle.v1.Training/{method}")
            with pytest.raises(grpc.RpcError):
                raw(b"\x0a\xff\xff\xff\xff\xff", timeout=30)
        raw_stream = client.channel.stream_stream("/rattle.v1.Training/ContributeRollouts")
        with pytest.raises(grpc.RpcError):
            list(raw_stream(iter([b"\x0a\xff\xff\xff\xff\xff"]), timeout=30))
        assert client.policy().version == 0

    def test_streams_end_when_the_service_stops(self, tmp_path: Path, player: Player) -> None:
        server = Server(small_settings(*SMALL), tmp_path / "run")
        with server.client() as client:
            assert client.contribute(player.play(client.policy())) == ACCEPTED
            watching = client.watch()
            next(watching)
            server.stop()
            with ended(Status.UNAVAILABLE, "the service is stopping"):
                client.receipt()
            with ended(Status.UNAVAILABLE, "the service is stopping"):
                list(watching)


class TestWatching:
    def test_what_the_reader_knows_is_not_sent_again(self, client: Client, player: Player) -> None:
        first = client.policy()
        known = client.watch(first)
        assert client.contribute(player.play(first)) == ACCEPTED
        assert next(known).version == 1
        elsewhere = client.watch(training_pb2.Policy(version=1, lineage="of another start"))
        assert next(elsewhere).version == 1

    def test_every_new_version_is_sent(self, server: Server, client: Client, player: Player) -> None:
        with server.client() as watcher:
            for version, policy in zip(range(5), watcher.watch(), strict=False):
                assert policy.version == version
                assert load_policy(policy.file).version == version
                assert client.contribute(player.play(policy)) == ACCEPTED

    def test_a_slow_reader_gets_the_newest(self, tmp_path: Path) -> None:
        settings = small_settings(*SMALL, "policy.hidden_sizes=[512, 512]")  # what does not fit into buffers on the way
        player = Player(settings)
        with Server(settings, tmp_path / "run") as server, server.client() as slow, server.client() as client:
            stream = slow.watch()
            assert next(stream).version == 0
            for version in range(40):
                assert client.contribute(player.play(client.policy())) == ACCEPTED
                until_version(client, version + 1)
            seen = []
            for policy in stream:
                seen.append(policy.version)
                if policy.version == 40:
                    break
        assert seen == sorted(set(seen))
        assert len(seen) < 40


class TestGivenPolicies:
    """UpdatePolicy with a policy in the request."""

    @staticmethod
    def request(client: Client, player: Player) -> training_pb2.UpdatePolicyRequest:
        policy = client.policy()
        loaded = load_policy(policy.file)
        other = {name: values * np.float32(0.9) for name, values in loaded.parameters.items()}
        mine = StoredPolicy(loaded.spec, other, 41, loaded.environment, loaded.environment_settings)
        return training_pb2.UpdatePolicyRequest(policy=dump_policy(mine), rollout=player.play(policy))

    def test_the_policy_is_improved_by_one_step_and_forgotten(self, client: Client, player: Player) -> None:
        request = self.request(client, player)
        before = unchanged(client)
        answers = [client.stub.UpdatePolicy(request) for _ in range(2)]
        assert answers[0] == answers[1]
        assert unchanged(client) == before
        given, settings = load_policy(request.policy), small_settings(*SMALL)
        learner = build_learner(settings, given.spec)
        weights = {f"policy/{name}": values for name, values in given.parameters.items()}
        learner.restore({**weights, "version": np.array(41)})
        rollout = as_tensors(player._collector.buffer)
        metrics = learner.update(rollout.replace(policy_version=torch.full((rollout.slots,), 41)))
        learner.close()
        answer = answers[0]
        improved = load_policy(answer.policy.file)
        assert answer.policy.version == improved.version == 42
        assert all((improved.parameters[name] == values).all() for name, values in learner.parameters().items())
        assert dict(answer.metrics.values) == metrics.values
        assert answer.metrics.samples == metrics.samples == 64

    def test_policies_of_several_forms_may_take_turns(self, client: Client, player: Player) -> None:
        request = self.request(client, player)
        loaded = load_policy(request.policy)
        wider = loaded.spec.model_copy(update={"hidden_sizes": (8, 8)})
        learner = Learner(wider, small_settings().algorithm, 0)
        policy = StoredPolicy(wider, learner.parameters(), 3, loaded.environment, loaded.environment_settings)
        learner.close()
        other = training_pb2.UpdatePolicyRequest(policy=dump_policy(policy), rollout=request.rollout)
        answers = [client.stub.UpdatePolicy(each) for each in (request, other, request, other)]
        assert answers[:2] == answers[2:]
        assert answers[1].policy.version == 4

    @pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "pickle", "another", "no value head"])
    def test_corrupt_policies_are_refused(self, client: Client, player: Player, damage: str) -> None:
        request = self.request(client, player)
        whole = request.policy
        loaded = load_policy(whole)
        spec = loaded.spec.model_copy(update={"value_head": False})
        headless = {name: values for name, values in loaded.parameters.items() if not name.startswith("value")}
        request.policy = {
            "cut": whole[: len(whole) // 2],
            "flipped": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
            "foreign": b"PK\x03\x04 something else",
            "pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system",
            "another": dump_tensors({"x": np.zeros(3, np.float32)}, {"format": "rattle.checkpoint"}),
            "no value head": dump_policy(StoredPolicy(spec, headless, 0, "snake", {})),
        }[damage]
        before = unchanged(client)
        with ended(Status.INVALID_ARGUMENT, "policy: "):
            client.stub.UpdatePolicy(request)
        assert unchanged(client) == before

    def test_bad_rollouts_are_refused_by_field(self, client: Client, player: Player) -> None:
        request = self.request(client, player)
        change("reward", (0, 0), np.nan)(request.rollout)
        with ended(Status.INVALID_ARGUMENT, "rollout.reward: must hold finite numbers"):
            client.stub.UpdatePolicy(request)

    def test_numbers_that_cannot_be_learnt_from_are_refused(self, client: Client, player: Player) -> None:
        request = self.request(client, player)
        put("reward", np.full((16, 4), 3e38, np.float32))(request.rollout)
        with ended(Status.INVALID_ARGUMENT, "rollout: update 42: the"):
            client.stub.UpdatePolicy(request)


@pytest.mark.parametrize("fault", ["at once", "later"])
def test_what_code_of_a_user_does_to_a_given_policy_is_one_line(user_module: UserModule, fault: str) -> None:
    user_module(
        "own_network",
        """
        import torch
        from torch import nn
        from rattle.extend import Network

        class Own(Network):
            calls = 0

            def __init__(self, spaces, settings):
                super().__init__(spaces, settings)
                if Own.calls < 0:
                    raise RuntimeError("no room")
                self.layer = nn.Linear(spaces.observation.inputs, spaces.action.outputs + 1)

            def step(self, observation, state):
                if len(observation) == 8 and Own.calls > 0:
                    raise RuntimeError("lost the thread")
                found = self.layer(self.encode(observation))
                return found[:, 1:], found[:, 0], state
        """,
    )
    settings = small_settings("policy={network: 'own_network:Own'}", "algorithm={ticks: 4}")
    spec = policy_spec(settings, environment_of(settings))
    learner = build_learner(settings, spec)
    policy = StoredPolicy(spec, learner.parameters(), 3, "snake", {})
    learner.close()
    played = allocate(spec.observation, spec.action, 4, 2)
    played.active[:] = True
    message = to_message(played, 0, spec.action)
    given = GivenPolicies(settings)
    own: Any = sys.modules["own_network"]
    own.Own.calls = {"at once": -1, "later": 1}[fault]
    said = {"at once": "__init__ raised RuntimeError: no room", "later": "step raised RuntimeError: lost the thread"}
    try:
        with pytest.raises(RequestError, match=f"^own_network:Own: {said[fault]}") as caught:
            given.improve(dump_policy(policy), message)
        assert (caught.value.code, str(caught.value).count("\n")) == ("internal", 0)
        own.Own.calls = 0
        _, metrics = given.improve(dump_policy(policy), message)
        assert metrics.policy_version == 4
    finally:
        given.close()


class TestOwnPolicy:
    """UpdatePolicy without a policy."""

    def test_it_is_improved_out_of_turn_and_written_down(
        self, client: Client, player: Player, server: Server, tmp_path: Path
    ) -> None:
        for version in range(5):
            rollout = player.play(client.policy())
            answer = client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=rollout))
            assert answer.policy.version == version + 1
            assert answer.policy.file == client.policy().file
            assert answer.policy.first_tick == 16 * (version + 1)
        with ended(Status.INVALID_ARGUMENT, "rollout.policy_version: the rollout must be of the newest policy, 5"):
            client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=rollout))
        server.stop()
        assert len(read_rows(RunDirectory(tmp_path / "run"), "updates")) == 5

    def test_its_episodes_go_on_from_one_update_to_the_next(
        self, client: Client, player: Player, server: Server, tmp_path: Path
    ) -> None:
        played = []
        for _ in range(40):
            played.append(player.play(client.policy()))
            client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=played[-1]))
        server.stop()
        rows = read_rows(RunDirectory(tmp_path / "run"), "episodes")
        assert [(row["world"], row["length"], row["return"]) for row in rows] == [
            (row["world"], row["length"], row["return"]) for row in episodes_in(played)
        ]

    def test_only_so_many_may_wait(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        busy, settings = BusyLearner(monkeypatch), small_settings(*SMALL)
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            request = training_pb2.UpdatePolicyRequest(rollout=Player(settings).play(client.policy()))
            answers = [client.stub.UpdatePolicy.future(request, timeout=SECONDS) for _ in range(MOST_REQUESTS + 2)]
            answered: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for answer in answers:
                answer.add_done_callback(answered.put)
            assert answered.get(timeout=SECONDS).code() is Status.RESOURCE_EXHAUSTED
            busy.go_on()
            codes = [answered.get(timeout=SECONDS).code() for _ in answers[1:]]
            assert codes.count(Status.OK) == 1
            # The others are of an older version by now, or came too close together.
            assert {*codes} <= {Status.OK, Status.INVALID_ARGUMENT, Status.RESOURCE_EXHAUSTED}

    def test_a_rollout_of_some_worlds_is_not_enough(self, client: Client) -> None:
        rollout = Player(small_settings(*SMALL), 0, 2).play(client.policy())
        with ended(Status.INVALID_ARGUMENT, "rollout.observation: must be of all 4 worlds"):
            client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=rollout))

    def test_another_lineage_is_refused(self, client: Client, player: Player) -> None:
        rollout = player.play(client.policy())
        rollout.lineage = "another"
        with ended(Status.INVALID_ARGUMENT, "rollout.lineage: "):
            client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=rollout))

    def test_numbers_that_cannot_be_learnt_from_are_refused_and_the_run_goes_on(
        self, client: Client, player: Player
    ) -> None:
        rollout = player.play(client.policy())
        bad = training_pb2.Rollout.FromString(rollout.SerializeToString())
        put("reward", np.full((16, 4), 3e38, np.float32))(bad)
        before = unchanged(client)
        with ended(Status.INVALID_ARGUMENT, "rollout: update 1: the"):
            client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=bad))
        assert unchanged(client) == before
        assert client.contribute(rollout) == ACCEPTED


class TestFailures:
    def test_one_rollout_that_cannot_be_learnt_from_is_played_again(self, tmp_path: Path) -> None:
        settings = small_settings(*SMALL)
        player = Player(settings)
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            watching = client.watch()
            first = next(watching)
            rollout = player.play(first)
            put("reward", np.full((16, 4), 3e38, np.float32))(rollout)
            assert client.contribute(rollout) == ACCEPTED
            again = next(watching)
            assert (again.version, again.file) == (first.version, first.file)
            assert again.lineage != first.lineage
            assert client.contribute(player.play(first)) == STALE
            assert client.contribute(player.play(again)) == ACCEPTED
            assert next(watching).version == 1
            assert client.status().status == "running"

    def test_who_gives_up_on_an_update_out_of_turn_harms_nobody(self, tmp_path: Path) -> None:
        settings = small_settings(*SMALL)
        player = Player(settings)
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            policy = client.policy()
            for _ in range(20):
                request = training_pb2.UpdatePolicyRequest(rollout=player.play(policy))
                client.stub.UpdatePolicy.future(request).cancel()
            while client.contribute(player.play(client.policy())) != ACCEPTED:
                pass
            assert client.status().status == "running"

    def test_a_run_that_cannot_learn_on_fails_alone(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = small_settings(*SMALL, "training.policies=[main, other]")
        player = Player(settings)
        with Server(settings, tmp_path / "run") as server, server.client() as client, server.client() as other:
            policy = client.policy()
            watching = client.watch()
            for _ in range(MOST_UNLEARNT):
                rollout = player.play(next(watching))
                put("reward", np.full((16, 4), 3e38, np.float32))(rollout)
                client.send(rollout)
            with ended(Status.FAILED_PRECONDITION, "the run of policy 'main' has failed: update 1: the"):
                list(watching)
            with ended(Status.FAILED_PRECONDITION, "the run of policy 'main' has failed"):
                while True:
                    client.receipt()
            status = client.status()
            assert (status.status, status.policy_version) == ("failed", 0)
            assert "update 1: the" in status.error
            assert server.service.takes_rollouts(), "of the other policy"
            assert client.policy().file == policy.file
            with server.client() as again:
                with ended(Status.FAILED_PRECONDITION):
                    again.contribute(player.play(policy))
                with ended(Status.FAILED_PRECONDITION):
                    again.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=player.play(policy)))
            theirs = other.policy("other")
            assert other.contribute(player.play(theirs)) == ACCEPTED
            assert other.status(1).status == "running"
        assert "the run has failed: update 1" in caplog.text
        row = read_run_row(RunDirectory(tmp_path / "run"))
        assert row["status"] == "failed"
        assert row["policy_sha256"]

    def test_a_full_disk_fails_the_run(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rattle.runs.run_clock.PAUSE", 0.0)
        settings = small_settings(*SMALL, "train.checkpoint_seconds=0.000001")
        player = Player(settings)
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            policies = client.watch()
            policy = next(policies)
            stored = (tmp_path / "run/policy.safetensors").read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            try:
                client.send(player.play(policy))
                with ended(Status.FAILED_PRECONDITION):
                    for newer in policies:  # until a checkpoint is due: they take a small share of the time only
                        client.send(player.play(newer))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert "cannot write" in client.status().error
        assert (tmp_path / "run/policy.safetensors").read_bytes() == stored

    def test_a_mistake_in_the_code_fails_the_run_and_says_where(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def mistaken(*_: object) -> None:
            raise ZeroDivisionError("a mistake")

        monkeypatch.setattr(PolicyRun, "learn", mistaken)
        settings = small_settings(*SMALL)
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            client.send(Player(settings).play(client.policy()))
            with ended(Status.FAILED_PRECONDITION):
                list(client.watch())
            assert "internal error: ZeroDivisionError" in client.status().error
        assert "Traceback" in caplog.text

    @pytest.mark.parametrize("change", ["seed=5", "env.worlds=5", "algorithm.ticks=8", "policy.hidden_sizes=[8]"])
    def test_a_run_is_not_gone_on_with_as_another_experiment(self, tmp_path: Path, change: str) -> None:
        with Server(small_settings(*SMALL), tmp_path / "run"):
            pass
        with pytest.raises(RattleError, match="holds a run with another") as error:
            Server(small_settings(*SMALL, change), tmp_path / "run")
        assert "\n" not in str(error.value)
        with Server(small_settings(*SMALL, "training.max_waiting=1", "train.seconds=9"), tmp_path / "run"):
            pass

    def test_a_run_directory_that_is_in_use_is_refused(self, tmp_path: Path) -> None:
        settings = small_settings(*SMALL)
        with Server(settings, tmp_path / "run"), pytest.raises(RattleError, match="in use by another process"):
            Server(settings, tmp_path / "run")

    def test_nothing_is_taken_after_the_end(self, tmp_path: Path) -> None:
        settings = small_settings(*SMALL, "train.steps=64")
        player = Player(settings)
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            assert client.contribute(player.play(client.policy())) == ACCEPTED
            for policy in client.watch():
                if policy.finished:
                    break
            rollout = player.play(policy)
            assert client.contribute(rollout) == FINISHED
            with ended(Status.FAILED_PRECONDITION, "the run of policy 'main' has reached its limit"):
                client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=rollout))
        with Server(settings, tmp_path / "run") as server, server.client() as client:
            assert client.policy().finished


def until_version(client: Client, version: int) -> None:
    """Wait until a version has been made."""
    for policy in client.watch():
        if policy.version >= version:
            return
