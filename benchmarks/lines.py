"""Lines of a stream a second on one core, beside ways that make a dictionary of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import numpy as np
from measure import median_seconds, report, table

from rattle.envs.snake.geometry import Cell, visible_offsets
from rattle.services.env.lines import CellMaps, LineFormat

SNAKES = 1000
RADIUS = 5
REPEATS = 15


def plain_object(snake_id: str, codes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> dict[str, object]:
    cells = {
        f"{dx + RADIUS},{dy + RADIUS}": Cell(code).name
        for (dx, dy), code in zip(visible_offsets(RADIUS), codes.tolist(), strict=True)
    }
    cells[f"{RADIUS},{RADIUS}"] = "HEAD"
    return {
        "snake_id": snake_id,
        "tick": 12,
        "visible_cells": cells,
        "reward": 0.0,
        "game_over": False,
        "datetime": datetime.now(UTC).isoformat(),
        "length": 3,
    }


def main() -> None:
    """Measure a tick of 1,000 snakes."""
    maps = CellMaps(RADIUS)
    rng = np.random.default_rng(0)
    codes = rng.choice(5, size=(SNAKES, len(visible_offsets(RADIUS))), p=[0.9, 0.02, 0.04, 0.01, 0.03]).astype(np.uint8)
    ids = [f"snake-{number}" for number in range(SNAKES)]

    def pieces() -> list[bytes]:
        form = LineFormat(12, datetime.now(UTC))
        return [form.line(name, cells, 0.0, 3) for name, cells in zip(ids, maps.encode(codes), strict=True)]

    def with_msgspec() -> list[bytes]:
        return [msgspec.json.encode(plain_object(name, row)) for name, row in zip(ids, codes, strict=True)]

    def with_json() -> list[bytes]:
        return [json.dumps(plain_object(name, row)).encode() for name, row in zip(ids, codes, strict=True)]

    objects = [plain_object(name, row) for name, row in zip(ids, codes, strict=True)]
    assert [json.loads(line)["visible_cells"] for line in pieces()] == [o["visible_cells"] for o in objects]  # noqa: S101
    ways: dict[str, Callable[[], object]] = {
        "rattle.services.env.lines": pieces,
        "a dictionary a line, msgspec": with_msgspec,
        "a dictionary a line, json.dumps": with_json,
        "msgspec, dictionaries made before": lambda: [msgspec.json.encode(line) for line in objects],
    }
    speeds = {name: SNAKES / median_seconds(way, REPEATS) for name, way in ways.items()}
    report(
        "lines",
        "Lines of the agent API",
        f"Lines a second on one core: a tick of {SNAKES} snakes that see 61 cells each, from the array of codes to "
        f"bytes ({len(pieces()[0])} bytes a line); median of {REPEATS} ticks.",
        table(
            ("way", "lines/s", "ratio"),
            ((n, f"{s:,.0f}", f"{s / speeds[next(iter(ways))]:.2f}") for n, s in speeds.items()),
        ),
    )


if __name__ == "__main__":
    main()
