"""Environments that end their process, or hang, are tried out in a process of their own, and named in one line."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import chdb
import gymnasium
import pytest

from rattle.envs.errors import EnvError, EnvironmentFailed
from rattle.envs.registry import is_harmless
from rattle.rollouts.worlds import try_out
from rattle.runs import inspection
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings
from rattle.workers import apart
from tests import template
from tests.trainer.conftest import rattle
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

DEADLY = """
    import ctypes, os, signal, time, warnings
    import gymnasium, numpy as np

    WAYS = {
        "quits": lambda: os._exit(0),
        "fails": lambda: os._exit(3),
        "crashes": lambda: ctypes.string_at(0),
        "aborts": os.abort,
        "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "hangs": lambda: (open("hanging", "w").close(), time.sleep(1e6)),
        "raises": lambda: 1 / 0,
        "warns": lambda: warnings.warn("it is late"),
    }

    class Deadly(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self, how: str = "", where: str = ""):
            self.how, self.where = how, where
            self.happens("make")

        def happens(self, where):
            if where == self.where:
                WAYS[self.how]()

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.ticks = 0
            self.happens("reset")
            return self.np_random.random(3, np.float32), {}

        def step(self, action):
            self.ticks += 1
            if self.ticks == 3:
                self.happens("step")
            return self.np_random.random(3, np.float32), 1.0, self.ticks == 9, False, {}

        def close(self):
            self.happens("close")
"""

Wait = Callable[[apart._Readable, float], list[int]]

SAID = {
    "quits": "has ended with status 0: have it raise an error",
    "fails": "has ended with status 3: have it raise an error",
    "crashes": r"was killed by SIGSEGV in .*<lambda>, deadly.py, line \d+: fix it",
    "aborts": r"was killed by SIGABRT in .*happens, deadly.py, line \d+: fix it",
    "is killed": "was killed by SIGKILL: .* memory runs out",
    "hangs": r"has not come back for 0.04 seconds in <lambda>, deadly.py, line \d+: .* env.answer_seconds",
}


@pytest.fixture
def deadly(user_module: UserModule) -> str:
    user_module("deadly", DEADLY)
    return "deadly:Deadly"


@pytest.fixture
def forks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have forks take the place of processes that are started anew, which import everything first."""
    monkeypatch.setattr(apart, "_can_fork", lambda: True)
    monkeypatch.setattr(apart, "_start_anew", apart._fork)


@pytest.fixture
def a_thread() -> Iterator[None]:
    """Have this process be one that cannot be forked."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


def of(environment: str, how: str = "", where: str = "", seconds: float = 30.0) -> ExperimentSettings:
    pairs = [f"env.{name}={value}" for name, value in {"worlds": 2, "how": how, "where": where}.items() if value]
    settings = load_settings(None, pairs, {}, flags={"env.id": environment})
    return settings.model_copy(update={"env": settings.env.model_copy(update={"answer_seconds": seconds})})


def _patient(wait: Wait) -> Wait:
    """Return a `wait` for which time stands still until a process hangs."""

    def until_it_hangs(readable: apart._Readable, seconds: float) -> list[int]:
        while not (ready := wait(readable, seconds)) and not Path("hanging").exists():
            pass
        return ready

    return until_it_hangs


@pytest.mark.parametrize(
    ("how", "where"), [("fails", "close"), *((how, where) for how in SAID for where in ("make", "reset", "step"))]
)
def test_what_ends_or_hangs_a_process_is_named(
    deadly: str, forks_only: None, monkeypatch: pytest.MonkeyPatch, how: str, where: str
) -> None:
    settings = of(deadly, how, where)
    if how == "hangs":
        settings = of(deadly, how, where, seconds=0.01)
        monkeypatch.setattr(apart, "_can_fork", lambda: False)
        monkeypatch.setattr(apart._Readable, "wait", _patient(apart._Readable.wait))
    with pytest.raises(EnvironmentFailed) as failed:
        try_out(settings)
    said = str(failed.value)
    assert said.startswith(f"'deadly:Deadly', {where}: the process that tries it out ")
    assert re.search(SAID[how], said), said
    assert "\n" not in said


def test_no_handler_of_a_library_keeps_it_alive(deadly: str, forks_only: None) -> None:
    chdb.query("SELECT 1")  # from then on it handles signals of crashes, in threads that forks do not have
    for how in ("aborts", "crashes"):
        with pytest.raises(EnvironmentFailed, match=SAID[how]):
            try_out(of(deadly, how, "step"))


def test_a_process_that_is_started_anew_names_it_too(deadly: str, a_thread: None) -> None:
    with pytest.raises(EnvironmentFailed, match=SAID["crashes"]):
        try_out(of(deadly, "crashes", "step"))


def test_it_is_the_same_environment_in_a_fork_in_a_process_started_anew_and_here(
    deadly: str, a_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of(deadly)
    assert not apart._can_fork()
    anew = try_out(settings)
    monkeypatch.setattr(apart, "_can_fork", lambda: True)
    monkeypatch.setattr(apart, "_start_anew", None)
    assert try_out(settings) == anew
    monkeypatch.setattr("rattle.rollouts.worlds.is_harmless", lambda *_: True)
    monkeypatch.setattr(apart, "_fork", None)
    assert try_out(settings) == anew
    environments, repeats = anew
    assert environments["main"].observation_space.learnt_by == "floats"
    assert repeats


def test_what_is_raised_is_raised_in_this_process(deadly: str, forks_only: None) -> None:
    with pytest.raises(EnvError, match="'deadly:Deadly', world 0: step raised ZeroDivisionError") as raised:
        try_out(of(deadly, "raises", "step"))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_what_only_a_fork_dies_of_is_tried_again(deadly: str, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[str] = []
    fork = apart._fork

    def forked(channel: int, memory: int) -> apart._Child:
        starts.append("fork")
        process = fork(channel, memory)
        process.kill()
        return process

    def anew(channel: int, memory: int) -> apart._Child:
        starts.append("anew")
        return fork(channel, memory)

    monkeypatch.setattr(apart, "_can_fork", lambda: True)
    monkeypatch.setattr(apart, "_fork", forked)
    monkeypatch.setattr(apart, "_start_anew", anew)
    assert try_out(of(deadly))[1]
    assert starts == ["fork", "anew"]


def test_what_only_this_process_has_registered_is_tried_out_here(a_thread: None) -> None:
    gymnasium.register("Own-v0", lambda **_: gymnasium.make("CartPole-v1").unwrapped)
    try:
        settings = load_settings(None, ["env.worlds=2"], {}, flags={"env.id": "gym:Own-v0"})
        assert try_out(settings)[0]["main"].id == "gym:Own-v0"
    finally:
        del gymnasium.registry["Own-v0"]


def test_an_inspection_plays_in_another_process(deadly: str, forks_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = of(deadly)
    found = inspection.inspect(settings, 0.01)
    assert not found.failed
    assert found.play.ticks >= 1
    assert found.play.reward.most == 1.0
    monkeypatch.setattr(inspection, "play_at_random", lambda *_: os._exit(3))  # in a fork, not in this process
    with pytest.raises(EnvironmentFailed, match=r"'deadly:Deadly', reset: .* has ended with status 3"):
        inspection.inspect(settings, 0.01)


def test_what_comes_with_gymnasium_and_is_python_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_harmless("snake", {})
    assert is_harmless("gym:CartPole-v1", {"max_episode_steps": 9})
    assert is_harmless("gym:Taxi-v4", {})
    assert not is_harmless("gym:CartPole-v1", {"wrappers": [{"use": "TimeLimit"}]})
    assert not is_harmless("gym:CartPole-v1", {"render_mode": "human"})
    for other in ("gym:HalfCheetah-v5", "gym:LunarLander-v3", "gym:NoSuch-v0", "pettingzoo:my_game", "deadly:Deadly"):
        assert not is_harmless(other, {})
    monkeypatch.setattr("rattle.rollouts.worlds.ask_apart", None)
    assert try_out(of("gym:CartPole-v1"))[1]


@pytest.mark.parametrize(("how", "where"), [("crashes", "step"), ("hangs", "make")])
def test_commands_end_with_one_line_and_leave_no_run(tmp_path: Path, how: str, where: str) -> None:
    (tmp_path / "deadly.py").write_text(dedent(DEADLY))
    own = {"how": how, "where": where, **({"answer_seconds": 1} if how == "hangs" else {})}
    pairs = [part for name, value in own.items() for part in ("--set", f"env.{name}={value}")]
    commands = [
        template.start(*command, *pairs, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in (
            ("train", "--set", "env.id=deadly:Deadly"),
            ("up", "--set", "env.id=deadly:Deadly", "--json"),
            ("inspect", "deadly:Deadly"),
        )
    ]
    for command in commands:
        out, err = command.communicate(timeout=120)
        assert out == ""
        *before, last = err.strip().splitlines()
        assert last.startswith(f"Error: 'deadly:Deadly', {where}: the process that tries it out "), err
        assert command.wait() == 1
        wait = "Warning: 'deadly:Deadly' is waited for: make may take 4 seconds"
        assert how != "hangs" or before.count(wait) == 1, err
    assert not (tmp_path / "runs").exists()


def test_a_warning_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(dedent(DEADLY))
    given = ("--set", "env.how=warns", "--set", "env.where=make", "--set", "env.worlds=2")
    done = rattle("inspect", "deadly:Deadly", "--seconds", "0.01", *given, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("it is late") == 1
