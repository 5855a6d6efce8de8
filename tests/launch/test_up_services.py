"""`rattle up` with the real services: it learns, leaves a run like any other, and survives `kill -9` of each."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.query import rows as query_rows
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.runs import row
from rattle.runs.progress import Summary
from rattle.services.utils.sockets import PortTaken, listen
from tests import template
from tests.launch.test_processes import PATIENCE, wait_for_end
from tests.processes import ServiceProcess
from tests.trainer.conftest import last_json, rattle, read_rows

pytestmark = pytest.mark.integration

SETTINGS = ("env.worlds=64", "policy.hidden_sizes=[16]", "train.checkpoint_seconds=0.5", "record.every_episodes=2")
SMALL = tuple(part for setting in SETTINGS for part in ("--set", setting))


class Running:
    """A `rattle up --json` that goes on, and where it stands."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.directory = RunDirectory(folder / "run")
        pipe = subprocess.PIPE
        environment = {**os.environ, **variables}
        self._process = template.start(
            "up", "--json", *arguments, cwd=folder, env=environment, stdout=pipe, stderr=pipe
        )
        self.summary: dict[str, Any] = {}
        self.said: list[str] = []

    def progress(self) -> Iterator[int]:
        """Yield the environment steps of the lines that say them."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line)
            content = json.loads(line)
            if content["event"] == "progress":
                yield content["env_steps"]
            elif content["event"] == "summary":
                self.summary = content

    def pids(self) -> dict[str, int]:
        """Return the newest process of each service."""
        rows = [json.loads(line) for line in (self.directory.table("logs") / "up.jsonl").read_text().splitlines()]
        known = [json.loads(entry["fields"]) for entry in rows]
        return {entry["service"]: entry["service_pid"] for entry in known if "service_pid" in entry}

    def address(self, name: str) -> str:
        """Return where a service has said last that it listens."""
        rows = [json.loads(line) for line in (self.directory.table("logs") / "up.jsonl").read_text().splitlines()]
        ready = [json.loads(entry["fields"]) for entry in rows if entry["event"] == "service_ready"]
        return str([entry["address"] for entry in ready if entry["service"] == name][-1])

    def kill_and_take_port(self, name: str) -> socket.socket:
        """Kill a service, and listen at its port before it is back; return the socket that does."""
        port = int(self.address(name).rpartition(":")[2])
        while True:
            pid = self.pids()[name]
            os.kill(pid, signal.SIGKILL)
            while self.pids()[name] == pid:
                with suppress(PortTaken):  # by the one that was killed, for a little while
                    return listen("127.0.0.1", port)
            wait_for_end(pid)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Read on to the end; return the exit status and what went to stderr."""
        for _ in self.progress():
            pass
        _, err = self._process.communicate(timeout=120)
        assert "Traceback" not in err
        return self._process.wait(), err


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[Running]:
    """Start it, and leave nothing of it behind."""
    run = Running(folder, *arguments, **variables)
    try:
        yield run
    finally:
        run.signal(signal.SIGKILL)
        run._process.communicate()


@pytest.mark.whole(suite="slow")
def test_it_learns_as_train_does_and_leaves_a_run_like_any_other(tmp_path: Path) -> None:
    limits = ("--steps", "200000", *SMALL)
    up = rattle("up", "--json", "--run-dir", "run", *limits, cwd=tmp_path)
    assert (up.returncode, up.stderr) == (0, "")
    train = rattle("train", "--json", "--run-dir", "own", *limits, cwd=tmp_path)
    one, other = last_json(up.stdout), last_json(train.stdout)
    assert one.keys() == other.keys() == {"event", *(field.name for field in fields(Summary))}
    timed = {"run_id", "run_dir", "seconds", "env_steps_per_second"}
    assert {key: one[key] for key in one.keys() - timed} == {key: other[key] for key in one.keys() - timed}
    assert (tmp_path / "run" / "policy.safetensors").read_bytes() == (
        tmp_path / "own" / "policy.safetensors"
    ).read_bytes()
    for command in (
        ("plot", "run", "--output", "curve.png"),
        ("query", "--run", "run", "SELECT count() FROM updates WHERE policy_age = 0"),
        ("query", "--run", "run", "SELECT event FROM logs WHERE service = 'up'"),
        ("replay", "run", "--episode", "best", "--gif"),
        ("eval", "run", "--episodes", "5"),
        ("runs",),
    ):
        done = rattle(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_ctrl_c_stores_what_was_learnt_and_resume_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "--run-dir", "run", "--steps", "100000000", *SMALL) as run:
        next(run.progress())
        pids = run.pids()
        run.signal(signal.SIGINT)
        assert run.end() == (0, "")
    assert run.summary["status"] == "interrupted"
    steps = run.summary["env_steps"]
    assert steps > 0
    for pid in pids.values():
        wait_for_end(pid)
    with running(tmp_path, "--resume", "run", "--steps", str(steps + 50_000)) as again:
        assert again.end() == (0, "")
    assert again.summary["status"] == "finished"
    assert again.summary["env_steps"] >= steps + 50_000
    versions = [update["policy_version"] for update in read_rows(again.directory, "updates")]
    assert versions == list(range(1, len(versions) + 1))


def test_seconds_end_it_even_where_training_dies(tmp_path: Path) -> None:
    with running(tmp_path, "--run-dir", "run", "--seconds", "8", *SMALL) as run:
        next(run.progress())
        began = time.monotonic()
        next(steps for steps in run.progress() if time.monotonic() - began >= 4)
        os.kill(run.pids()["training-0"], signal.SIGKILL)
        status, err = run.end()
    assert status == 0
    assert "training-0: died: ended by signal 9 (Killed)" in err
    assert run.summary["status"] == "finished"
    assert run.summary["seconds"] < 8 + 4  # were they counted from the death, there would be 13


def _stage(update: dict[str, Any]) -> int:
    return int(update["env_steps"] // 100_000)


@pytest.mark.whole(suite="slow")
@pytest.mark.parametrize("mode", ["on_policy", "async"])
def test_ten_deaths_and_it_goes_on_by_itself_to_its_last_step(tmp_path: Path, mode: str) -> None:
    deaths = 10
    names = cycle(("env-0", "inference-0", "training-0"))
    mode_setting = ("--set", f"training.mode={mode}")
    evaluated = ("--set", "evaluation={every_steps: 100000, episodes: 20}")
    with running(tmp_path, "--run-dir", "run", "--steps", "1500000", *SMALL, *mode_setting, *evaluated) as run:
        reached = 0
        for steps in run.progress():
            # Only when what the last death cost has been learnt again.
            if steps > reached and deaths:
                name = next(names)
                os.kill(run.pids()[name], signal.SIGKILL)
                deaths, reached = deaths - 1, steps
        status, err = run.end()
    assert (status, deaths) == (0, 0), err
    assert run.summary["status"] == "finished"
    assert run.summary["env_steps"] >= 1_500_000
    assert err.count("died: ended by signal 9 (Killed)") == 10
    updates = read_rows(run.directory, "updates")
    assert [update["policy_version"] for update in updates] == list(range(1, len(updates) + 1))
    assert updates[-1]["env_steps"] == run.summary["env_steps"]
    # None was lost, and none doubled: one for each 100,000 steps, of the update in which they were reached.
    due = [made for before, made in pairwise([{"env_steps": 0}, *updates]) if _stage(before) < _stage(made)]
    versions = [update["policy_version"] for update in due]
    assert [row["policy_version"] for row in read_rows(run.directory, "evaluations")] == versions
    assert len(versions) >= 14
    ids = [episode["episode_id"] for episode in read_rows(run.directory, "episodes")]
    assert len(ids) == len(set(ids)) == run.summary["episodes"]


def test_a_port_that_another_program_took_is_given_up_and_the_run_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "--run-dir", "run", "--steps", "150000", *SMALL) as run:
        next(run.progress())
        with run.kill_and_take_port("env-0") as taken:
            status, err = run.end()
            assert run.address("env-0").rpartition(":")[2] != str(taken.getsockname()[1])
    assert status == 0, err
    assert run.summary["status"] == "finished"
    assert run.summary["env_steps"] >= 150_000
    assert "env-0: another program took its port: it is at " in err


FRAGILE = """
import gymnasium
import numpy as np

class Fragile(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        Fragile.steps += 1
        if Fragile.steps > 20_000:
            raise ValueError("the arm broke")
        return np.zeros(3, np.float32), 1.0, bool(Fragile.steps % 7 == 0), False, {}

gymnasium.register("Fragile-v0", entry_point=Fragile)
"""


def test_an_environment_that_fails_ends_the_run_and_what_was_learnt_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_FILE", str(tmp_path / "all.jsonl"))
    (tmp_path / "fragile.py").write_text(FRAGILE)
    settings = (*SMALL, "--set", "env.id=gym:fragile:Fragile-v0", "--set", "training.mode=async")
    done = rattle("up", "--json", "--run-dir", "run", *settings, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"Error: 'gym:fragile:Fragile-v0', world \d+: step raised ValueError: the arm broke "
        r"in fragile.py, line \d+ \(its traceback is in the table logs\)",
        last,
    )
    run = row(RunDirectory(tmp_path / "run"))
    assert run["status"] == "failed"
    assert run["updates"] > 0
    logged = "SELECT event, fields FROM logs WHERE event = 'environment_failed' OR event LIKE 'run_%' ORDER BY time"
    rows = query_rows(logged, [RunDirectory(tmp_path / "run")])
    assert [entry["event"] for entry in rows] == ["run_started", "environment_failed", "run_failed"]
    assert 'raise ValueError("the arm broke")' in json.loads(rows[-1]["fields"])["traceback"]
    told = Counter((tmp_path / "all.jsonl").read_text().splitlines())
    assert set(told.values()) == {1}, "each event is written once"
    assert {json.loads(line)["service"] for line in told} == {"up", "env-0", "training-0", "inference-0"}
    assert rattle("eval", "run", "--episodes", "2", cwd=tmp_path).returncode == 0


def test_kill_9_of_the_launcher_leaves_no_process_and_a_run_to_resume(tmp_path: Path) -> None:
    with running(tmp_path, "--run-dir", "run", "--steps", "100000000", *SMALL) as run:
        next(run.progress())
        pids = run.pids()
        run.signal(signal.SIGKILL)
        for pid in pids.values():
            wait_for_end(pid)
    assert len(pids) == 3
    deadline = time.monotonic() + PATIENCE
    while run.directory.in_use:  # the threads of a process that was killed end one by one
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert row(run.directory)["status"] == "interrupted"
    more = row(run.directory)["env_steps"] + 20_000  # how many were made depends on the machine
    with running(tmp_path, "--resume", "run", "--steps", str(more)) as again:
        assert again.end() == (0, "")
    assert again.summary["status"] == "finished"


def _arguments(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_services_are_forks_and_start_from_the_beginning_where_their_template_has_died(tmp_path: Path) -> None:
    nobody = {"ENABLE_RABBITMQ": "true", "RABBITMQ_HOST": "127.0.0.1", "RABBITMQ_PORT": "1"}  # threads are no obstacle
    with running(tmp_path, "--run-dir", "run", "--steps", "100000000", *SMALL, **nobody) as run:
        progress = run.progress()
        next(progress)
        before = run.pids()
        assert all(_arguments(pid).startswith(f"rattle --leash {name[:-2]} ") for name, pid in before.items())
        assert all(os.getpgid(pid) == pid for pid in before.values())  # no Ctrl-C in a terminal reaches them
        [forking] = {_parent(pid) for pid in before.values()}
        os.kill(forking, signal.SIGKILL)
        wait_for_end(forking)
        for name, pid in before.items():
            os.kill(pid, signal.SIGKILL)
            next(steps for steps in progress if run.pids()[name] != pid)
            assert "-m rattle.cli --leash" in _arguments(run.pids()[name])
        run.signal(signal.SIGINT)
        status, err = run.end()
    assert status == 0, err
    assert err.count("died: ") == 3


def test_two_policies_in_two_of_everything(tmp_path: Path) -> None:
    topology = ("topology.env=2", "topology.inference=2", "topology.training=2", "training.policies=[a,b]")
    settings = tuple(part for setting in topology for part in ("--set", setting))
    with running(tmp_path, "--run-dir", "run", "--steps", "30000", *SMALL, *settings) as run:
        assert run.end() == (0, "")
    assert run.summary["status"] == "finished"
    other = row(RunDirectory(tmp_path / "run-b"))
    assert (other["status"], other["env_steps"]) == ("finished", run.summary["env_steps"])
    assert other["policy_sha256"] != run.summary["policy_sha256"]


def test_a_server_elsewhere_is_played_in_and_outlives_the_run(tmp_path: Path) -> None:
    with ServiceProcess("env") as server:
        settings = (*SMALL, "--set", f"env.url={server.url}")
        with running(tmp_path, "--run-dir", "run", "--steps", "20000", *settings) as run:
            assert run.end() == (0, "")
        assert set(run.pids()) == {"training-0", "inference-0"}
        assert server.kill(signal.SIGTERM) == 0
    train = rattle("train", "--json", "--run-dir", "own", "--steps", "20000", *SMALL, cwd=tmp_path)
    assert run.summary["policy_sha256"] == last_json(train.stdout)["policy_sha256"]


def test_what_only_a_service_can_know_is_refused_in_one_line(tmp_path: Path) -> None:
    settings = ("--set", "env_service.max_worlds=8", "--set", "inference.port=1", "--set", "train.device=cuda")
    done = rattle("up", "--json", "--run-dir", "run", *SMALL, *settings, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: training-0 cannot start: train.device is cuda")
    assert "Traceback" not in done.stderr
    assert row(RunDirectory(tmp_path / "run"))["status"] == "failed"
