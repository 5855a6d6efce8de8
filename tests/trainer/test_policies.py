"""Several policies play agents of different kinds in the same worlds, and each learns from its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rattle
from rattle.errors import RattleError
from rattle.rollouts.worlds import build_worlds
from rattle.runs.checkpoint import checkpoint_file, list_checkpoints
from rattle.runs.find_policy import find_policy
from rattle.settings.sources import load_settings
from tests.trainer.conftest import last_json
from tests.trainer.conftest import rattle as run_rattle

HUNT = {
    "env.id": "pettingzoo:tests.envs.hunting",
    "env.worlds": 4,
    "env.masks": True,
    "policies": {"wolf_.*": "hunter", "sheep_.*": "prey"},
    "algorithm": {"id": "ppo", "ticks": 16, "passes": 1, "minibatches": 2},
    "record.every_episodes": 2,
    "train.checkpoint_seconds": 0.001,
}


def files(run: Path) -> list[bytes]:
    return [(path / "policy.safetensors").read_bytes() for path in (run, run.with_name(f"{run.name}-prey"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> rattle.Run:
    return rattle.train(settings=HUNT, steps=1024, seed=3, run_dir=tmp_path_factory.mktemp("policies") / "run")


def prey_of(run: rattle.Run) -> rattle.Run:
    return rattle.find_run(f"{run.path}-prey")


def test_each_policy_has_the_spaces_of_its_agents_and_a_run_of_its_own(whole: rattle.Run) -> None:
    prey = prey_of(whole)
    assert (whole.summary["status"], prey.summary["status"]) == ("finished", "finished")
    assert prey.summary["run_id"] == f"{whole.summary['run_id']}-prey"
    assert prey.summary["env_steps"] == whole.summary["env_steps"] == 1024
    assert whole.policy().act([1.0, 2, 3, 4, 0]).shape == (1,)
    assert prey.policy().act([0, 0, 1, 3.0], greedy=True) == 2  # the only step that the mask allows
    assert whole.summary["updates"] == prey.summary["updates"] == 16
    for run in (whole, prey):
        rows = run.query("SELECT max(agent) AS agent, count() AS n, sum(length) AS ticks FROM episodes").to_pylist()
        assert rows[0]["agent"] == 1
        assert rows[0]["n"] > 20
        assert run.query("SELECT count() AS n FROM steps").to_pylist()[0]["n"] > 0
    caught = prey.query("SELECT count() AS n FROM episodes WHERE return < 0 AND terminated").to_pylist()
    assert caught[0]["n"] > 0


@pytest.mark.integration
def test_a_resume_goes_on_exactly_and_parts_change_nothing(whole: rattle.Run, tmp_path: Path) -> None:
    pieces = rattle.train(settings=HUNT, steps=320, seed=3, run_dir=tmp_path / "pieces")
    prey_of(pieces).resume(steps=640)  # the run of any of the policies stands for all
    pieces.resume(steps=1024)
    assert files(pieces.path) == files(whole.path)
    actors = rattle.train(settings={**HUNT, "train.actors": 3}, steps=1024, seed=3, run_dir=tmp_path / "actors")
    assert files(actors.path) == files(whole.path)


def test_a_resume_takes_the_newest_update_that_all_have_stored(whole: rattle.Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    shutil.copytree(prey_of(whole).path, tmp_path / "run-prey")
    of_prey = rattle.find_run(run.with_name("run-prey"))._directory
    newest = list_checkpoints(of_prey)[-1]
    assert newest == checkpoint_file(of_prey, 16)
    newest.unlink()  # as if the process had been killed before it was stored
    rattle.find_run(run).resume(steps=1024)
    assert files(run) == files(whole.path)
    assert rattle.find_run(run).query("SELECT count() AS n FROM updates").to_pylist() == [{"n": 16}]
    for left in list_checkpoints(of_prey):
        left.unlink()
    with pytest.raises(RattleError, match="run-prey/checkpoints is empty, so the run cannot be resumed"):
        rattle.find_run(run).resume(steps=2048)
    shutil.rmtree(of_prey.path)
    with pytest.raises(RattleError, match="run-prey holds no run: those of hunter, prey, who play together, lie side"):
        rattle.find_run(run).resume(steps=2048)


def test_new_episodes_begin_for_all_where_worlds_do_not_repeat_themselves(tmp_path: Path) -> None:
    moody = {**HUNT, "env.moody": True}
    run = rattle.train(settings=moody, steps=64, seed=3, run_dir=tmp_path / "run").resume(steps=192)
    for one in (run, prey_of(run)):
        assert (one.summary["env_steps"], one.summary["updates"]) == (192, 3)


def test_a_policy_learns_from_its_agents_alone(whole: rattle.Run) -> None:
    hunter, prey = (rattle.load_policy(str(run.path)) for run in (whole, prey_of(whole)))
    first = rattle.load_policy(str(whole.path), seed=1)
    assert hunter.act([1.0, 2, 3, 4, 0], greedy=True) == first.act([1.0, 2, 3, 4, 0], greedy=True)
    with pytest.raises(RattleError):
        prey.act([1.0, 2, 3, 4, 0, 0])


def test_all_policies_take_part_in_an_evaluation(whole: rattle.Run) -> None:
    hunter, prey = (rattle.evaluate(run.policy(), 6, seed=1) for run in (whole, prey_of(whole)))
    assert hunter.episodes == prey.episodes == 6
    assert hunter.total_reward.shape == prey.total_reward.shape == (12,)
    assert (prey.length <= 12).all()
    # every catch pays one to both wolves, and costs one sheep its one
    caught = np.sum(prey.total_reward - 0.1 * prey.length < -0.5)
    assert hunter.total_reward.sum() == 2 * caught
    found = find_policy(f"{whole.path}-prey")
    assert list(found.together) == ["hunter", "prey"]
    assert found.together["prey"] is found.policy


def test_commands_show_all_policies(whole: rattle.Run) -> None:
    folder = whole.path.parent
    found = run_rattle("eval", "run", "--episodes", 3, "--json", cwd=folder)
    assert found.returncode == 0, found.stderr
    played = last_json(found.stdout)["policies"]
    assert list(played) == ["hunter", "prey"]
    assert played["prey"]["policy_version"] == 16
    shown = run_rattle("eval", "run-prey", "--episodes", 3, cwd=folder)
    assert shown.stdout.count("version 16 in 3 episodes of pettingzoo:tests.envs.hunting") == 2
    replayed = run_rattle("replay", "run-prey", "--list", cwd=folder)
    assert replayed.returncode == 0, replayed.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env.url": "http://127.0.0.1:1"}, "policies are played in one process, .* but env.url is set"),
        ({"env.processes": 2}, "env.processes is not 1 or auto"),
        ({"evaluation.every_steps": 10}, "evaluation.every_steps is set"),
        ({"algorithm": {"id": "reinforce"}}, "algorithm.id is reinforce, which plays whole episodes"),
        ({"train.keep_checkpoints": 1}, "train.keep_checkpoints is 1"),
        ({"policies": {"wolf_(": "hunter"}}, r"'wolf_\(' is no regular expression"),
        ({"policies": {"wolf_.*": "The Hunter"}}, "policies"),
    ],
)
def test_settings_that_do_not_go_with_policies_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RattleError, match=message) as refused:
        load_settings(None, [], {}, flags={**HUNT, **changes})
    assert "\n" not in str(refused.value)


def test_who_can_make_no_such_worlds_says_so(tmp_path: Path) -> None:
    line = "the agents of 'pettingzoo:tests.envs.hunting' are played by hunter, prey, which only `rattle train`"
    with pytest.raises(RattleError, match=line):
        build_worlds(load_settings(None, [], {}, flags=HUNT), 1, 0)
    overrides = [part for key, value in HUNT.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    for command in (["up"], ["training"], ["inference"], ["inspect", "pettingzoo:tests.envs.hunting"]):
        refused = run_rattle(*command, *overrides, cwd=tmp_path)
        assert refused.returncode != 0
        assert line in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "runs").exists()
