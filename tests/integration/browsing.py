"""A real browser, with everything that it asked for and complained about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, Request

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PATIENCE_S = 60


class Visit:
    """Visits with a profile of their own."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        context.set_default_timeout(PATIENCE_S * 1000)
        context.on("request", lambda request: self.requests.append(request))
        context.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def open(self, url: str) -> Page:
        page = self.context.new_page()
        page.goto(url)
        return page

    def forgive(self, *foreseen: str) -> None:
        """Forget the complaints, all of which must have one of these words."""
        assert [said for said in self.complaints if not any(word in said for word in foreseen)] == []
        self.complaints.clear()

    def asked(self, path: str) -> int:
        return sum(httpx.URL(request.url).path == path for request in self.requests)


@contextmanager
def visiting(browser: Browser, **settings: Any) -> Iterator[Visit]:
    """Visit with a fresh profile; afterwards nothing may have gone elsewhere and nothing be complained about."""
    context = browser.new_context(**settings)
    visit = Visit(context)
    yield visit
    context.close()
    assert {httpx.URL(asked.url).host for asked in visit.requests if not asked.url.startswith("blob:")} == {"127.0.0.1"}
    assert visit.complaints == []
