"""A run of an environment that only others can make begins with the first actor that says what it plays."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.rollouts.complete import complete
from rattle.runs.run_tables import read_run_row
from rattle.services.utils.protos import training_pb2
from rattle.trainer.train import train
from rattle.wire.problems import RequestError
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


SAID: dict[str, tuple[dict[str, object], str]] = {
    "wide": ({"observation_space": {"kind": "floats", "size": 2**40}}, "a rollout of one world would have"),
    "wide codes": (
        {"observation_space": {"kind": "codes", "cells": 2**20, "codes": 256}},
        "what a policy of it takes in",
    ),
    "wide in worlds": ({"observation_space": {"kind": "floats", "size": 2**17}}, "a rollout of all worlds would have"),
    "beyond integers": (
        {"observation_space": {"kind": "floats", "size": 10**300}},
        "a rollout of one world would have",
    ),
    "actions": ({"num_actions": 2**40}, "what a policy of it takes in and gives would have"),
    "agents": ({"agents_per_world": 2**30}, "a rollout of one world would have"),
    "agents in worlds": ({"agents_per_world": 2**14}, "a rollout of all worlds would have"),
    "long name": ({"metrics": ["x" * 201]}, "its id and its metrics must be printable texts of 1 to 200 characters"),
    "unprintable": ({"metrics": ["\x1b[2J"]}, "its id and its metrics must be printable texts"),
    "surrogate": ({"settings": {"a": "\ud800"}}, "'utf-8' codec can't encode character"),
    "not a number": ({"settings": {"a": float("nan")}}, "Out of range float values are not JSON compliant"),
    "many": ({"metrics": [str(number) for number in range(257)]}, "has 257 metrics, where 256 may be"),
    "long": ({"settings": {"a": "x" * 2**18}}, "is described by 262,[0-9]+ characters, where 262,144 may be"),
    "other actions": ({"num_actions": 3}, "cannot be learnt with the settings of this run: policy.weights: "),
}


def test_what_nobody_could_learn_is_refused_ends_nothing_and_keeps_nobody_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(complete(small_settings(*POLE, "train.steps=100")), tmp_path / "before", Silence())
    settings = small_settings(*POLE, f"policy.weights={tmp_path / 'before' / 'policy.safetensors'}")
    player = Player(complete(settings))
    honest = json.loads(player.environment)
    many_worlds = settings.model_copy(update={"env": settings.env.model_copy(update={"worlds": 2**20})})
    with Server(many_worlds, tmp_path / "run") as server, server.client() as client:
        for name, (changes, begins) in SAID.items():
            described = json.dumps({**honest, **changes})
            code, said = refused(lambda described=described: next(client.watch(environment=described)))  # type: ignore[misc]
            assert code is grpc.StatusCode.INVALID_ARGUMENT, name
            assert re.match(f"environment: ('gym:CartPole-v1' )?({begins})", said), (name, said)
            assert said.isprintable()
            assert client.status().status == "waiting"
        assert list(tmp_path.iterdir()) == [tmp_path / "before"]
        assert "an actor at ipv4:127.0.0.1:" in caplog.text
    with Server(settings, tmp_path / "run") as server, server.client() as client:
        wide = json.dumps({**honest, "observation_space": {"kind": "codes", "cells": 2**18, "codes": 256}})
        _, said = refused(lambda: next(client.watch(environment=wide)))
        assert said.startswith("environment: a policy of it would have 4,278,190,668 bytes")
        assert next(client.watch(environment=player.environment)).version == 0


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


def test_an_actor_that_comes_when_all_is_stored_is_told_that_the_service_stops(tmp_path: Path) -> None:
    settings = complete(small_settings(*POLE))
    player = Player(settings)
    with Server(settings, tmp_path / "run") as server, server.client() as client:
        next(client.watch(environment=player.environment))
        server.stop()
    with pytest.raises(RequestError, match="the service is stopping"):
        asyncio.run(server.service.introduce(player.environment, "late"))
