"""Replays in real and pretended terminals."""

from __future__ import annotations

import io
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path

import pytest
from rich.console import Console

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.replay import Episode, load_episode, play
from rattle.analytics.run_directory import RunDirectory
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import make_run, record_snake

FAST = 1e6
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture
def episode(run: RunDirectory) -> Episode:
    record_snake(run, SnakeSettings(max_steps=12))
    return load_episode(run)


def terminal(width: int, height: int) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, color_system="truecolor", _environ={}
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_coloured_frames_and_its_cursor_back(episode: Episode) -> None:
    console = terminal(80, 24)
    play(episode, fps=FAST, console=console)
    assert "tick 0 " in written(console)
    assert "truncated" in written(console)
    assert "48;2;58;66;82" in written(console)  # the ground of a cell in sight
    assert SHOW_CURSOR in written(console)


def test_frames_are_plain_lines_where_there_is_no_terminal(episode: Episode) -> None:
    console = Console(file=io.StringIO(), width=20, _environ={})
    play(episode, fps=0.001, console=console)  # takes no heed of it
    text = written(console)
    assert "\x1b" not in text
    frames = text.strip("\n").split("\n\n")
    assert len(frames) == 13
    assert {len(frame.splitlines()) for frame in frames} == {17}


class Clock:
    """Time that goes on while it is slept, and a little with each frame: that is made up for."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, list[float]()

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def test_the_speed_is_what_was_asked_for(episode: Episode, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("rattle.analytics.replay.terminal.time", clock)
    play(episode, fps=50, console=terminal(80, 24))
    assert len(clock.slept) == 13
    assert clock.now - 1000 == pytest.approx(13 / 50, abs=0.002)


@pytest.mark.parametrize(("width", "height"), [(40, 24), (80, 17)])
def test_a_window_too_small_is_one_line(episode: Episode, width: int, height: int) -> None:
    console = terminal(width, height)
    with pytest.raises(AnalyticsError, match=r"the replay needs 4\d and 18: make it larger, or .* --gif"):
        play(episode, console=console)
    assert written(console) == ""


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(episode: Episode, fps: float) -> None:
    with pytest.raises(AnalyticsError, match="fps"):
        play(episode, fps=fps)


PLAY = """
import sys
from pathlib import Path
from rattle.analytics.replay import load_episode, play
from rattle.analytics.run_directory import RunDirectory
play(load_episode(RunDirectory(Path(sys.argv[1]))), fps=5)
"""


class InTerminal:
    """A replay of an episode in a real terminal, in a process group of its own as a shell starts it."""

    def __init__(self, run: RunDirectory) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environ.pop(name, None)
        command = [sys.executable, "-c", PLAY, str(run.path)]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, process_group=0
        )
        os.close(theirs)
        self.output = ""

    def read(self) -> None:
        self.output += os.read(self._ours, 1 << 16).decode()

    def read_until(self, text: str) -> None:
        while text not in self.output:
            self.read()

    def close(self) -> int:
        """Read all that is still written, and return the exit status."""
        with suppress(OSError):  # how a terminal ends when the last process has left it
            while True:
                self.read()
        os.close(self._ours)
        return self.process.wait()


@pytest.fixture
def playing(tmp_path: Path) -> Iterator[InTerminal]:
    run = make_run(tmp_path)
    record_snake(run, SnakeSettings())
    terminal = InTerminal(run)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_ctrl_c_in_a_real_terminal_ends_the_replay_cleanly(playing: InTerminal) -> None:
    playing.read_until("tick 1 ")
    playing.process.send_signal(signal.SIGINT)
    assert playing.close() == 0
    assert SHOW_CURSOR in playing.output
    assert "Traceback" not in playing.output


def test_ctrl_z_leaves_a_cursor_and_the_replay_goes_on_where_it_was(playing: InTerminal) -> None:
    playing.read_until("tick 1 ")
    playing.process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(playing.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    playing.read_until(SHOW_CURSOR)
    assert HIDE_CURSOR not in playing.output.rpartition(SHOW_CURSOR)[2]
    playing.output = ""
    playing.process.send_signal(signal.SIGCONT)
    playing.read_until(HIDE_CURSOR)
    playing.read_until("tick ")
    playing.process.send_signal(signal.SIGINT)
    assert playing.close() == 0
    assert SHOW_CURSOR in playing.output
    assert HIDE_CURSOR not in playing.output.rpartition(SHOW_CURSOR)[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_replay_that_is_ended_leaves_a_cursor(playing: InTerminal, number: signal.Signals) -> None:
    playing.read_until("tick 1 ")
    playing.process.send_signal(number)
    assert playing.close() == -number
    assert SHOW_CURSOR in playing.output
