"""Make docs/python-api.md from the docstrings of the public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

PAGE = Path(__file__).with_name("python-api.md")

INTRODUCTION = """# Python API

Made from docstrings by `python docs/make_python_api.py`. Everything else in the package may change without notice.
"""

MODULES = {
    "rattle": "Train, load and evaluate from Python: `import rattle`. Everything runs in one process.",
    "rattle.extend": "The base classes for your own classes; [Extending](extending.md) shows one of each kind.",
}


Definition = ast.ClassDef | ast.FunctionDef


def source_of(thing: Any) -> tuple[Definition, list[str]]:
    """Return the definition of a class or a function, and its lines."""
    text = textwrap.dedent(inspect.getsource(thing))
    return cast("Definition", ast.parse(text).body[0]), text.splitlines()


def signature(node: ast.FunctionDef, name: str) -> str:
    """Return how a function or a method is called, as its source has it."""
    arguments = ast.unparse(node.args)
    for first in ("self, ", "cls, ", "self", "cls"):
        arguments = arguments.removeprefix(first)
    return f"{name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def fields(node: ast.ClassDef, lines: list[str]) -> Iterator[str]:
    """Yield a line for each field that a class declares, with the comment beside it, or the one line above it."""
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.target.id[0] != "_":
            beside, above = lines[(one.end_lineno or 1) - 1].partition("  # ")[2], lines[one.lineno - 2].strip()
            about = beside or above.removeprefix("#: ") * above.startswith("#: ")
            yield f"- `{one.target.id}: {ast.unparse(one.annotation)}`" + (f": {about}" if about else "")


def methods(node: ast.ClassDef) -> Iterator[str]:
    """Yield a paragraph for each public method and property that a class defines itself."""
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name[0] != "_" and (said := ast.get_docstring(one)):
            is_property = any("property" in ast.unparse(mark) for mark in one.decorator_list)
            told = (
                f"{one.name}: {ast.unparse(one.returns)}" if is_property and one.returns else signature(one, one.name)
            )
            yield f"\n**`{told}`**\n\n{said}"


def entry(module: Any, name: str) -> str:
    """Return what the page says of a name."""
    thing = getattr(module, name)
    if isinstance(thing, tuple):
        return f"### `{name}`\n\nThese metrics: {', '.join(f'`{one.name}`' for one in thing)}.\n"
    node, lines = source_of(thing)
    told = signature(node, name) if isinstance(node, ast.FunctionDef) else f"class {name}"
    parts = [*fields(node, lines), *methods(node)] if isinstance(node, ast.ClassDef) else []
    return "\n".join([f"### `{name}`", "", f"```python\n{told}\n```", "", inspect.getdoc(thing) or "", "", *parts, ""])


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for path, about in MODULES.items():
        module = importlib.import_module(path)
        parts += [f"## {path}", "", about, "", *(entry(module, name) for name in module.__all__)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
