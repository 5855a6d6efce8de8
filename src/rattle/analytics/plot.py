"""Learning curves of one or several runs in one figure."""

from __future__ import annotations

import errno
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.updates import Curve, read_updates
from rattle.analytics.writer import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X = Literal["env_steps", "seconds"]

_X_LABELS: Final = MappingProxyType({"env_steps": "environment steps", "seconds": "seconds of training"})
_FORMATS: Final = ("png", "svg", "pdf")
_NOT_TO_BE_WRITTEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FEW: Final = 20  # updates: fewer are marked by dots, and not smoothed
_COLOURS: Final = ("#3465c0", "#d1495b", "#2a9d8f", "#e9a23b", "#7b4fa6", "#6c757d", "#8c5e34", "#c2529b")
_INK: Final = "#2b2f36"


class _Panel(NamedTuple):
    title: str
    column: str
    smooth: bool


_MAIN: Final = _Panel("mean return of the last 100 episodes", "mean_return", smooth=False)
_SIDE: Final = (
    _Panel("mean episode length (ticks)", "mean_episode_length", smooth=False),
    _Panel("entropy (nats an action)", "entropy", smooth=True),
    _Panel("policy loss", "policy_loss", smooth=True),
    _Panel("value loss", "value_loss", smooth=True),
    _Panel("gradient norm before clipping", "gradient_norm", smooth=True),
    _Panel("environment steps per second", "env_steps_per_second", smooth=True),
)


def plot_learning_curves(runs: Sequence[RunDirectory], output: Path, x: X = "env_steps") -> None:
    """Draw the learning curves of runs over `x` into a PNG (or SVG, PDF) file, one colour a run.

    Losses, entropy and speed are smoothed, with what was measured faintly behind them. A run without updates is
    named in the legend; raises AnalyticsError when no run has any.
    """
    form = output.suffix.removeprefix(".").lower() or "png"
    if form not in _FORMATS:
        raise AnalyticsError(f"cannot draw {output}: the name of a figure ends in .{', .'.join(_FORMATS)}")
    require("matplotlib", "analytics", "a plot")
    curves = [read_updates(run) for run in runs]
    if not any(len(curve["env_steps"]) for curve in curves):
        names = ", ".join(run.path.name for run in runs) or "no run"
        raise AnalyticsError(f"nothing to plot: {names} has no updates yet; plot again when it has trained for a while")
    figure = _figure([run.path.resolve().name for run in runs], curves, x)
    picture = io.BytesIO()
    figure.savefig(picture, format=form, dpi=120)
    _store(picture.getvalue(), output)


def _store(picture: bytes, output: Path) -> None:
    try:
        write_atomically(output, picture)
    except AnalyticsError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NOT_TO_BE_WRITTEN:
            raise AnalyticsError(f"{error}; choose another place with --output") from error.__cause__
        raise


def smoothed(values: Curve, span: float) -> Curve:
    """Return the exponential moving average with a centre of mass of about `span` / 2 entries; NaN entries pass."""
    weight, average, total = 2 / (span + 1), 0.0, 0.0
    result = np.full_like(values, np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            average += weight * (value - average)
            total += weight * (1 - total)
            result[i] = average / total  # without a pull towards 0 at the beginning
    return result


def _figure(names: Sequence[str], curves: Sequence[Mapping[str, Curve]], x: X) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(3, 4)
    main = figure.add_subplot(grid[:, :2])
    _draw(main, _MAIN, curves, x)
    main.set_xlabel(_X_LABELS[x], color=_INK)
    main.title.set_fontsize(13)
    for place, panel in enumerate(_SIDE):
        axes = figure.add_subplot(grid[place // 2, 2 + place % 2])
        _draw(axes, panel, curves, x)
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(10)
    _add_legend(figure, names, curves)
    return figure


def _draw(axes: Axes, panel: _Panel, curves: Sequence[Mapping[str, Curve]], x: X) -> None:
    from matplotlib.ticker import EngFormatter

    for number, curve in enumerate(curves):
        colour, values = _colour(number), curve[panel.column]
        few = len(values) < _FEW
        style: dict[str, Any] = {"color": colour, "linewidth": 1.8, "marker": "o" if few else None, "markersize": 4}
        if panel.smooth and not few:
            axes.plot(curve[x], values, color=colour, linewidth=0.6, alpha=0.25)
            values = smoothed(values, len(values) / 25)
        axes.plot(curve[x], values, **style)
    axes.set_title(panel.title, loc="left", color=_INK)
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.tick_params(colors=_INK, length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.column == "env_steps_per_second":
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylim(bottom=0)


def _add_legend(figure: Figure, names: Sequence[str], curves: Sequence[Mapping[str, Curve]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=_colour(number), linewidth=3) for number in range(len(names))]
    labels = [_label(name, curve["mean_return"]) for name, curve in zip(names, curves, strict=True)]
    figure.legend(
        handles, labels, loc="outside upper left", frameon=False, labelcolor=_INK, ncols=2 if len(names) > 3 else 1
    )


def _label(name: str, returns: Curve) -> str:
    if not len(returns):
        return f"{name}: no updates yet"
    known = returns[np.isfinite(returns)]
    return f"{name}: mean return {known[-1]:.2f}" if len(known) else name


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
