"""A name that is searched for leads to one class."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "rattle"


def test_no_class_name_stands_twice() -> None:
    """An event alone may be called as another class: as the error that it tells of."""
    modules: dict[str, list[str]] = defaultdict(list)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(path.relative_to(SOURCE).as_posix())
    generated = ("_pb2.py", "_pb2_grpc.py")
    own = {name: [each for each in where if not each.endswith(generated)] for name, where in modules.items()}
    twice = {name: where for name, where in own.items() if len(where) > 1 and not _tells_of_an_error(where)}
    assert twice == {}


def _tells_of_an_error(where: list[str]) -> bool:
    return len(where) == 2 and sum(module.startswith("events/of_") for module in where) == 1
