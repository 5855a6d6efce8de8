"""New runs that begin with what another has learnt."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.policies.file import dump_policy, load_policy
from rattle.runs.errors import RunError
from rattle.runs.first_policy import load_settings_from
from rattle.settings.experiment import ExperimentSettings
from rattle.trainer.train import resume, train
from tests.trainer.conftest import Silence, last_json, rattle, small_settings
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

NETWORK = """
import torch
from pydantic import BaseModel
from rattle.extend import Network

class Plain(Network):
    class Settings(BaseModel):
        width: int

    def __init__(self, spaces, settings):
        super().__init__(spaces, settings)
        self.layer = torch.nn.Linear(spaces.observation.inputs, settings.width)
        self.heads = torch.nn.Linear(settings.width, spaces.action.outputs + 1)

    def step(self, observation, state):
        heads = self.heads(self.between(self.layer(self.encode(observation))))
        return heads[:, :-1], heads[:, -1], state

    def between(self, hidden):
        return torch.tanh(hidden)

class Other(Plain):
    def between(self, hidden):
        return torch.relu(hidden)
"""
OTHER = "{network: 'my_net:Other', width: 5}"


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = tmp_path_factory.mktemp("learnt") / "run"
    train(small_settings("policy.activation=tanh", "env.vision_radius=3", "train.steps=1536"), directory, Silence())
    return RunDirectory(directory)


def settings_from(origin: Path, *overrides: str) -> ExperimentSettings:
    return load_settings_from(str(origin), None, ["seed=5", *overrides], {}, {})


def test_a_run_begins_with_the_weights_and_the_network_of_another(tmp_path: Path, learnt: RunDirectory) -> None:
    settings = settings_from(learnt.path)
    assert (settings.policy.activation, settings.env.own_settings["vision_radius"]) == ("tanh", 3)
    summary = train(settings, tmp_path / "run", Silence())
    run = RunDirectory(tmp_path / "run")
    assert run.first_policy.read_bytes() == learnt.policy.read_bytes()
    assert summary.policy_version == summary.updates == 4
    before, after = (load_policy(path.read_bytes()) for path in (learnt.policy, run.policy))
    furthest = max(np.abs(after.parameters[name] - array).max() for name, array in before.parameters.items())
    assert 0 < furthest < 4 * 1.1 * settings.algorithm.learning_rate  # four steps of Adam


def test_the_run_stays_what_it_is_when_the_origin_is_gone(tmp_path: Path, learnt: RunDirectory) -> None:
    shutil.copytree(learnt.path, tmp_path / "origin")
    whole = train(settings_from(tmp_path / "origin"), tmp_path / "whole", Silence())
    train(settings_from(tmp_path / "origin", "train.steps=768"), tmp_path / "pieces", Silence())
    shutil.rmtree(tmp_path / "origin")
    RunDirectory(tmp_path / "pieces").first_policy.write_bytes(b"damaged since: no resume needs it")
    assert resume(str(tmp_path / "pieces"), 1536, None, Silence()).policy_sha256 == whole.policy_sha256


def test_a_policy_file_by_itself_names_its_environment(tmp_path: Path, learnt: RunDirectory) -> None:
    lone = tmp_path / "a policy: lone.safetensors"
    lone.write_bytes(learnt.policy.read_bytes())
    settings = settings_from(lone)
    assert (settings.env.id, settings.env.own_settings["vision_radius"]) == ("snake", 3)
    assert settings.policy.weights == str(lone)
    assert settings.train.steps == 40_000_000  # of no experiment


def test_services_begin_with_it_too(tmp_path: Path, learnt: RunDirectory) -> None:
    own = ["--from", learnt.path, "--steps", "768", "--json"]
    here = rattle("train", *own, "--run-dir", "here", cwd=tmp_path)
    there = rattle("up", *own, "--run-dir", "there", cwd=tmp_path)
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    assert last_json(here.stdout)["policy_sha256"] == last_json(there.stdout)["policy_sha256"]


def test_a_lone_policy_with_memory_says_what_its_network_is(tmp_path: Path) -> None:
    network = "{network: gru, hidden_sizes: [6, 5], memory_layers: 2, activation: tanh, inputs: [last_reward]}"
    train(small_settings(f"policy={network}", "train.steps=384"), tmp_path / "origin", Silence())
    lone = RunDirectory(tmp_path / "origin").policy.rename(tmp_path / "lone.safetensors")
    settings = settings_from(lone, "train.steps=384")
    assert settings.policy.model_dump(exclude={"weights"}) == {
        "network": "gru",
        "hidden_sizes": (6, 5),
        "activation": "tanh",
        "memory_layers": 2,
        "inputs": ("last_reward",),
        "bounds": "clip",
    }
    assert train(settings, tmp_path / "run", Silence()).status == "finished"


@pytest.mark.parametrize("network", ["{network: encoders, hidden_sizes: [8]}", "{network: 'my_net:Plain', width: 5}"])
def test_networks_that_are_graphs_are_those_of_the_run_or_named(
    user_module: UserModule, tmp_path: Path, network: str
) -> None:
    user_module("my_net", NETWORK)
    origin = tmp_path / "origin"
    train(small_settings(f"policy={network}", "train.steps=384"), origin, Silence())
    settings = settings_from(origin, "train.steps=384")
    assert settings.policy.own_settings == small_settings(f"policy={network}").policy.own_settings
    train(settings, tmp_path / "run", Silence())
    run = RunDirectory(tmp_path / "run")
    assert run.first_policy.read_bytes() == RunDirectory(origin).policy.read_bytes()
    lone = tmp_path / "lone.safetensors"
    shutil.copy(RunDirectory(origin).policy, lone)
    train(settings_from(lone, f"policy={network}", "env.worlds=8", "train.steps=64"), tmp_path / "named", Silence())
    assert RunDirectory(tmp_path / "named").first_policy.read_bytes() == lone.read_bytes()
    with pytest.raises(
        RunError, match=r"it has a network of kind graph, and policy\.network names one of kind mlp"
    ) as wrong:
        train(settings_from(lone, "train.steps=64"), tmp_path / "unnamed", Silence())
    with pytest.raises(RunError, match=r"does not fit: it has another network than policy\.network names") as other:
        train(settings_from(lone, f"policy={OTHER}", "train.steps=64"), tmp_path / "other", Silence())
    assert max(len(str(wrong.value)), len(str(other.value))) < 300


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.hidden_sizes=[8]"], r"does not fit: it has hidden_sizes \[16\], the experiment \[8\]"),
        (["env.vision_radius=2"], "does not fit: it has observation"),
        (["env={id: 'gym:CartPole-v1'}"], "does not fit: it has observation .*; num_actions 3, the experiment 2"),
        (["policy.weights=nothing.safetensors"], "cannot read nothing.safetensors: No such file"),
    ],
)
def test_what_does_not_fit_leaves_no_run(
    tmp_path: Path, learnt: RunDirectory, overrides: list[str], message: str
) -> None:
    with pytest.raises(RunError, match=message) as wrong:
        train(settings_from(learnt.path, *overrides), tmp_path / "run", Silence())
    assert "\n" not in str(wrong.value)
    assert not (tmp_path / "run").exists()


def test_damaged_files_and_resumes_are_refused(tmp_path: Path, learnt: RunDirectory) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(learnt.policy.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"damaged\.safetensors"):
        settings_from(damaged)
    both = rattle("train", "--from", learnt.path, "--resume", learnt.path, cwd=tmp_path)
    assert both.returncode == 2
    assert "--resume uses the run's own settings" in both.stderr


def test_a_policy_file_by_itself_imports_nothing_unless_it_is_trusted(
    user_module: UserModule, tmp_path: Path, learnt: RunDirectory
) -> None:
    marker = tmp_path / "imported"
    user_module("my_trap", f"open({str(marker)!r}, 'w').close()\n")
    lone = tmp_path / "lone.safetensors"
    own = load_policy(learnt.policy.read_bytes())
    for environment in ("my_trap:Pond", "gym:my_trap:Pond-v0", "pettingzoo:my_trap"):
        lone.write_bytes(dump_policy(replace(own, environment=environment)))
        with pytest.raises(RunError, match=f"not imported because a file says so: trust it with .*{environment}"):
            settings_from(lone)
        assert not marker.exists()
        with pytest.raises(RattleError, match=r"Pond|parallel_env"):
            settings_from(lone, f"env.id={environment}")
        assert marker.exists()
        marker.unlink()
        del sys.modules["my_trap"]
