"""Learning curves of one or several runs, or of groups of runs, in one figure."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from rattle.analytics.curves import averaged, smoothed
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.run_settings import described
from rattle.analytics.stored_runs import AnyRun, StoredRun, each_once
from rattle.analytics.updates import NUMBERS, Curve, read_evaluations, read_updates
from rattle.analytics.writer import or_elsewhere, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X = Literal["env_steps", "seconds"]

_X_LABELS: Final = MappingProxyType({"env_steps": "environment steps", "seconds": "seconds of training"})
_FORMATS: Final = ("png", "svg", "pdf")
_FEW: Final = 20  # updates: fewer are marked by dots, and not smoothed
_COLOURS: Final = ("#3465c0", "#d1495b", "#2a9d8f", "#e9a23b", "#7b4fa6", "#6c757d", "#8c5e34", "#c2529b")
#: Each round through the colours has a dash of its own, so that 40 lines can be told apart.
_DASHES: Final = ("solid", "dashed", "dotted", "dashdot", (0, (8, 2, 1, 2, 1, 2)))
_INK: Final = "#2b2f36"
_INCHES: Final = (13.0, 7.0)  # without the legend


class _Curve(NamedTuple):
    """What is drawn in one colour: a run, or the mean of a group with one standard deviation around it."""

    name: str
    curve: Mapping[str, Curve]
    deviation: Mapping[str, Curve] | None = None
    evaluations: Mapping[str, Curve] | None = None  # of a run, or their means of a group


class _Panel(NamedTuple):
    title: str
    column: str
    smooth: bool


_MAIN: Final = _Panel("mean return of the last 100 episodes", "mean_return", smooth=False)
_WITH_DOTS: Final = "mean return of the last 100 episodes (dots: of evaluations)"
_SIDE: Final = (
    _Panel("mean episode length (ticks)", "mean_episode_length", smooth=False),
    _Panel("entropy (nats an action)", "entropy", smooth=True),
    _Panel("policy loss", "policy_loss", smooth=True),
    _Panel("value loss", "value_loss", smooth=True),
    _Panel("gradient norm before clipping", "gradient_norm", smooth=True),
    _Panel("environment steps per second", "env_steps_per_second", smooth=True),
)


def _panels(lines: Sequence[_Curve]) -> list[_Panel]:
    """Return what is drawn next to the main panel: what at least one line has, metrics of algorithms by their names."""
    known = {panel.column for panel in (_MAIN, *_SIDE)} | set(NUMBERS)
    others = sorted({column for line in lines for column in line.curve} - known)
    panels = [*_SIDE, *(_Panel(column.replace("_", " "), column, smooth=True) for column in others)]
    return [one for one in panels if any(np.isfinite(line.curve.get(one.column, np.nan)).any() for line in lines)]


def plot_learning_curves(
    runs: Sequence[AnyRun],
    output: Path,
    x: X = "env_steps",
    *,
    group_by: Sequence[str] = (),
    label_by: Sequence[str] = (),
) -> None:
    """Draw the learning curves of runs over `x` into a PNG (or SVG, PDF) file.

    Runs that agree in the settings `group_by` become one line, their mean as far as half of them go, in a band of one
    standard deviation. Without groups each run has a line, named by the settings `label_by`, or by its directory.
    Losses, entropy and speed are smoothed; a run's are also drawn faintly as they were measured. Mean returns of
    evaluations are dots next to the learning curve. A run without updates is named in the legend, and one that is there
    several times, under other names or as a copy, is drawn once.

    Raises AnalyticsError when no run has updates, and for a setting that no run has.
    """
    form = output.suffix.removeprefix(".").lower() or "png"
    if form not in _FORMATS:
        raise AnalyticsError(f"cannot draw {output}: the name of a figure ends in .{', .'.join(_FORMATS)}")
    require("matplotlib", "analytics", "a plot")
    runs = each_once(runs)
    curves = [read_updates(run) for run in runs]
    evaluations = [read_evaluations(run) for run in runs]
    if not any(len(curve["env_steps"]) for curve in curves):
        names = ", ".join(map(_name, runs)) or "no run"
        raise AnalyticsError(f"nothing to plot: {names} has no updates yet; plot again when it has trained for a while")
    if group_by:
        lines = list(_groups(described(runs, group_by), curves, evaluations, x))
    else:
        named = zip(_names(runs, label_by), curves, evaluations, strict=True)
        lines = [_Curve(name, curve, evaluations=evaluated) for name, curve, evaluated in named]
    figure = _figure(lines, x)
    picture = io.BytesIO()
    figure.savefig(picture, format=form, dpi=120)
    with or_elsewhere():
        write_atomically(output, picture.getvalue())


def _name(run: AnyRun) -> str:
    """Return what a run is called: its run_id, or its own directory's name (or a link's)."""
    return run.run_id if isinstance(run, StoredRun) else Path(os.path.normpath(run.path.absolute())).name


def _names(runs: Sequence[AnyRun], label_by: Sequence[str]) -> list[str]:
    """Return what the runs are called: by their own names, or by the settings that are asked for."""
    own = [_name(run) for run in runs]
    if not label_by:
        return own
    labels = described(runs, label_by)
    return [label if labels.count(label) == 1 else f"{label} ({name})" for label, name in zip(labels, own, strict=True)]


def _groups(
    keys: Sequence[str], curves: Sequence[Mapping[str, Curve]], evaluations: Sequence[Mapping[str, Curve]], x: X
) -> Iterator[_Curve]:
    """Give a line for each different key, in the order in which they come."""
    for key in dict.fromkeys(keys):
        members = [curve for own, curve in zip(keys, curves, strict=True) if own == key and len(curve[x])]
        evaluated = [curve for own, curve in zip(keys, evaluations, strict=True) if own == key and len(curve[x])]
        name = f"{key} ({len(members)} run{'s' * (len(members) != 1)})"
        if not members:
            yield _Curve(name, {column: np.array([]) for column in NUMBERS})
            continue
        points = max((len(curve[x]) for curve in evaluated), default=0)
        means = averaged(evaluated, x, points).mean if evaluated else None
        yield _Curve(name, *averaged(members, x), evaluations=means)


def _figure(lines: Sequence[_Curve], x: X) -> Figure:
    from matplotlib.figure import Figure

    columns = 1 if len(lines) <= 3 else 2 if len(lines) <= 8 else 3
    size = 10.0 if len(lines) <= 8 else 8.0
    # The picture grows with its legend, which so takes nothing from the curves.
    legend = max(0, -(-len(lines) // columns) - 3) * size * 1.6 / 72
    panels = _panels(lines)
    rows = max(3, -(-len(panels) // 2))
    height = _INCHES[1] * rows / 3
    figure = Figure(figsize=(_INCHES[0], height + legend), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(rows, 4)
    main = figure.add_subplot(grid[:, :2])
    evaluated = [line.evaluations is not None and len(line.evaluations[x]) > 0 for line in lines]
    _draw(main, _MAIN._replace(title=_WITH_DOTS) if any(evaluated) else _MAIN, lines, x)
    main.set_xlabel(_X_LABELS[x], color=_INK)
    main.title.set_fontsize(13)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(grid[place // 2, 2 + place % 2])
        _draw(axes, panel, lines, x)
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(10)
    _add_legend(figure, lines, columns, size)
    return figure


def _draw(axes: Axes, panel: _Panel, lines: Sequence[_Curve], x: X) -> None:
    from matplotlib.ticker import EngFormatter

    for number, line in enumerate(lines):
        style = _style(number, 1.8 if len(lines) <= 8 else 1.2)
        _draw_line(axes, panel, line, x, style)
        if panel.column == _MAIN.column and line.evaluations is not None:
            dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5, "markeredgecolor": _INK}
            axes.plot(line.evaluations[x], line.evaluations[panel.column], color=style["color"], **dots)
    axes.set_title(panel.title, loc="left", color=_INK)
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.tick_params(colors=_INK, length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.column == "env_steps_per_second":
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylim(bottom=0)


def _draw_line(axes: Axes, panel: _Panel, line: _Curve, x: X, style: dict[str, Any]) -> None:
    if not len(line.curve[x]) or panel.column not in line.curve:
        return
    at, values = line.curve[x], line.curve[panel.column]
    few = len(values) < _FEW
    if line.deviation is not None:
        known = np.isfinite(values)
        middle, around = values[known], line.deviation[panel.column][known]
        axes.fill_between(at[known], middle - around, middle + around, color=style["color"], alpha=0.18, linewidth=0)
    if panel.smooth and not few:
        if line.deviation is None:
            axes.plot(at, values, color=style["color"], linewidth=0.6, alpha=0.25)
        values = smoothed(values, len(values) / 25)
    axes.plot(at, values, **style, marker="o" if few else None, markersize=4)


def _add_legend(figure: Figure, lines: Sequence[_Curve], columns: int, size: float) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_style(number, 2.0)) for number in range(len(lines))]
    labels = [_label(line.name, line.curve["mean_return"]) for line in lines]
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        frameon=False,
        labelcolor=_INK,
        ncols=columns,
        fontsize=size,
        handlelength=3.5,
    )


def _label(name: str, returns: Curve) -> str:
    if not len(returns):
        return f"{name}: no updates yet"
    known = returns[np.isfinite(returns)]
    return f"{name}: mean return {known[-1]:.2f}" if len(known) else name


def _style(number: int, width: float) -> dict[str, Any]:
    dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": dash, "linewidth": width}
