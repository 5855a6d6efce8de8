"""Rollouts that strangers forge end nothing, and take nobody's place; who they are is said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from rattle.services.training.actors import MOST_UNLEARNT
from rattle.services.utils.protos import training_pb2
from tests.services.training.playing import ACCEPTED, DUPLICATE, Client, Player, Server
from tests.services.training.test_refusals import Status, ended, unchanged, until_version
from tests.services.training.test_rollout_messages import put
from tests.trainer.conftest import small_settings

REFUSED = training_pb2.Receipt.REFUSED
SMALL = ("env.worlds=4", "train.steps=null", "train.max_reward=null")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(small_settings(*SMALL), tmp_path / "run") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


def player(first_world: int = 0, worlds: int = 4, actor: str = "actor", life: str = "honest life") -> Player:
    return Player(small_settings(*SMALL), first_world, worlds, actor, life)


def poisoned(rollout: training_pb2.Rollout, life_number: int = 0) -> training_pb2.Rollout:
    """Return a rollout with rewards of which no update can be made."""
    slots = rollout.reward.shape[1]
    put("reward", np.full((16, slots), 3e38, np.float32))(rollout)
    rollout.life_number = life_number
    return rollout


class TestStreams:
    def test_neither_an_earlier_life_nor_one_without_a_number_takes_a_stream(
        self, server: Server, client: Client
    ) -> None:
        honest = player()

        def play_on() -> int:
            version = client.policy().version
            rollout = honest.play(client.policy())
            rollout.life_number = 5
            verdict = client.contribute(rollout)
            until_version(client, version + 1)
            return verdict

        assert play_on() == ACCEPTED
        shown = client.status().actors["actor"].life
        for life, number in (("forged", 0), ("forged", 4), ("forged", 5), (shown, 5), ("", 9)):
            with server.client() as stranger:
                forged = player(0, 1, life=life).play(stranger.policy())
                forged.life_number = number
                with ended(Status.INVALID_ARGUMENT if not life else Status.ABORTED):
                    stranger.contribute(forged)
            assert play_on() == ACCEPTED

    def test_a_later_life_takes_it_and_the_earlier_one_stays_out_until_that_has_gone(
        self, server: Server, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        def play(own: Client, life: str, number: int) -> int:
            rollout = player(life=life).play(own.policy())
            rollout.life_number = number
            return own.contribute(rollout)

        assert play(client, "early", 1) == ACCEPTED
        with server.client() as later:
            until_version(later, 1)
            assert play(later, "late", 2) == ACCEPTED
            with ended(Status.ABORTED, "another stream of actor 'actor' has begun"):
                client.receipt()
            assert "actor has been started again, at ipv4:127.0.0.1:" in caplog.text
            until_version(later, 2)
            with server.client() as early, ended(Status.ABORTED, "a later life of actor 'actor' plays already, from"):
                play(early, "early", 1)
        verdict = None
        while verdict is None:  # until the service has noticed that the later one has gone
            with server.client() as early, suppress(grpc.RpcError):
                verdict = play(early, "early", 1)
        assert verdict == DUPLICATE


def test_rewards_that_the_run_does_not_allow_are_refused_and_drop_nothing(tmp_path: Path) -> None:
    with Server(small_settings("env.worlds=4"), tmp_path / "run") as server, server.client() as client:
        assert client.contribute(player(0, 2).play(client.policy())) == ACCEPTED
        before = unchanged(client)
        with server.client() as stranger, ended(Status.INVALID_ARGUMENT, "reward: must lie between -1e+06 and 1e+06"):
            stranger.contribute(poisoned(player(actor="evil", life="forged").play(client.policy())))
        assert unchanged(client) == before
        with server.client() as other:
            assert other.contribute(player(2, 2, "other").play(client.policy())) == ACCEPTED
        until_version(client, 1)


def test_a_services_own_policy_is_not_improved_out_of_turn_unless_that_is_allowed(client: Client) -> None:
    before = unchanged(client)
    rollout = player(actor="evil").play(client.policy())
    with ended(Status.PERMISSION_DENIED, "the service's own policies are improved by rollouts of actors alone: "):
        client.stub.UpdatePolicy(training_pb2.UpdatePolicyRequest(rollout=rollout))
    assert unchanged(client) == before
    given = training_pb2.UpdatePolicyRequest(policy=client.policy().file, rollout=rollout)
    assert client.stub.UpdatePolicy(given).policy.version == 1
    assert unchanged(client) == before


class TestUpdatesThatCannotBeMade:
    def test_a_stranger_is_refused_by_its_name_and_the_run_goes_on(
        self, server: Server, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        honest = player()
        assert client.contribute(honest.play(client.policy())) == ACCEPTED
        until_version(client, 1)
        assert "plays worlds" not in caplog.text
        before = client.policy()
        for number in range(2):  # strangers enough to fail the run, if each counted for all
            with server.client() as stranger:
                evil = player(actor=f"evil-{number}", life="forged")
                policies = stranger.watch()
                for _ in range(MOST_UNLEARNT):
                    assert stranger.contribute(poisoned(evil.play(next(policies)), 1)) == ACCEPTED
                stranger.send(poisoned(evil.play(next(policies)), 1))
                receipt = stranger.receipt()
            assert receipt.verdict == REFUSED
            said = f"evil-{number} is refused, as 3 updates in a row could not be made of its rollouts (update 2: the"
            assert receipt.reason.startswith(said)
            assert said in caplog.text
            warned = rf"evil-{number}, at ipv4:127\.0\.0\.1:[0-9]+, plays worlds that actor plays too: stop one of them"
            assert re.search(warned, caplog.text)
            assert f"evil-{number}: update 2: the " in caplog.text
        status = client.status()
        assert (status.status, status.rollouts_refused) == ("running", 2)
        assert status.actors["evil-0"].refused.startswith("evil-0 is refused")
        assert (client.policy().version, client.policy().file) == (1, before.file)
        assert client.contribute(honest.play(client.policy())) == ACCEPTED
        until_version(client, 2)

    def test_the_one_whose_part_cannot_be_learnt_from_is_blamed_and_its_next_life_may_play(
        self, server: Server, client: Client, tmp_path: Path
    ) -> None:
        with Server(small_settings(*SMALL), tmp_path / "undisturbed") as other, other.client() as alone:
            one = player()
            for version in range(2):
                assert alone.contribute(one.play(alone.policy())) == ACCEPTED
                until_version(alone, version + 1)
            expected = alone.policy().file
        honest, evil, mended = player(0, 2, "honest"), player(2, 2, "evil", "bad"), player(2, 2, "evil", "good")
        first = [one.play(client.policy()) for one in (honest, evil)]
        with server.client() as second:
            policies = second.watch()
            for sequence in range(1, MOST_UNLEARNT + 1):
                lineage = next(policies).lineage
                for rollout, own in zip(first, (client, second), strict=True):
                    again = training_pb2.Rollout.FromString(rollout.SerializeToString())
                    again.sequence, again.lineage = sequence, lineage
                    assert own.contribute(again if own is client else poisoned(again)) == ACCEPTED
            lineage = next(policies).lineage
            first[1].lineage, first[1].sequence = lineage, MOST_UNLEARNT + 1
            assert second.contribute(first[1]) == REFUSED
            first[0].lineage, first[0].sequence = lineage, MOST_UNLEARNT + 1
            assert client.contribute(first[0]) == ACCEPTED
        honest.sequence = MOST_UNLEARNT + 1
        with server.client() as second:
            assert second.contribute(mended.play(client.policy())) == ACCEPTED
            until_version(client, 1)
            assert {
                client.contribute(honest.play(client.policy())),
                second.contribute(mended.play(client.policy())),
            } == {ACCEPTED}
            until_version(client, 2)
        assert client.policy().file == expected
        assert client.status().actors["evil"].refused == ""

    def test_a_run_fails_when_no_actor_is_left_of_whose_rollouts_updates_can_be_made(
        self, server: Server, client: Client
    ) -> None:
        halves = [player(0, 2, "one"), player(2, 2, "two")]
        with server.client() as second:
            policies = second.watch()
            for _ in range(MOST_UNLEARNT):
                policy = next(policies)
                for own, half in zip((client, second), halves, strict=True):
                    own.send(poisoned(half.play(policy)))
            with ended(Status.FAILED_PRECONDITION, "the run of policy 'main' has failed: update 1: the"):
                list(policies)
        assert client.status().status == "failed"
