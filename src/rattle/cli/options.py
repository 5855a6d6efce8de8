"""Types of options that several commands take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

EXPERIMENT = click.Path(exists=True, dir_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


class Range(click.FloatRange):
    """A number in a range, which NaN is not: it compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("NaN is no number to work with", param, ctx)
        return number
