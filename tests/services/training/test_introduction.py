"""A run of an environment that only others can make begins with the first actor that says what it plays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.rollouts.complete import complete
from rattle.runs.run_tables import read_run_row
from rattle.services.utils.protos import training_pb2
from rattle.trainer.train import train
from tests.services.training.playing import Player, Server, train_to_the_end
from tests.trainer.conftest import Silence, small_settings

POLE = ("env={id: 'gym:CartPole-v1'}", "train.steps=5000", "env.worlds=6")
ACROBOT = ("env={id: 'gym:Acrobot-v1', worlds: 6}",)


@pytest.fixture
def no_worlds(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what keeps this process from making worlds from then on."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(arguments)

    return lambda: monkeypatch.setattr("rattle.rollouts.worlds.make_worlds", refuse)


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), str(error.value.details())


def test_it_waits_and_learns_what_rattle_train_does(tmp_path: Path, no_worlds: Callable[[], None]) -> None:
    settings, expected = small_settings(*POLE), RunDirectory(tmp_path / "here")
    whole = complete(settings)
    train(whole, expected.path, Silence())
    player, directory = Player(whole), RunDirectory(tmp_path / "served")
    no_worlds()
    with Server(settings, directory.path) as server, server.client() as client:
        assert client.status() == training_pb2.PolicyStatus(policy_id="main", status="waiting")
        waiting = (grpc.StatusCode.UNAVAILABLE, "no actor has said yet what it plays")
        assert refused(client.policy) == refused(lambda: next(client.watch())) == waiting
        assert refused(lambda: client.contribute(training_pb2.Rollout())) == waiting
        assert not directory.is_run
    with Server(settings, directory.path) as server, server.client() as client:  # nothing was left behind
        assert train_to_the_end(client, player).file == expected.policy.read_bytes()
    assert directory.policy.read_bytes() == expected.policy.read_bytes()
    assert read_run_row(directory)["config"] == read_run_row(expected)["config"]
    assert directory.environment.read_bytes() == expected.environment.read_bytes()
    with Server(settings, directory.path) as server, server.client() as client:  # which knows what it learns
        assert client.policy().finished
        assert client.status().env_steps == read_run_row(expected)["env_steps"]


def test_who_plays_something_else_is_refused(tmp_path: Path) -> None:
    pole, acrobot = (Player(small_settings(*own)).environment for own in (POLE, ACROBOT))
    with Server(small_settings(*POLE), tmp_path / "run") as server, server.client() as client:
        said = "environment: 'gym:CartPole-v1' is learnt here, and the actor plays 'gym:Acrobot-v1'"
        other = (grpc.StatusCode.INVALID_ARGUMENT, said)
        assert refused(lambda: next(client.watch(environment=acrobot))) == other
        assert client.status().status == "waiting"
        for garbage in ("{", "[]", json.dumps({**json.loads(pole), "num_actions": 0})):
            code, said = refused(lambda garbage=garbage: next(client.watch(environment=garbage)))  # type: ignore[misc]
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert said.startswith("environment: ")
        assert next(client.watch(environment=pole)).version == 0
        assert refused(lambda: next(client.watch(environment=acrobot))) == other
        wider = json.dumps({**json.loads(pole), "observation_space": {"kind": "floats", "size": 5}})
        code, said = refused(lambda: next(client.watch(environment=wider)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        for part in (
            "'gym:CartPole-v1' (",
            "size=4",
            ") is learnt here, and the actor plays 'gym:CartPole-v1' (",
            "size=5",
        ):
            assert part in said
        assert next(client.watch(environment=pole)).version == 0
        assert next(client.watch()).version == 0


def test_who_evaluates_makes_worlds_and_waits_for_nobody(tmp_path: Path) -> None:
    settings = small_settings(*POLE, "evaluation.every_steps=1000")
    with Server(settings, tmp_path / "run") as server, server.client() as client:
        assert client.status().status == "running"


def test_what_no_world_shows_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "run" / "updates").mkdir(parents=True)
    (tmp_path / "run" / "updates" / "train.jsonl").touch()
    with pytest.raises(Exception, match=r"holds updates/, but no config\.yaml"):
        Server(small_settings(*POLE), tmp_path / "run")


def test_a_damaged_description_is_said(tmp_path: Path) -> None:
    settings, directory = small_settings(*POLE), RunDirectory(tmp_path / "run")
    train(complete(small_settings(*POLE, "train.steps=1000")), directory.path, Silence())
    directory.environment.write_text("{")
    with pytest.raises(Exception, match=r"environment\.json is damaged: move it away"):
        Server(settings, directory.path)
    directory.environment.unlink()  # as of an earlier version
    with Server(settings, directory.path) as server, server.client() as client:
        assert client.status().status == "waiting"
        assert train_to_the_end(client, Player(complete(settings))).version > 0
    assert read_run_row(directory)["env_steps"] >= 5000
