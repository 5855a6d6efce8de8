"""Training in an environment server is training in this process, and outlives the server."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.rollouts.complete import complete
from rattle.runs.checkpoint import list_checkpoints
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import SettingsError, load_settings
from rattle.trainer.train import resume, train
from tests.processes import ServiceProcess
from tests.template import RattleProcess
from tests.trainer.conftest import Silence, last_json, rattle, read_rows, small_settings

pytestmark = pytest.mark.integration


def served_settings(*overrides: str) -> ExperimentSettings:
    return complete(small_settings(*overrides))


TIMES = ("time", "seconds", "env_steps_per_second", "run_id")


@pytest.fixture(scope="module")
def server() -> Iterator[ServiceProcess]:
    with ServiceProcess("env", settings=("env.num_snakes=2",)) as process:
        yield process


def rows(directory: RunDirectory) -> list[list[dict[str, Any]]]:
    return [read_rows(directory, table, *TIMES) for table in ("episodes", "updates", "evaluations")]


@pytest.mark.parametrize(
    "choice",
    [
        (),
        ("algorithm.id=reinforce", "algorithm.max_episode_ticks=100"),
        ("evaluation={every_steps: 1000, episodes: 7, greedy: true}",),
    ],
)
def test_a_server_changes_nothing(tmp_path: Path, server: ServiceProcess, choice: tuple[str, ...]) -> None:
    here = train(complete(small_settings("env.num_snakes=2", *choice)), tmp_path / "here", Silence())
    there = train(served_settings(f"env.url={server.url}", *choice), tmp_path / "there", Silence())
    assert there.policy_sha256 == here.policy_sha256
    assert rows(RunDirectory(tmp_path / "there")) == rows(RunDirectory(tmp_path / "here"))
    config = load_settings(RunDirectory(tmp_path / "there").config, (), {})
    assert (config.env.id, config.env.own_settings["num_snakes"]) == ("snake", 2)


def test_a_run_that_was_killed_goes_on_exactly_in_a_server_that_was_restarted(tmp_path: Path) -> None:
    settings = ["--set", "env.worlds=24", "--set", "policy.hidden_sizes=[16]", "--set", "train.checkpoint_seconds=0.1"]
    settings += ["--set", "evaluation={every_steps: 5000, episodes: 20}"]
    steps = 80_000
    whole = rattle("train", *settings, "--steps", steps, "--run-dir", "whole", "--json", cwd=tmp_path)
    with ServiceProcess("env") as server:
        command = ["train", *settings, "--set", f"env.url={server.url}", "--steps", str(steps)]
        run = RunDirectory(tmp_path / "killed")
        process = RattleProcess(*command, "--run-dir", str(run.path), cwd=tmp_path, stdout=subprocess.DEVNULL)
        while not (run.checkpoints.exists() and list_checkpoints(run)[-1:] > [run.checkpoints / "update-0000000010"]):
            assert process.poll() is None
        process.kill()
        process.wait()
        server.kill()
        server.start()
        resumed = rattle("train", "--resume", run.path, "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert last_json(resumed.stdout)["policy_sha256"] == last_json(whole.stdout)["policy_sha256"]
    assert rows(run) == rows(RunDirectory(tmp_path / "whole"))


def test_training_outlives_its_server(tmp_path: Path) -> None:
    with ServiceProcess("env") as server:
        settings = served_settings(f"env.url={server.url}", "train.steps=60000", "train.checkpoint_seconds=0.2")
        killed = threading.Event()

        class Killer(Silence):
            def update(self, progress: Any) -> None:
                super().update(progress)
                if len(self.progress) in (20, 60):
                    server.kill()
                    server.start()
                    killed.set()

        summary = train(settings, tmp_path / "run", Killer())
    run = RunDirectory(tmp_path / "run")
    assert killed.is_set()
    assert summary.status == "finished"
    lost = [row for row in read_rows(run, "logs") if row["event"] == "worlds_lost"]
    assert len(lost) >= 2
    # No episode holds ticks of two server lives: lengths and returns add up to no more than what was played.
    episodes = read_rows(run, "episodes")
    assert sum(row["length"] for row in episodes) <= summary.env_steps
    assert all(row["length"] <= 100 * (row["metrics"]["food"] + 1) for row in episodes)  # or it would have starved


def test_a_server_that_stays_away_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with ServiceProcess("env") as server:
        settings = served_settings(f"env.url={server.url}", "env.wait_seconds=1", "train.steps=null")

        class Killer(Silence):
            def update(self, progress: Any) -> None:
                server.kill(signal.SIGKILL)

        with pytest.raises(RattleError, match=r"no connection|broke the connection"):
            train(settings, tmp_path / "run", Killer())
        assert read_rows(RunDirectory(tmp_path / "run"), "logs")[-1]["event"] == "run_failed"
        server.start()
        assert resume(str(tmp_path / "run"), 2000, None, Silence()).status == "finished"


def test_what_a_user_gets_wrong(tmp_path: Path, server: ServiceProcess) -> None:
    def start(*overrides: str) -> None:
        train(served_settings(f"env.url={server.url}", *overrides), tmp_path / "run", Silence())

    with pytest.raises(SettingsError, match="serves 'snake'"):
        start("env.id=gym:CartPole-v1")
    with pytest.raises(RattleError, match="unknown key 'widht', did you mean 'width'"):
        start("env.widht=20")
    with pytest.raises(SettingsError, match="url"):
        load_settings(None, ["env.url=localhost"], {})
    assert not (tmp_path / "run").exists()


def test_a_policy_is_evaluated_in_the_server_too(tmp_path: Path, server: ServiceProcess) -> None:
    train(served_settings(f"env.url={server.url}"), tmp_path / "run", Silence())
    here = rattle("eval", "run/policy.safetensors", "--episodes", 20, "--json", cwd=tmp_path)
    there = rattle("eval", "run", "--episodes", 20, "--json", cwd=tmp_path)
    named = rattle("eval", "run", "--episodes", 20, "--json", "--url", server.url, cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert there.stderr.startswith(f"playing at {server.url}, as the run has")
    results = [last_json(done.stdout) for done in (here, there, named)]
    assert [{**result, "policy": ""} for result in results] == 3 * [{**results[0], "policy": ""}]
