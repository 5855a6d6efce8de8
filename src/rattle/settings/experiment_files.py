"""Experiment files: those of users, and those that come with Rattle, by name."""

from __future__ import annotations

from pathlib import Path

from rattle.errors import RattleError


def find_experiment(name: str) -> Path:
    """Return a YAML file, or the experiment of that name that comes with Rattle; a file wins. Raises RattleError."""
    shipped = {
        path.stem: path
        for path in sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"), key=lambda path: path.stem)
    }
    if Path(name).exists():
        return Path(name)
    if name not in shipped:
        raise RattleError(f"there is no file '{name}'; experiments with names are {', '.join(shipped)}")
    return shipped[name]
