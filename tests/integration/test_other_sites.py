"""Pages of other sites in a real browser: they move nobody and read nothing, while the service's own pages work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.integration.browsing import CHROMIUM, FLAGS, PATIENCE_S, visiting
from tests.processes import ServiceProcess

pytestmark = [pytest.mark.integration, pytest.mark.promised]

#: A name that leads to the own machine once its page is shown, as those of attackers can.
EVIL = "evil.example"
SETTINGS = ("env_service.clock=turns", "env_service.turn_seconds=100000", "env_service.snakes=3")
#: Everything that a page can try; each try becomes what the page got to read of its answer, null for nothing.
ATTACK = """async ([url, session]) => {
  const bytes = (text) => new TextEncoder().encode(text);
  const asked = async (path, options) => {
    const answer = await fetch(url + path, options);
    return [answer.status, await answer.text()];
  };
  const post = (path, body, type, mode) =>
    asked(path, { method: "POST", mode, body, headers: type ? { "Content-Type": type } : {} });
  const json = "application/json";
  const socket = () => new Promise((opened, failed) => {
    const made = new WebSocket(url.replace("http", "ws") + `/v1/sessions/${session}/ws`);
    made.onopen = () => made.send('{"step": 1, "seed": 5}');
    made.onmessage = ({ data }) => opened([101, data]);
    made.onclose = made.onerror = failed;
  });
  const form = (path, encoding) => new Promise((loaded) => {
    const frame = document.createElement("iframe");
    frame.name = `frame${Math.random()}`;
    document.body.append(frame);
    const sent = document.createElement("form");
    Object.assign(sent, { method: "post", action: url + path, target: frame.name, enctype: encoding });
    document.body.append(sent);
    frame.onload = () => { try { loaded([200, frame.contentDocument.body.innerText]); } catch { loaded(null); } };
    sent.submit();
    setTimeout(() => loaded(null), 3000);
  });
  const element = (tag, path) => new Promise((done) => {
    const made = Object.assign(document.createElement(tag), { src: url + path });
    made.onload = made.onerror = () => done(null);
    document.body.append(made);
    setTimeout(() => done(null), 3000);
  });
  const tries = {
    read: () => asked("/state"),
    readBlindly: () => asked("/state", { mode: "no-cors" }),
    spec: () => asked("/v1/spec"),
    metrics: () => asked("/metrics"),
    health: () => asked("/healthz"),
    resetWithoutType: () => post("/reset", bytes('{"seed": 5}'), null, "no-cors"),
    resetEmpty: () => post("/reset", null, null, "no-cors"),
    resetAsText: () => post("/reset", '{"seed": 5}', "text/plain", "no-cors"),
    resetAsJson: () => post("/reset", '{"seed": 5}', json),
    sendBeacon: async () => { navigator.sendBeacon(url + "/reset", bytes('{"seed": 5}')); return null; },
    session: () => post("/v1/sessions", '{"worlds": 1}', json),
    sessionWithoutType: () => post("/v1/sessions", bytes('{"worlds": 1}'), null, "no-cors"),
    end: () => asked(`/v1/sessions/${session}`, { method: "DELETE" }),
    stepOverWebSocket: socket,
    form: () => form("/reset", "application/x-www-form-urlencoded"),
    textForm: () => form("/reset", "text/plain"),
    frame: () => element("iframe", "/docs"),
    image: () => element("img", "/snake/image"),
    script: () => element("script", "/snake/script"),
    joinBlindly: () => Promise.race([
      asked("/snake/blind", { mode: "no-cors" }), new Promise((done) => setTimeout(done, 3000, null))]),
  };
  const read = {};
  for (const [name, attempt] of Object.entries(tries)) read[name] = await attempt().catch(() => null);
  return read;
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>Elsewhere</title><body><a href='LINK'>a link</a>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of a server of pages of others."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def env() -> Iterator[ServiceProcess]:
    with ServiceProcess("env", settings=SETTINGS) as process:
        yield process


@pytest.fixture(scope="module")
def misled() -> Iterator[Browser]:
    """A browser for which the name of an attacker leads to the own machine."""
    if CHROMIUM is None:
        pytest.skip("needs the browser: apt-get install chromium")
    with sync_playwright() as playwright:
        flags = [*FLAGS.split(), f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        yield browser
        browser.close()


def standing(env: ServiceProcess) -> dict[str, Any]:
    """Return all that a page could have changed."""
    state = httpx.get(f"{env.url}/state").json()
    sessions = [line for line in httpx.get(f"{env.url}/metrics").text.splitlines() if line.startswith("rattle_env_se")]
    return {"state": state, "sessions": sessions}


def attack(page: Page, env: ServiceProcess, url: str) -> None:
    """Let a page try everything against a service that it knows as `url`."""
    made = httpx.post(f"{env.url}/v1/sessions", json={"worlds": 1, "seed": 1})
    path = f"{env.url}/v1/sessions/{made.json()['session']}"
    before = standing(env), httpx.get(path).json()
    read = page.evaluate(ATTACK, [url, made.json()["session"]])
    assert (standing(env), httpx.get(path).json()) == before
    # In no-cors mode an answer has the status 0 and no text; a rebound page may read that it is refused.
    answers = {name: answer for name, answer in read.items() if answer not in (None, [0, ""])}
    assert {name: answer for name, answer in answers.items() if "forbidden" not in answer[1]} == {}
    httpx.delete(path)


@pytest.mark.parametrize("host", [EVIL, "127.0.0.1", "localhost"])
def test_a_page_of_another_origin_moves_nobody_and_reads_nothing(
    misled: Browser, env: ServiceProcess, elsewhere: int, host: str
) -> None:
    context = misled.new_context()
    page = context.new_page()
    page.goto(f"http://{host}:{elsewhere}/")
    attack(page, env, env.url)
    context.close()


def test_a_page_whose_name_is_bound_to_this_machine_moves_nobody_and_reads_nothing(
    misled: Browser, env: ServiceProcess
) -> None:
    context = misled.new_context()
    page = context.new_page()
    rebound = env.url.replace("127.0.0.1", EVIL)
    page.goto(f"{rebound}/no-such-page")  # what is shown has this origin all the same, and runs what is evaluated
    assert page.evaluate("location.origin") == rebound
    attack(page, env, rebound)
    assert page.goto(f"{rebound}/watch").status == 403  # type: ignore[union-attr]
    context.close()


def test_a_link_from_elsewhere_leads_to_a_page_and_joins_nobody(
    misled: Browser, env: ServiceProcess, elsewhere: int
) -> None:
    context = misled.new_context()
    page = context.new_page()
    for path, status in (("/watch", 200), ("/docs", 200), ("/snake/link", 403)):
        page.goto(f"http://{EVIL}:{elsewhere}/")
        page.evaluate("address => document.querySelector('a').href = address", f"{env.url}{path}")
        with page.expect_response(f"{env.url}{path}") as answered:
            page.click("a")
        assert answered.value.status == status
    assert httpx.get(f"{env.url}/").json()["agents"] == 0
    context.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_own_pages_work(misled: Browser, env: ServiceProcess, host: str) -> None:
    url = env.url.replace("127.0.0.1", host)
    context = misled.new_context()
    context.set_default_timeout(PATIENCE_S * 1000)
    page = context.new_page()
    page.goto(f"{url}/watch")
    expect(page.locator("#link-text")).to_have_text("live", timeout=PATIENCE_S * 1000)
    page.fill("#name", "me")
    page.click("#join-button")
    page.wait_for_selector("body[data-phase=playing]")
    tick = httpx.get(f"{env.url}/state").json()["tick"]
    page.keyboard.press("w")
    page.keyboard.press("d")
    expect(page.locator("#tick")).not_to_have_text(str(tick), timeout=PATIENCE_S * 1000)
    page.goto(f"{url}/docs")
    page.click("text=/reset >> nth=0")
    page.click("text=Try it out")
    with page.expect_response(f"{url}/reset") as answered:
        page.click("text=Execute")
    assert answered.value.status == 200
    context.close()


def test_the_dashboard_works_and_is_not_read_from_elsewhere(
    misled: Browser, elsewhere: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ServiceProcess("dashboard", str(tmp_path_factory.mktemp("runs"))) as dashboard:
        with visiting(misled) as visit:
            page = visit.open(f"{dashboard.url}/sql")
            page.fill("textarea", "SELECT 41 + 1")
            page.keyboard.press("Control+Enter")
            expect(page.locator("td").first).to_have_text("42", timeout=PATIENCE_S * 1000)
        context = misled.new_context()
        page = context.new_page()
        page.goto(f"http://{EVIL}:{elsewhere}/")
        read = "url => fetch(url).then((answer) => answer.text()).catch(() => null)"
        assert page.evaluate(read, dashboard.url) is None
        rebound = dashboard.url.replace("127.0.0.1", EVIL)
        assert page.goto(rebound).status == 403  # type: ignore[union-attr]
        context.close()
