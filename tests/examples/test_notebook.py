"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "telemetry" / "analyse.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return what stands in its last line, as Jupyter shows it."""
    parts = ast.parse(source)
    last = parts.body.pop() if isinstance(parts.body[-1], ast.Expr) else None
    exec(compile(parts, "cell", "exec"), names)  # noqa: S102
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307


def test_every_cell_has_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells)  # numbers of one machine are not kept
    names: dict[str, Any] = {}
    answers = [run_cell("".join(cell["source"]), names) for cell in cells]
    assert answers[0][0] == "finished"
    assert [row["stage"] for row in answers[2]] == [0, 1, 2, 3, 4]
    assert names["updates"].num_rows > 20
    assert names["evaluations"].num_rows >= 4
    assert names["longest"].num_rows > 10
    assert isinstance(answers[-1], list)
    assert len(plt.get_fignums()) == 2
    plt.close("all")
