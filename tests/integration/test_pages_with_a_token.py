"""Pages of services that ask for a token, in a real browser: it is in the part of their address that no server sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.integration.browsing import PATIENCE_S, Visit
from tests.processes import ServiceProcess
from tests.services.dashboard.build import make_full_run

expect.set_options(timeout=PATIENCE_S * 1000)
pytestmark = [pytest.mark.integration, pytest.mark.promised]

TOKEN = "the-token-of-these-tests"  # noqa: S105


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    folder = tmp_path_factory.mktemp("token")
    (folder / "token").touch(0o600)
    (folder / "token").write_text(TOKEN)
    for name in ("one", "two"):
        make_full_run(folder / "runs", name, updates=10)
    settings = (f"security.token_file={folder / 'token'}",)
    with (
        ServiceProcess("env", "--clock", "turns", settings=settings) as env,
        ServiceProcess("dashboard", str(folder / "runs"), settings=settings) as dashboard,
    ):
        yield env, dashboard


def test_whoever_has_the_token_watches_and_plays(services: tuple[ServiceProcess, ServiceProcess], visit: Visit) -> None:
    env = services[0]
    page = visit.open(f"{env.url}/watch")
    expect(page.locator("#notice-text")).to_contain_text("open this page as /watch#token=TOKEN")
    page.close()
    page = visit.open(f"{env.url}/watch#token={TOKEN}")
    expect(page.locator("#link-text")).to_have_text("live")
    assert page.url == f"{env.url}/watch"
    answer = page.evaluate("""async () => {
      const { post } = await import("/watch/link.js");
      return await post("reset", '{"seed": 5}');
    }""")
    assert '"seed":5' in answer
    page.reload()
    expect(page.locator("#link-text")).to_have_text("live")
    visit.forgive("401")
    asked = [request.url for request in visit.requests]
    assert [url for url in asked if TOKEN in url.partition("#")[0]] == []


def test_routes_are_tried_with_the_token_that_the_page_is_told(
    services: tuple[ServiceProcess, ServiceProcess], visit: Visit
) -> None:
    page = visit.open(f"{services[0].url}/docs")
    page.get_by_role("button", name="Authorize").click()
    page.locator(".auth-container input").fill(TOKEN)
    page.locator(".auth-container").get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close", exact=True).click()
    page.locator("[id^=operations-agent]").nth(1).click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")


def test_whoever_has_the_token_sees_the_dashboard_and_follows_its_links(
    services: tuple[ServiceProcess, ServiceProcess], visit: Visit
) -> None:
    dashboard = services[1]
    page = visit.open(dashboard.url)
    page.get_by_label("Token").fill("another-token-altogether")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_contain_text("another token")
    page.close()
    page = visit.open(f"{dashboard.url}/#token={TOKEN}")
    expect(page.get_by_role("link", name="one", exact=True)).to_be_visible()
    assert page.url == f"{dashboard.url}/"
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page).to_have_url(f"{dashboard.url}/compare")
    expect(page.get_by_role("link", name="Compare", exact=True)).to_have_attribute("aria-current", "page")
    page.goto(f"{dashboard.url}/run?run=one")
    expect(page.locator("[data-chart] .main-svg").first).to_be_visible()
    page.go_back()
    expect(page.get_by_role("link", name="Compare", exact=True)).to_have_attribute("aria-current", "page")
    visit.forgive("401")
