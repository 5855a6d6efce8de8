"""Hooks of MkDocs: `make site` makes dist/site from the pages of the repository as they lie in it.

Pages keep the links that they have in the repository. What they link to outside docs/ becomes a page, too: pages of
services as they are, code between fences, folders as lists. So the site holds all that it speaks of, and whoever reads
it needs no network. Diagrams are text, as GitHub shows it, and are drawn when the site is made.
"""

from __future__ import annotations

import base64
import os
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import mmdr
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
START = "README.md"
MORE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "benchmarks/README.md")
LINK = re.compile(r"\[([^\]\[]*(?:\[[^\]]*\])?[^\]\[]*)\]\((?!https?:|mailto:|#)([^)#\s]+)")
FENCES = re.compile(r"^(```+).*?^\1\s*?$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^(\s*```+\w+) (?:run|serve)$", re.MULTILINE)  # of tests/test_pages_run.py
STORED = re.compile(r"^(```+\w+) file (\S+)$", re.MULTILINE)
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FETCHED = re.compile(r'<(?:script|img|iframe|link rel="stylesheet")[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
ASSETS = ("favicon.svg", ".js", ".css")
PICTURES = (".png", ".gif", ".svg")
HIDDEN = "---\nsearch: {exclude: true}\n---\n"  # the search is for prose
LANGUAGES = {".py": "python", ".mjs": "javascript", ".yaml": "yaml", ".sh": "sh", ".proto": "protobuf", ".json": "json"}


def linked(page: str, text: str) -> Iterator[str]:
    """Yield the paths in the repository of all that a page links to."""
    for _, target in LINK.findall(FENCES.sub("", text)):
        yield os.path.normpath(PurePosixPath(page).parent / target)


def source_of(path: str) -> str:
    """Return the name that MkDocs has for the page of a path: code and folders have pages that the site makes."""
    place = REPOSITORY / path
    if place.is_dir():
        return f"{path}/README.md"
    return path if place.suffix in (".md", *PICTURES) else f"{path}.md"


def content_of(path: str) -> str:
    """Return the page about a file of code, or about a folder without a page of its own."""
    place = REPOSITORY / path
    if place.is_dir():
        names = sorted(
            f"{one.name}/" if one.is_dir() else one.name for one in place.iterdir() if one.name[0] not in "._"
        )
        return f"{HIDDEN}# {path}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    link = f'<a href="{place.name}" download>Download {place.name}</a>'
    return f"{HIDDEN}# {path}\n\n{link}\n\n````{LANGUAGES.get(place.suffix, 'text')}\n{place.read_text()}\n````\n"


def text_of(path: str) -> str:
    """Return the Markdown of the page about a path."""
    place = REPOSITORY / source_of(path)
    return place.read_text() if place.exists() else content_of(path)


def file_of(path: str, config: MkDocsConfig) -> File:
    """Return a page or picture as MkDocs knows it; its address lacks `docs/`."""
    source = source_of(path)
    if (REPOSITORY / source).exists():
        file = File(source, str(REPOSITORY), config.site_dir, config.use_directory_urls)
    else:
        file = File.generated(config, source, content=content_of(path))
    if source != START:
        file.dest_uri = file.dest_uri.removeprefix("docs/")
    return file


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what MkDocs has found in docs/ by the pages there, and all that they link to."""
    for found in [one for one in files if one.src_dir == config.docs_dir and not one.src_uri.endswith(ASSETS)]:
        files.remove(found)
    pages = (path.relative_to(REPOSITORY).as_posix() for path in sorted((REPOSITORY / "docs").rglob("*.md")))
    waiting, known = [START, *MORE, *pages], set[str]()
    while waiting:
        path = waiting.pop()
        if source_of(path) in known or not (REPOSITORY / path).exists():
            continue  # MkDocs says where a link leads nowhere
        known.add(source_of(path))
        files.append(file_of(path, config))
        if source_of(path) == f"{path}.md":  # to be downloaded
            files.append(File(path, str(REPOSITORY), config.site_dir, config.use_directory_urls))
        if source_of(path).endswith(".md"):
            waiting += linked(source_of(path), text_of(path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to pages of the site, leave out the marks of tests, and draw diagrams."""
    here = PurePosixPath(page.file.src_uri).parent

    def lead(found: re.Match[str]) -> str:
        words, path = found[1], os.path.normpath(here / found[2].rstrip("/"))
        if words.endswith(".md") and (REPOSITORY / path).exists():
            title = re.search(r"^# (.*)", text_of(path), re.MULTILINE)
            words = title[1] if title else words
        return f"[{words}]({os.path.relpath(source_of(path), here)}"

    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    text = LINK.sub(lead, FENCES.sub(keep, markdown)).replace(r"\|", "|")  # GitHub wants it in the code of tables
    text = re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], text)
    return DIAGRAM.sub(drawn, STORED.sub(r'\1 title="\2"', MARK.sub(r"\1", text)))


def drawn(found: re.Match[str]) -> str:
    """Return a diagram as two pictures, of which the palette shows one; its first comment says what it shows."""
    text = found[1]
    about = re.search(r"^\s*%% (.*)", text, re.MULTILINE)
    if about is None:
        raise PluginError(f"begin a diagram with a line '%% what it shows', for who cannot see it:\n{text}")
    pictures = []
    for theme, palette in (("default", "light"), ("dark", "dark")):
        svg = mmdr.render(f'%%{{init: {{"theme": "{theme}"}}}}%%\n{text}').svg()
        text_fits = svg.replace(
            "font-size:16px", "font-size:14px"
        )  # in fonts that are wider than the one measured, too
        data = base64.b64encode(text_fits.encode()).decode()
        pictures.append(f'<img alt="{about[1]}" src="data:image/svg+xml;base64,{data}#only-{palette}">')
    return "<p>" + "".join(pictures) + "</p>"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Say which version the site is of."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    config.copyright = f"Rattle {version} · Apache-2.0"
    return config


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse pages that would fetch something from elsewhere when they are read."""
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch {found[0]}: the site is read without a network, too")
    return output
