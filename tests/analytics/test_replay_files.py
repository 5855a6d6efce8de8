"""Replays as GIF and MP4 files show every frame and stay small."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.replay import Episode, load_episode, palette, save
from rattle.analytics.replay.views import view_of
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.steps import encode_state
from rattle.analytics.writer import storing
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import record_snake, record_steps, steps_columns


@pytest.fixture
def episode(run: RunDirectory) -> Episode:
    record_snake(run, SnakeSettings(max_steps=25))
    return load_episode(run)


def test_a_gif_shows_exactly_the_frames(episode: Episode, tmp_path: Path) -> None:
    output = tmp_path / "replay.gif"
    save(episode, output)
    view = view_of(episode, 0)
    with Image.open(output) as gif:
        assert gif.n_frames == view.frames == 26
        assert gif.info["loop"] == 0
        for frame in range(view.frames):
            gif.seek(frame)
            assert gif.info["duration"] == (2000 if frame == view.frames - 1 else 50)
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), palette.as_rgb(view.pixels(frame)))


def long_episode(run: RunDirectory, ticks: int) -> Episode:
    """Record a long snake that goes round and round: everything moves at every tick."""
    cells = [[x if y % 2 == 0 else 14 - x, y] for y in range(14) for x in range(15)]
    states = []
    for tick in range(ticks):
        body = [cells[(tick - i) % len(cells)] for i in range(80)]
        food = [[(7 * tick // 10) % 15, 14]]
        states.append(encode_state({"bodies": [body], "headings": [1], "food": food}))
    record_steps(run, steps_columns(run, ticks, state=states))
    return load_episode(run)


@pytest.mark.parametrize(("ticks", "frames", "duration"), [(600, 601, 50), (1000, 501, 100)])
def test_long_episodes_stay_small(run: RunDirectory, tmp_path: Path, ticks: int, frames: int, duration: int) -> None:
    output = tmp_path / "replay.gif"
    save(long_episode(run, ticks), output)
    assert output.stat().st_size < 3_000_000, output.stat().st_size
    with Image.open(output) as gif:
        assert gif.n_frames == frames
        assert gif.info["duration"] == duration


def test_a_fast_gif_leaves_out_what_viewers_cannot_show(episode: Episode, tmp_path: Path) -> None:
    output = tmp_path / "replay.gif"
    save(episode, output, fps=100)
    with Image.open(output) as gif:
        assert gif.n_frames == 14
        assert gif.info["duration"] == 20


@pytest.mark.integration
@pytest.mark.promised
def test_an_mp4_can_be_read_back(episode: Episode, tmp_path: Path) -> None:
    if not (ffmpeg := shutil.which("ffmpeg")):
        pytest.skip("ffmpeg is not installed")
    output = tmp_path / "replay.mp4"
    save(episode, output, fps=20)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["replay.mp4"]
    command = [ffmpeg, "-i", str(output), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    view = view_of(episode, 0)
    height, width = view.pixels(0).shape
    assert f"{width}x{height}" in decoded.stderr.decode()
    assert " 20 fps" in decoded.stderr.decode()
    frames = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == view.frames + 40
    difference = frames[10].astype(np.int16) - palette.as_rgb(view.pixels(10))
    assert np.abs(difference).mean() < 6


Program = Callable[[str], Path]


@pytest.fixture
def ffmpeg(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return what puts an ffmpeg of the system in place: a script, to which "$film" is the file to write."""
    folder = tmp_path_factory.mktemp("bin")

    def put(script: str) -> Path:
        program = folder / "ffmpeg"
        program.write_text(f"#!/bin/sh\nfor film; do :; done\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return program

    return put


def test_the_system_s_ffmpeg_is_fed_every_frame(episode: Episode, tmp_path: Path, ffmpeg: Program) -> None:
    ffmpeg('cat >"$film"')
    save(episode, tmp_path / "replay.mp4", fps=20)
    view = view_of(episode, 0)
    height, width = view.pixels(0).shape
    frames = np.fromfile(tmp_path / "replay.mp4", np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == view.frames + 40
    for frame in range(view.frames):
        np.testing.assert_array_equal(frames[frame], palette.as_rgb(view.pixels(frame)))


def test_the_ffmpeg_of_an_extra_is_used_where_the_system_has_none(
    episode: Episode, tmp_path: Path, ffmpeg: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ffmpeg('/bin/cat >"$film"')
    hidden = program.rename(program.with_name("ffmpeg-of-the-extra"))
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(get_ffmpeg_exe=lambda: str(hidden)))
    save(episode, tmp_path / "replay.mp4")
    assert (tmp_path / "replay.mp4").stat().st_size > 100_000


def test_a_film_without_any_ffmpeg_is_refused_and_a_gif_is_not(
    episode: Episode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    advice = r"an MP4 file needs ffmpeg: install .*, or pip install 'rattle\[video\]'; a \.gif needs neither"
    with pytest.raises(AnalyticsError, match=advice):
        save(episode, tmp_path / "replay.mp4")
    save(episode, tmp_path / "replay.gif")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["replay.gif"]


def test_bad_targets_are_explained(episode: Episode, tmp_path: Path, ffmpeg: Program) -> None:
    ffmpeg('cat >"$film"')
    with pytest.raises(AnalyticsError, match=r"the name of a replay ends in \.gif or \.mp4"):
        save(episode, tmp_path / "replay.avi")
    with pytest.raises(AnalyticsError, match="fps"):
        save(episode, tmp_path / "replay.gif", fps=0)
    for name in ("replay.gif", "replay.mp4"):
        with pytest.raises(AnalyticsError, match=r"cannot write .*missing/replay\.(gif|mp4)"):
            save(episode, tmp_path / "missing" / name)


def test_a_full_disk_leaves_nothing_half_written(episode: Episode, tiny_disk: Path, ffmpeg: Program) -> None:
    ffmpeg('cat >"$film"')
    (tiny_disk / "ballast").write_bytes(bytes(250_000))
    for name in ("replay.gif", "replay.mp4"):
        with pytest.raises(AnalyticsError, match=r"cannot write .*replay"):
            save(episode, tiny_disk / name)
    assert [path.name for path in tiny_disk.iterdir()] == ["ballast"]


def test_an_encoder_that_fails_is_an_error(episode: Episode, tmp_path: Path, ffmpeg: Program) -> None:
    ffmpeg("exit 1")
    with pytest.raises(AnalyticsError, match=r"cannot write .*\.mp4: ffmpeg says: exit status 1"):
        save(episode, tmp_path / "replay.mp4")


@pytest.mark.parametrize("name", ["replay.gif", "replay.mp4"])
@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_another_place_is_suggested_where_nothing_may_be_written(
    episode: Episode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ffmpeg: Program, reason: int, name: str
) -> None:
    ffmpeg('cat >"$film"')

    def refusing(path: Path) -> AbstractContextManager[Path]:
        with storing(path):
            raise OSError(reason, os.strerror(reason))

    for module in ("writer", "replay.files"):
        monkeypatch.setattr(f"rattle.analytics.{module}.replacing", refusing)
    with pytest.raises(AnalyticsError, match=rf"cannot write .*{name}: .*; choose another place with --output"):
        save(episode, tmp_path / name)
