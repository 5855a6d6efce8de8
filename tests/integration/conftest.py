"""The browser that tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.integration.browsing import CHROMIUM, FLAGS, Visit, visiting


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs the browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def settings() -> dict[str, Any]:
    """What is special about a visit's screen; tests that care give their own."""
    return {}


@pytest.fixture
def visit(browser: Browser, settings: dict[str, Any]) -> Iterator[Visit]:
    """Visit with a fresh profile."""
    with visiting(browser, **settings) as visit:
        yield visit
