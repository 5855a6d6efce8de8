"""The dashboard in a real browser against the real command; every page is kept as a picture for people to look at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from rattle.analytics.annotations import annotate
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import make_run, record_snake, record_steps, steps_columns, update_row, write_rows
from tests.integration.browsing import PATIENCE_S, Visit, visiting
from tests.services.dashboard.build import log, make_full_run, store_policy
from tests.template import RattleProcess, start

expect.set_options(timeout=PATIENCE_S * 1000)
pytestmark = [pytest.mark.integration, pytest.mark.promised]

PICTURES = Path(__file__).parents[2] / ".ci-artifacts" / "dashboard"
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}
TABLE = "SELECT run_id, status, mean_return, config.env.id FROM runs ORDER BY 1"
WRONG = "SELECT mean_retrun FROM runs"
CURVES = "SELECT run_id, env_steps, mean_return FROM updates ORDER BY run_id, env_steps"
PAGES = {
    "runs": "/?column=algorithm.learning_rate",
    "compare": "/compare?" + urlencode({"run": ["rate-1-a", "rate-1-b", "rate-10"], "group": "*"}, doseq=True),
    "compare_nothing": "/compare",
    "run": "/run?run=snakes",
    "episodes": "/episodes?run=snakes",
    "replay": "/replay?run=snakes&tick=9",
    "replay_pole": "/replay?run=pole",
    "sql": "/sql",
    "sql_table": "/sql?" + urlencode({"q": TABLE}),
    "sql_chart": "/sql?" + urlencode({"q": CURVES, "show": "line"}),
    "sql_wrong": "/sql?" + urlencode({"q": WRONG}),
}


def fill(root: Path) -> None:
    """Make runs of all kinds."""
    for name, rate, seed in (("rate-1-a", 0.001, 1), ("rate-1-b", 0.001, 2), ("rate-10", 0.01, 1)):
        run = make_full_run(root, name, updates=120, rate=rate, seed=seed)
        annotate(run, lambda said: said.with_tags(["sweep"]).with_note("which rate is best?"))
    run = make_full_run(root, "snakes", updates=3000)
    ticks = record_snake(run, SnakeSettings(num_snakes=3))
    assert ticks > 20
    store_policy(run.policy, 7)
    log(run, "service_started", service="actor-0")
    log(run, "service_ready", service="actor-0", second=1, address="http://127.0.0.1:5000")
    log(run, "service_died", "WARNING", service="actor-0", second=2, reason="it was killed by signal 9")
    log(run, "service_restarted", service="actor-0", second=3)
    log(run, "run_finished", second=4, update=3000)
    pole = make_run(root, "pole", env={"id": "gym:CartPole-v1"}, environment="gym:CartPole-v1", status="failed")
    record_steps(pole, steps_columns(pole, 50, observation=[[i / 50, (-1) ** i, i % 7, 0.5] for i in range(50)]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[RattleProcess | subprocess.Popen[str]]:
    with start("dashboard", str(root), "--port", "0", stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def url(service: RattleProcess | subprocess.Popen[str]) -> str:
    assert service.stdout is not None
    address: str = json.loads(service.stdout.readline())["url"]
    return address


def chosen(page: Page) -> dict[str, list[str]]:
    """Return what a page's address says."""
    return parse_qs(urlsplit(page.url).query)


def lines(page: Page, chart: str) -> list[str]:
    """Return the names of the lines that a chart shows."""
    place = page.locator(f"[data-chart='{chart}']")
    expect(place.locator(".main-svg").first).to_be_visible(timeout=PATIENCE_S * 1000)
    names: list[str] = place.evaluate("place => place.data.map(trace => trace.name)")
    return names


@pytest.mark.whole(suite="slow")
@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_fits_the_screen(browser: Browser, url: str, screen: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with visiting(browser, **SCREENS[screen]) as visit:
        for name, path in PAGES.items():
            page = visit.open(url + path)
            for chart in page.locator("[data-chart]").all():  # each is drawn when it comes into sight
                chart.scroll_into_view_if_needed()
                expect(chart.locator(".main-svg").first).to_be_visible(timeout=PATIENCE_S * 1000)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=PICTURES / f"{name}-{screen}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen]["viewport"]["width"], name
            page.close()


def test_the_table_is_searched_sorted_and_compared_by_keyboard(visit: Visit, url: str) -> None:
    page = visit.open(url)
    page.keyboard.press("/")
    page.keyboard.type("rate-1-")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(2)
    assert chosen(page) == {"q": ["rate-1-"]}
    page.get_by_role("link", name="steps", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("th[aria-sort='descending']")).to_contain_text("steps")
    assert chosen(page) == {"q": ["rate-1-"], "sort": ["-env_steps"]}
    for name in ("rate-1-a", "rate-1-b"):
        page.get_by_label(f"Choose {name}").focus()
        page.keyboard.press("Space")
    page.get_by_role("button", name="Compare 2").press("Enter")
    page.wait_for_url("**/compare?**")
    assert sorted(chosen(page)["run"]) == ["rate-1-a", "rate-1-b"]


def test_settings_become_columns(visit: Visit, url: str) -> None:
    page = visit.open(url)
    page.locator("summary", has_text="Columns").click()
    page.get_by_label("algorithm.learning_rate").check()
    page.keyboard.press("Escape")
    page.locator("summary", has_text="Columns").click()
    expect(page.locator("thead")).to_contain_text("learning_rate")
    assert chosen(page) == {"column": ["algorithm.learning_rate"]}


def test_a_comparison_is_grouped_and_its_link_restores_it(visit: Visit, url: str) -> None:
    page = visit.open(url + PAGES["compare"].removesuffix("&group=%2A"))
    assert set(lines(page, "curves")) == {"rate-1-a", "rate-1-b", "rate-10"}
    page.get_by_label("a line for each").select_option("algorithm.learning_rate")
    page.wait_for_url("**group=algorithm.learning_rate**")
    grouped = {"learning_rate=0.001 (2 runs)", "learning_rate=0.01 (1 run)"}
    assert set(lines(page, "curves")) == grouped
    page.get_by_label("log y").check()
    page.wait_for_url("**log_y=1**")
    again = visit.open(page.url)
    assert set(lines(again, "curves")) == grouped
    assert again.locator("[data-chart]").evaluate("place => place.layout.yaxis.type") == "log"


def test_a_run_is_seen_to_learn_and_to_end(visit: Visit, url: str, root: Path) -> None:
    run = make_full_run(root, "live", updates=30, status="running")
    with run.locked():
        page = visit.open(f"{url}/run?run=live&smooth=0")
        lines(page, "return")
        expect(page.locator(".pulse")).to_have_text("live")
        write_rows(run, "updates", [update_row(run, 31, env_steps=10**9)])
        log(run, "something_new", "ERROR")
        expect(page.locator(".tiles")).to_contain_text("1 G")
        expect(page.locator("[data-part=events]")).to_contain_text("something_new")
        newest = "place => Math.max(...place.data.flatMap(trace => trace.x))"
        assert page.locator("[data-chart='return']").evaluate(newest) == 10**9
    expect(page.locator(".badge").first).to_have_text("interrupted")
    expect(page.locator(".pulse")).to_be_hidden()
    assert visit.asked("/static/dashboard.js") == 1  # the page was not loaded again


def test_an_episode_is_played_and_scrubbed_by_keyboard(visit: Visit, url: str) -> None:
    page = visit.open(f"{url}/replay?run=snakes")
    tick, ticks = page.locator("#tick"), int(page.locator("#scrub").get_attribute("max") or 0)
    expect(tick).to_have_text(f"0 / {ticks}")
    before = page.locator("#board").evaluate("canvas => canvas.toDataURL()")
    for key, at in (("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", ticks), ("Home", 0)):
        page.keyboard.press(key)
        expect(tick).to_have_text(f"{at} / {ticks}")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("#board").evaluate("canvas => canvas.toDataURL()") != before
    assert chosen(page)["tick"] == ["10"]
    shares = page.locator("#actions li > span:last-child").all_inner_texts()
    assert sum(float(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=0.2)
    page.reload()
    expect(tick).to_have_text(f"10 / {ticks}")
    page.get_by_label("Ticks a second").select_option("60")
    page.locator("h1").click()
    page.keyboard.press("Space")
    expect(tick).to_have_text(f"{ticks} / {ticks}")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_a_query_is_asked_by_keyboard_and_drawn(visit: Visit, url: str) -> None:
    page = visit.open(f"{url}/sql")
    page.keyboard.press("/")
    page.keyboard.type(CURVES)
    page.keyboard.press("Control+Enter")
    expect(page.locator("tbody")).to_contain_text("rate-1-a")
    page.get_by_label("show as").select_option("line")
    page.wait_for_url("**show=line**")
    assert {"rate-1-a", "rate-1-b", "rate-10"} <= set(lines(page, "answer"))


def test_keys_are_listed_and_lead_to_pages(visit: Visit, url: str) -> None:
    page = visit.open(url)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.wait_for_url("**/sql")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()


def test_what_is_not_there_is_said(visit: Visit, url: str) -> None:
    page = visit.open(f"{url}/run?run=nobody")
    expect(page.get_by_role("alert")).to_contain_text("there is no run 'nobody'")
    visit.forgive("404")


def test_a_service_that_has_gone_is_said_to_be_gone(visit: Visit, tmp_path: Path) -> None:
    run = make_full_run(tmp_path, "live", status="running")
    with run.locked(), start("dashboard", str(tmp_path), "--port", "0", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        page = visit.open(json.loads(process.stdout.readline())["url"])
        expect(page.locator(".pulse")).to_have_text("live")
        process.kill()
    expect(page.locator(".pulse")).to_have_text("no answer")
    visit.forgive("ERR_CONNECTION_REFUSED", "Failed to load")
