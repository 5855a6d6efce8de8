"""docs/troubleshooting.md quotes messages that the code prints, and docs/algorithms.md has every setting."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rattle.settings.reference import SECTIONS, metrics_of, settings_of_section

REPOSITORY = Path(__file__).parents[1]
GAP = "…"  # stands for what differs from case to case, in messages of the page and in those of the code


def messages_of(tree: ast.AST) -> Iterator[str]:
    """Yield the texts in a module, with a gap for each expression in them; parts that stand side by side are one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_message_on_the_page_is_one_that_the_code_prints() -> None:
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text().partition("\n## By message\n")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 25
    modules = (REPOSITORY / "src" / "rattle").rglob("*.py")
    printed = "\n".join(text for path in modules for text in messages_of(ast.parse(path.read_text())) if " " in text)
    for message in quoted:
        pattern = r"[^\n]*".join(re.escape(part) for part in message.split(GAP))
        assert re.search(pattern, printed), f"no message of the code is: {message}"


def test_the_page_of_algorithms_explains_every_setting_and_metric() -> None:
    page = (REPOSITORY / "docs" / "algorithms.md").read_text()
    explained = set(re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE))
    for prefix, title, model in SECTIONS:
        if prefix.startswith("algorithm"):
            keys = {key.rpartition(".")[2] for key, *_ in settings_of_section(prefix, model).rows}
            assert keys - {"id"} <= explained, title
            reported = metrics_of(model)
            assert reported
            assert {name for name, *_ in reported.rows} <= explained, title
