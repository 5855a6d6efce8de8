"""How the checker's snakes play: they eat, and then run into a body, so that lives end soon."""

from __future__ import annotations

from typing import Any

#: A snake of this length that keeps turning meets its own body.
_LONG_ENOUGH = 5
#: With nothing in sight a snake goes in steps across the board, or it would never see all of it.
_SEARCH = (*["forward"] * 4, "right", *["forward"] * 4, "left")


def steer(number: int, value: dict[str, Any] | None) -> str:
    """Return a move for a line, the `number`-th of its life; for odd lines too."""
    cells = value.get("visible_cells") if value else None
    if not isinstance(cells, dict):
        return "forward"
    length = value.get("length") if value else None
    if isinstance(length, int) and length >= _LONG_ENOUGH:
        return "left"
    goals = []
    for key, name in cells.items():
        place = _place(key)
        if place is not None and name in ("FOOD", "OTHER_HEAD", "OTHER_BODY"):
            goals.append(place)
    middle = max((place[0] for place in map(_place, cells) if place), default=0) // 2
    if not goals:
        return _SEARCH[number % len(_SEARCH)]
    x, y = min(goals, key=lambda place: abs(place[0] - middle) + abs(place[1] - middle))
    if y < middle:
        return "forward"
    return "left" if x < middle else "right"


def _place(key: str) -> tuple[int, int] | None:
    """Return the numbers of "x,y"."""
    x, _, y = key.partition(",")
    try:
        return int(x), int(y)
    except ValueError:
        return None
