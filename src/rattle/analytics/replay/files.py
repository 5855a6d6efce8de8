"""Episodes as GIF and MP4 files."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from itertools import chain
from pathlib import Path
from shutil import which
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.replay import palette
from rattle.analytics.replay.episodes import Episode
from rattle.analytics.replay.view import ReplayView
from rattle.analytics.replay.views import check_speed, view_of
from rattle.analytics.writer import or_elsewhere, replacing, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

_CLOSING_SECONDS: Final = 2.0
_MOST_GIF_FRAMES: Final = 800
_FASTEST_GIF: Final = 50.0  # frames a second; viewers slow down what is faster
_UNCHANGED: Final = 255


def save(episode: Episode, output: Path, *, agent: int = 0, fps: float = 20.0) -> None:
    """Write an episode, seen from the side of one agent, as .gif or .mp4, `fps` ticks a second.

    A GIF of a long episode leaves out ticks evenly, and keeps its speed. Raises AnalyticsError.
    """
    check_speed(fps)
    require("PIL", "analytics", "drawing a replay")
    view = view_of(episode, agent)
    if output.suffix.lower() == ".gif":
        picture = _gif(view, fps)
        with or_elsewhere():
            write_atomically(output, picture)
    elif output.suffix.lower() == ".mp4":
        with or_elsewhere():
            _write_mp4(view, output, fps)
    else:
        raise AnalyticsError(f"cannot write {output}: the name of a replay ends in .gif or .mp4")


def _gif(view: ReplayView, fps: float) -> bytes:
    stride = max(-(-view.frames // _MOST_GIF_FRAMES), int(np.ceil(fps / _FASTEST_GIF)))
    shown = [*range(0, view.frames - 1, stride), view.frames - 1]
    milliseconds = [round(100 * stride / fps) * 10] * len(shown)
    milliseconds[-1] = round(1000 * _CLOSING_SECONDS)
    images = _gif_images(view.pixels(frame) for frame in shown)
    file = io.BytesIO()
    next(images).save(
        file,
        "GIF",
        save_all=True,
        append_images=images,
        duration=milliseconds,
        loop=0,
        disposal=1,
        transparency=_UNCHANGED,
        optimize=False,
    )
    return file.getvalue()


def _gif_images(frames: Iterator[NDArray[np.uint8]]) -> Iterator[Image]:
    """Yield the first frame and then only what changes: long runs of one transparent colour compress well."""
    from PIL import Image

    colours = [*chain.from_iterable(palette.PALETTE)]
    before: NDArray[np.uint8] | None = None
    for pixels in frames:
        changed = pixels if before is None else np.where(pixels == before, np.uint8(_UNCHANGED), pixels)
        image = Image.fromarray(changed)
        image.putpalette(colours)
        yield image
        before = pixels


def _write_mp4(view: ReplayView, output: Path, fps: float) -> None:
    """Have ffmpeg encode the frames; its own words tell why where it cannot."""
    program = _ffmpeg()
    shown = [*range(view.frames), *[view.frames - 1] * round(_CLOSING_SECONDS * fps)]
    height, width = view.pixels(0).shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    encoded = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    frames = (palette.as_rgb(view.pixels(frame)).tobytes() for frame in shown)
    with replacing(output) as temporary, TemporaryFile() as complaints:
        command = [program, "-y", "-loglevel", "error", *raw, *encoded, str(temporary)]
        with Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=complaints) as ffmpeg:  # noqa: S603 (no shell)
            _feed(ffmpeg, frames)
        if ffmpeg.returncode != 0:
            complaints.seek(0)
            said = complaints.read().decode(errors="replace").strip()
            if os.strerror(errno.ENOSPC) in said:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            last = (said or f"exit status {ffmpeg.returncode}").splitlines()[-1]
            raise AnalyticsError(f"cannot write {output}: ffmpeg says: {last}")


def _ffmpeg() -> str:
    """Return the ffmpeg of the system, or else that of the extra `video`."""
    if found := which("ffmpeg"):
        return found
    try:
        return str(import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed, or without a program for this platform
        raise AnalyticsError(
            "an MP4 file needs ffmpeg: install it with the system's packages, or pip install 'rattle[video]'; "
            "a .gif needs neither"
        ) from None


def _feed(ffmpeg: Popen[bytes], frames: Iterator[bytes]) -> None:
    """Write frames to a process until it takes no more; its exit status says whether it took all."""
    if ffmpeg.stdin is None:
        return
    with suppress(BrokenPipeError), ffmpeg.stdin as pipe:
        for frame in frames:
            pipe.write(frame)
