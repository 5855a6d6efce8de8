"""The site has every page, and its hooks treat links, marks and diagrams well. `make site` finds broken links."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from mkdocs.exceptions import PluginError

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hooks() -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / "docs" / "make_site.py"))


def pages_of(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    return [page for below in (part.values() if isinstance(part, dict) else part) for page in pages_of(below)]


def test_every_page_of_docs_stands_in_the_navigation() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text()
    named = pages_of(yaml.safe_load(text)["nav"])
    assert [page for page in named if not (REPOSITORY / page).exists()] == []
    there = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md")}
    assert there - set(named) == set()


def rewritten(hooks: dict[str, Any], text: str, page: str = "docs/analytics.md") -> str:
    here = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    made: str = hooks["on_page_markdown"](text, here, None, None)
    return made


def test_links_out_of_docs_lead_to_pages_that_the_site_makes(hooks: dict[str, Any]) -> None:
    assert rewritten(hooks, "[one](../examples/extend)") == "[one](../examples/extend/README.md)"
    assert rewritten(hooks, "[one](../examples/extend/my_hook.py)") == "[one](../examples/extend/my_hook.py.md)"
    assert rewritten(hooks, "[docs/settings.md](settings.md#policy)") == "[Settings](settings.md#policy)"
    kept = "[one](https://example.org/a.py) and [two](#here) and ![a picture](images/watch.png)"
    assert rewritten(hooks, kept) == kept
    fenced = "```text\n[one](../examples)\n```"
    assert rewritten(hooks, fenced) == fenced


def test_marks_of_tests_are_no_part_of_the_site(hooks: dict[str, Any]) -> None:
    assert rewritten(hooks, "```console run\n$ rattle runs\n```") == "```console\n$ rattle runs\n```"


def test_a_diagram_is_drawn_for_both_palettes_and_says_what_it_shows(hooks: dict[str, Any]) -> None:
    made = rewritten(hooks, "```mermaid\nflowchart LR\n    %% One leads to two.\n    one --> two\n```\n")
    assert made.count('<img alt="One leads to two." src="data:image/svg+xml;base64,') == 2
    assert made.index("#only-light") < made.index("#only-dark")
    with pytest.raises(PluginError, match="begin a diagram with"):
        rewritten(hooks, "```mermaid\nflowchart LR\n    one --> two\n```\n")


@pytest.mark.parametrize(
    "tag", ['<script src="https://example.org/a.js">', '<link rel="stylesheet" href="//example.org/a.css">']
)
def test_a_page_that_would_fetch_something_is_refused(hooks: dict[str, Any], tag: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="docs/analytics.md"))
    with pytest.raises(PluginError, match="would fetch"):
        hooks["on_post_page"](f"<html>{tag}</html>", page, None)
    fine = '<a href="https://example.org">'
    assert hooks["on_post_page"](fine, page, None) == fine
