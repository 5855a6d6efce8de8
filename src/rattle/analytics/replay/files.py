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
from rattle.analytics.replay.views import check_speed, view_of
from rattle.analytics.writer import or_elsewhere, replacing, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

_CLOSING_SECONDS: Final = 2.0
_MOST_GIF_FRAMES: Final = 800
_FASTEST_GIF: Final = 50.0  # frames a second; viewers slow down what is faster
_MOST_GIF_POINTS: Final = 2**26  # of all pictures that others draw: they are kept until the file is whole
_UNCHANGED: Final = 255


def save(episode: Episode, output: Path, *, agent: int = 0, fps: float = 20.0) -> None:
    """Write an episode, seen from the side of one agent, as .gif or .mp4, `fps` ticks a second.

    A GIF of a long episode leaves out ticks evenly, and keeps its speed. Raises AnalyticsError.
    """
    check_speed(fps)
    require("PIL", "analytics", "drawing a replay")
    view = view_of(episode, agent)
    if _is_gif(output):
        shown, milliseconds = _shown_in_gif(view.frames, fps)
        images = _gif_images(view.pixels(frame) for frame in shown)
        _write_gif(images, milliseconds, output, disposal=1, transparency=_UNCHANGED)
    else:
        _write_mp4((palette.as_rgb(view.pixels(frame)) for frame in range(view.frames)), output, fps)


def save_pictures(pictures: Iterator[NDArray[np.uint8]], count: int, output: Path, *, fps: float = 20.0) -> None:
    """Write `count` pictures uint8 (height, width, 3) as `save` writes an episode; raises what they raise, too."""
    check_speed(fps)
    require("PIL", "analytics", "drawing a replay")
    if _is_gif(output):
        shown, milliseconds = _shown_in_gif(count, fps)
        wanted = frozenset(shown)
        chosen = (picture for frame, picture in enumerate(pictures) if frame in wanted)
        _write_gif(_small(chosen, len(shown)), milliseconds, output)
    else:
        _write_mp4(pictures, output, fps)


def _is_gif(output: Path) -> bool:
    """Whether a file is to be a GIF, and no MP4; raises AnalyticsError where it is neither."""
    if output.suffix.lower() not in (".gif", ".mp4"):
        raise AnalyticsError(f"cannot write {output}: the name of a replay ends in .gif or .mp4")
    return output.suffix.lower() == ".gif"


def _shown_in_gif(frames: int, fps: float) -> tuple[list[int], list[int]]:
    """Return which frames a GIF shows, and how many milliseconds each."""
    stride = max(-(-frames // _MOST_GIF_FRAMES), int(np.ceil(fps / _FASTEST_GIF)))
    shown = [*range(0, frames - 1, stride), frames - 1]
    return shown, [*[round(100 * stride / fps) * 10] * (len(shown) - 1), round(1000 * _CLOSING_SECONDS)]


def _write_gif(images: Iterator[Image], milliseconds: list[int], output: Path, **how: int) -> None:
    file = io.BytesIO()
    first = next(images)
    first.save(file, "GIF", save_all=True, append_images=images, duration=milliseconds, loop=0, optimize=False, **how)
    with or_elsewhere():
        write_atomically(output, file.getvalue())


def _small(pictures: Iterator[NDArray[np.uint8]], count: int) -> Iterator[Image]:
    """Yield pictures in colours of their own, made smaller where there are too many points in all."""
    from PIL import Image

    for picture in pictures:
        shrink = int(np.ceil(np.sqrt(count * picture.shape[0] * picture.shape[1] / _MOST_GIF_POINTS)))
        yield Image.fromarray(picture).reduce(max(1, shrink)).quantize(256, Image.Quantize.FASTOCTREE)


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


def _write_mp4(pictures: Iterator[NDArray[np.uint8]], output: Path, fps: float) -> None:
    """Have ffmpeg encode pictures (height, width, 3), cut to even sizes; its own words tell why where it cannot."""
    program = _ffmpeg()
    first = next(pictures)
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    encoded = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    frames = (picture[:height, :width].tobytes() for picture in _lingering(chain([first], pictures), fps))
    with or_elsewhere(), replacing(output) as temporary, TemporaryFile() as complaints:
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


def _lingering(pictures: Iterator[NDArray[np.uint8]], fps: float) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures, and the last one for some seconds more."""
    for picture in pictures:
        yield picture
    yield from [picture] * round(_CLOSING_SECONDS * fps)


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
