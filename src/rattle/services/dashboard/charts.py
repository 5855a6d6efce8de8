"""Figures as the charting library takes them: traces and axes. Colours that follow the page's theme are its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.analytics.curves import smoothed
from rattle.analytics.updates import Curve

#: Told apart on light and on dark ground, also by most who see few colours.
COLOURS: Final = (
    "#3b82f6",
    "#f0763e",
    "#14a883",
    "#a974f7",
    "#d9a11e",
    "#ec5f9d",
    "#22b3cf",
    "#8a9a3b",
    "#8d99ab",
    "#c4684a",
)
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_FEW: Final = 20  # points that are marked, and not smoothed


@dataclass
class Chart:
    """A figure under a name that is unique on its page."""

    name: str
    title: str
    traces: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def axis(self, which: str, **options: Any) -> None:
        """Set options of an axis, `x` or `y`."""
        self.layout.setdefault(f"{which}axis", {}).update(options)

    def line(self, name: str, x: Curve, y: Curve, number: int = 0, *, smooth: float = 0, **options: Any) -> None:
        """Add a curve in the colour of a number; `smooth` is the part of it, in percent, that is averaged."""
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        few = len(y) < _FEW
        style = {"color": colour(number), "width": 2, "dash": _DASHES[number // len(COLOURS) % len(_DASHES)]}
        common = {"type": "scatter", "x": numbers(x), "legendgroup": name}
        if smooth and not few:
            faint = {"color": colour(number, 0.28), "width": 1}
            measured = {"mode": "lines", "line": faint, "hoverinfo": "skip", "showlegend": False}
            self.traces.append({**common, **measured, "y": numbers(y), "name": name})
            y = smoothed(y, max(1.0, len(y) * smooth / 100))
        mode = {"mode": "lines+markers" if few else "lines", "line": style, "marker": {"size": 6}}
        self.traces.append({**common, **mode, "y": numbers(y), "name": name, **options})

    def band(self, name: str, x: Curve, low: Curve, high: Curve, number: int = 0) -> None:
        """Add the ground between two curves."""
        known = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
        common: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": numbers(x[known]), "legendgroup": name}
        common |= {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "name": name}
        self.traces.append({**common, "y": numbers(low[known])})
        self.traces.append({**common, "y": numbers(high[known]), "fill": "tonexty", "fillcolor": colour(number, 0.16)})

    def dots(self, name: str, x: Curve, y: Curve, number: int = 0, spread: Curve | None = None) -> None:
        """Add points, with a deviation each where it is given."""
        error = {} if spread is None else {"error_y": {"array": numbers(spread), "thickness": 1, "width": 3}}
        marker = {"size": 8, "color": colour(number), "symbol": "diamond"}
        trace = {"type": "scatter", "mode": "markers", "x": numbers(x), "y": numbers(y), "marker": marker}
        self.traces.append({**trace, "name": name, **error})


def colour(number: int, opacity: float = 1.0) -> str:
    """Return the colour of a number."""
    text = COLOURS[number % len(COLOURS)]
    if opacity == 1.0:
        return text
    red, green, blue = (int(text[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def numbers(values: NDArray[Any] | Sequence[float]) -> list[float | None]:
    """Return numbers for JSON, and null for what is not finite.

    Seven digits are more than a screen shows: of each number, and of the differences between large ones, such as times.
    """
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    span = float(np.ptp(finite)) if finite.size else 0.0
    if span > 0:
        with np.errstate(all="ignore"):
            sizes = np.minimum(np.abs(array, where=array != 0, out=np.full_like(array, span)), span)
            scale = 10.0 ** (6 - np.clip(np.nan_to_num(np.floor(np.log10(sizes))), -300, 300))
            array = np.round(array * scale) / scale
    return [value if math.isfinite(value) else None for value in array.tolist()]


def as_json(charts: Iterable[Chart]) -> str:
    """Return charts by their names as JSON that may stand inside a script element."""
    content: Mapping[str, Any] = {
        chart.name: {"title": chart.title, "data": chart.traces, "layout": chart.layout} for chart in charts
    }
    return script_json(content)


def script_json(content: Any) -> str:
    """Return JSON that may stand inside a script element, whatever texts it holds."""
    text = msgspec.json.encode(content).decode()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
