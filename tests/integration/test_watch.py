"""The watch page in a real browser against the real service."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from rattle.envs.snake.geometry import HEADINGS, TURNS, to_world, visible_offsets
from tests.integration.browsing import PATIENCE_S, Visit
from tests.template import start

pytestmark = [pytest.mark.integration, pytest.mark.promised]

NAMES = ("north", "east", "south", "west")
KEYS = {"north": "ArrowUp", "east": "ArrowRight", "south": "ArrowDown", "west": "ArrowLeft"}
# The world stands still until somebody moves.
TURNS_ONLY = ("--clock", "turns", "--set", "env_service.turn_seconds=100000", "--set", "env.max_steps_without_food=0")


class Server:
    """`rattle env` in a process of its own."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self._process = start("env", "--port", str(port), "--seed", "7", *arguments, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.url: str = json.loads(self._process.stdout.readline())["url"]
        self._readers: list[threading.Thread] = []

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 80

    def state(self) -> dict[str, Any]:
        content: dict[str, Any] = httpx.get(f"{self.url}/state", timeout=PATIENCE_S).json()
        return content

    def join(self, name: str) -> None:
        """Let a snake join and stay as long as the server lives."""
        joined = threading.Event()

        def read() -> None:
            try:
                with httpx.stream("GET", f"{self.url}/snake/{name}", timeout=PATIENCE_S * 10) as stream:
                    for _ in stream.raise_for_status().iter_lines():
                        joined.set()
            except httpx.TransportError:
                pass  # the server was killed

        self._readers.append(threading.Thread(target=read))
        self._readers[-1].start()
        assert joined.wait(PATIENCE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        for reader in self._readers:
            reader.join(PATIENCE_S)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers that are killed when the test is over."""
    servers: list[Server] = []

    def start(*arguments: str, port: int = 0) -> Server:
        servers.append(Server(*arguments, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def watch(visit: Visit, server: Server, shows: str = "live") -> Page:
    page = visit.open(f"{server.url}/watch")
    expect(page.locator("#link-text")).to_have_text(shows, timeout=PATIENCE_S * 1000)
    return page


def until(told: Callable[[], Any]) -> Any:
    """Ask until the answer is truthy."""
    end = time.monotonic() + PATIENCE_S
    while not (answer := told()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return answer


def play(page: Page, name: str) -> None:
    page.fill("#name", name)
    page.click("#join-button")
    page.wait_for_selector("body[data-phase=playing]")
    page.wait_for_selector("#snakes b:not([hidden])")


def seen_cells(state: dict[str, Any], name: str) -> set[tuple[int, int]]:
    status = state["status"][name]
    x, y = status["head"]
    turned = (to_world(NAMES.index(status["heading"]), *at) for at in visible_offsets(state["vision_radius"]))
    return {(x, y)} | {((x + dx) % state["width"], (y + dy) % state["height"]) for dx, dy in turned}


# Whether exactly the expected cells have a corner pixel of exactly the colour --lit; nothing else is painted in it.
IS_LIT = """([columns, expected]) => {
  const wanted = getComputedStyle(document.documentElement).getPropertyValue("--lit").trim();
  const board = document.getElementById("board");
  const copy = new OffscreenCanvas(board.width, board.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(board, 0, 0);
  const { data } = copy.getImageData(0, 0, board.width, board.height);
  const colour = (x, y) => {
    const at = 4 * (y * board.width + x);
    return "#" + [...data.slice(at, at + 3)].map((part) => part.toString(16).padStart(2, "0")).join("");
  };
  const cell = board.width / columns;
  const lit = [];
  for (let x = 0; x < board.width; x += cell) for (let y = 0; y < board.height; y += cell) {
    const corners = [[2, 2], [cell - 2, 2], [2, cell - 2], [cell - 2, cell - 2]];
    if (corners.some(([dx, dy]) => colour(x + dx, y + dy) === wanted)) lit.push([x / cell, y / cell]);
  }
  return JSON.stringify(lit) === JSON.stringify(expected);
}"""


def test_shows_the_board_and_what_each_snake_sees(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve(*TURNS_ONLY, "--set", "env.width=13", "--set", "env.height=9", "--set", "env_service.snakes=3")
    for name in ("anna", "__proto__"):
        server.join(name)
    page = watch(visit, server)
    state = server.state()
    page.wait_for_selector("#snakes tr:nth-child(2)")
    shown = dict(zip(("name", "score", "length"), zip(*_table(page), strict=True), strict=False))
    assert shown["name"] == tuple(state["status"])
    assert shown["length"] == ("3", "3")
    assert page.text_content("#seed") == "7"
    assert page.text_content("#clock") == "turns"
    page.uncheck("#names")
    page.check("input[value=all]")
    expected = seen_cells(state, "anna") | seen_cells(state, "__proto__")
    assert 0 < len(expected) < 13 * 9
    page.wait_for_function(IS_LIT, arg=[13, sorted(expected)])
    page.check("input[value=everywhere]")
    page.wait_for_function(IS_LIT, arg=[13, [(x, y) for x in range(13) for y in range(9)]])


def _table(page: Page) -> list[list[str]]:
    rows = page.locator("#snakes tr").all()
    return [[row.locator("span").inner_text(), *row.locator("td").all_inner_texts()] for row in rows]


def test_a_row_selects_whose_eyes_are_shown(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve(*TURNS_ONLY, "--set", "env_service.snakes=3")
    for name in ("anna", "bruno"):
        server.join(name)
    page = watch(visit, server)
    for name in ("bruno", "anna"):
        page.get_by_role("button", name=name).click()
        expect(page.locator("#seer")).to_have_text(name)
        expect(page.locator("#sight")).to_have_attribute("aria-label", re.compile(f"What {name} sees"))


def test_keys_turn_the_snake(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve(*TURNS_ONLY)
    page = watch(visit, server)
    play(page, "me")
    ticks = server.state()["tick"]
    for turn in (1, 1, 3, 0, 3, 3):
        heading = NAMES.index(server.state()["status"]["me"]["heading"])
        page.keyboard.press(KEYS[NAMES[(heading + 2) % 4]])  # the opposite: nothing happens
        wanted = NAMES[(heading + turn) % 4]
        page.keyboard.press(KEYS[wanted])
        ticks += 1
        until(lambda ticks=ticks: server.state()["tick"] >= ticks)
        state = server.state()
        assert (state["tick"], state["status"]["me"]["heading"]) == (ticks, wanted)
        expect(page.locator("#tick")).to_have_text(str(ticks), timeout=PATIENCE_S * 1000)
    heading = NAMES.index(server.state()["status"]["me"]["heading"])
    letters = dict(zip(NAMES, "wdsa", strict=True))
    page.keyboard.press(letters[NAMES[(heading + 1) % 4]])
    page.keyboard.press(letters[NAMES[(heading + 2) % 4]])  # before the first is known to be taken
    until(lambda: server.state()["status"]["me"]["heading"] == NAMES[(heading + 2) % 4])
    assert server.state()["tick"] == ticks + 2


@pytest.mark.parametrize("settings", [{"viewport": {"width": 360, "height": 740}, "has_touch": True}])
def test_a_thumb_turns_the_snake(serve: Callable[..., Server], visit: Visit, settings: dict[str, Any]) -> None:
    server = serve(*TURNS_ONLY)
    page = watch(visit, server)
    play(page, "me")
    heading = NAMES.index(server.state()["status"]["me"]["heading"])
    wanted = NAMES[(heading + 1) % 4]
    page.tap(f"#pad [data-direction={wanted}]")
    until(lambda: server.state()["status"]["me"]["heading"] == wanted)


def test_plays_on_a_running_clock(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve("--fps", "5", "--set", "env.max_steps_without_food=0")
    page = watch(visit, server)
    play(page, "me")
    for _ in range(3):
        heading = NAMES.index(server.state()["status"]["me"]["heading"])
        page.keyboard.press(KEYS[NAMES[(heading + 1) % 4]])
        until(lambda heading=heading: server.state()["status"]["me"]["heading"] == NAMES[(heading + 1) % 4])


def test_after_death_another_life(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve(*TURNS_ONLY[:-1], "env.max_steps_without_food=2")
    page = watch(visit, server)
    play(page, "me")
    heading = server.state()["status"]["me"]["heading"]
    for tick in (server.state()["tick"], server.state()["tick"] + 1):
        expect(page.locator("#tick")).to_have_text(str(tick), timeout=PATIENCE_S * 1000)
        page.keyboard.press(KEYS[heading])
    expect(page.locator("#notice-title")).to_have_text("me died", timeout=PATIENCE_S * 1000)
    expect(page.locator("#notice-text")).to_have_text(re.compile(r"^Score \d+, length \d+\.$"))
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-phase=playing]")
    until(lambda: not server.state()["status"]["me"]["game_over"])


@pytest.mark.parametrize("name", ["", "a b", "..", "ä"])
def test_a_bad_name_is_said_and_not_sent(serve: Callable[..., Server], visit: Visit, name: str) -> None:
    server = serve(*TURNS_ONLY)
    page = watch(visit, server)
    page.evaluate("document.getElementById('name').required = false")
    page.fill("#name", name)
    page.click("#join-button")
    expect(page.locator("#play-text")).to_contain_text("name")
    assert server.state()["status"] == {}
    assert not any("/snake/" in request.url for request in visit.requests)


def test_what_the_server_refuses_is_said_in_its_words(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve(*TURNS_ONLY, "--set", "env_service.snakes=1")
    server.join("anna")
    problem = httpx.get(f"{server.url}/snake/other").json()["error"]
    page = watch(visit, server)
    page.fill("#name", "other")
    page.click("#join-button")
    expect(page.locator("#play-text")).to_have_text(problem, timeout=PATIENCE_S * 1000)
    visit.forgive("503")


def test_a_server_without_an_agent_api_says_so(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve("--set", "env={id: 'gym:CartPole-v1'}")
    problem = httpx.get(f"{server.url}/state").json()["error"]
    page = watch(visit, server, shows="no game to watch")
    expect(page.locator("#notice-text")).to_have_text(problem)
    visit.forgive("404")


def test_a_reset_asks_first(serve: Callable[..., Server], visit: Visit) -> None:
    server = serve(*TURNS_ONLY)
    page = watch(visit, server)
    page.click("#reset")
    page.click("#reset-cancel")
    assert visit.asked("/reset") == 0
    page.click("#reset")
    page.fill("#reset-seed", "9007199254740993")  # more than a JavaScript number holds
    page.click("#reset-dialog .danger")
    expect(page.locator("#notice-text")).to_contain_text("seed 9007199254740993", timeout=PATIENCE_S * 1000)
    play(page, "me")
    expect(page.locator("#seed")).to_have_text("9007199254740993", timeout=PATIENCE_S * 1000)
    assert server.state()["seed"] == 9007199254740993


def test_recovers_when_the_server_is_back(serve: Callable[..., Server], visit: Visit) -> None:
    room_for_two = (*TURNS_ONLY, "--set", "env_service.snakes=2")
    server = serve(*room_for_two)
    page = watch(visit, server)
    play(page, "me")
    server.kill()
    expect(page.locator("#link-text")).to_contain_text("connection lost", timeout=PATIENCE_S * 1000)
    expect(page.locator("#notice-title")).to_have_text("Connection lost")
    again = serve(*room_for_two, port=server.port)
    expect(page.locator("#link-text")).to_have_text("live", timeout=PATIENCE_S * 1000)
    again.join("anna")
    expect(page.locator("#snakes")).to_contain_text("anna", timeout=PATIENCE_S * 1000)
    visit.forgive("net::ERR_")


@pytest.mark.parametrize(
    "settings",
    [
        {"viewport": {"width": width, "height": 740}, "color_scheme": scheme, "device_scale_factor": scale}
        for width, scheme, scale in [(360, "dark", 3), (360, "light", 2), (1600, "light", 1)]
    ],
)
def test_fits_the_screen(serve: Callable[..., Server], visit: Visit, settings: dict[str, Any]) -> None:
    server = serve(*TURNS_ONLY, "--set", "env.width=40", "--set", "env.height=40", "--set", "env_service.snakes=8")
    for name in ("x" * 64, *(f"snake-{number}" for number in range(5))):
        server.join(name)
    page = watch(visit, server)
    play(page, "W" * 64)
    assert page.evaluate("document.documentElement.scrollWidth") <= settings["viewport"]["width"]
    box, scale = page.locator("#board").bounding_box(), settings["device_scale_factor"]
    assert box is not None
    assert box["width"] > 250
    # Sharp: as many pixels as the screen has there.
    assert page.evaluate("document.getElementById('board').width") == pytest.approx(box["width"] * scale, abs=1)


def test_geometry_is_that_of_the_rules(serve: Callable[..., Server], visit: Visit) -> None:
    page = watch(visit, serve(*TURNS_ONLY))
    offsets = [(dx, dy) for dx in range(-3, 4) for dy in range(-3, 4)]
    told = page.evaluate(
        """async (offsets) => {
          const { HEADINGS, toWorld } = await import("/watch/world.js");
          return HEADINGS.map((heading) => offsets.map(([dx, dy]) => toWorld(heading, dx, dy)));
        }""",
        offsets,
    )
    expected = [[list(to_world(heading, dx, dy)) for dx, dy in offsets] for heading in range(4)]
    assert np.array_equal(told, expected)
    moves = page.evaluate(
        """async (names) => {
          const { moveTowards } = await import("/watch/world.js");
          return names.map((from) => names.map((to) => moveTowards(from, to)));
        }""",
        NAMES,
    )
    turned = {"forward": TURNS[0], "right": TURNS[1], "left": TURNS[2]}
    for heading, row in enumerate(moves):
        assert [to is not None and (heading + turned[to]) % 4 for to in row] == [
            False if to == (heading + 2) % 4 else to for to in range(4)
        ]


@pytest.mark.parametrize(
    ("happens", "moves"),
    [
        # A second press before the first is taken waits for its own tick.
        (["@0 north", "east", "south", "@0 north", "@1 east", "@2 south"], ["right", "right"]),
        # The opposite of the heading is no move, the heading itself is one.
        (["@0 north", "south", "north"], ["forward"]),
        # The opposite of what was pressed last takes its place.
        (["@0 north", "east", "west"], ["right", "left"]),
        (["@0 north", "east", "south", "north", "@1 east"], ["right", "left"]),
        # A move that came too late for its tick is waited for; one that was lost is not.
        (["@0 north", "east", "south", "@1 north", "@2 east"], ["right", "right"]),
        (["@0 north", "east", "@9 north", "west"], ["right", "left"]),
        # A key pressed twice is pressed once.
        (["@0 north", "east", "east", "@1 east", "@2 east"], ["right"]),
    ],
)
def test_presses_become_moves(serve: Callable[..., Server], visit: Visit, happens: list[str], moves: list[str]) -> None:
    page = watch(visit, serve(*TURNS_ONLY))
    told = page.evaluate(
        """async (happens) => {
          const { Steering } = await import("/watch/play.js");
          const steering = new Steering();
          const happen = (what) => {
            const [, tick, heading] = /^@(\\d+) (.*)$/.exec(what) ?? [];
            return tick ? steering.see(Number(tick), heading) : steering.press(what);
          };
          return happens.map(happen).filter((move) => move !== null);
        }""",
        happens,
    )
    assert told == moves


def walk(random: np.random.Generator, width: int, height: int, length: int) -> tuple[list[int], int]:
    """Return the cells of a body that a snake can have, head first, and the heading of its head."""
    while True:
        x, y = int(random.integers(width)), int(random.integers(height))
        heading = int(random.integers(4))
        cells = [(x, y)]
        while len(cells) < length:
            heading = (heading + int(random.choice([0, 1, 3], p=[0.5, 0.25, 0.25]))) % 4
            dx, dy = HEADINGS[heading]
            cells.append(((cells[-1][0] + dx) % width, (cells[-1][1] + dy) % height))
        if len(set(cells)) == length:
            return [y * width + x for x, y in cells[::-1]], heading


def test_bodies_are_put_in_order(serve: Callable[..., Server], visit: Visit) -> None:
    page = watch(visit, serve(*TURNS_ONLY))
    random = np.random.default_rng(0)
    bodies = [walk(random, 9, 7, int(length)) for length in random.integers(1, 24, 60)]
    paths = page.evaluate(
        """async (bodies) => {
          const { HEADINGS, traceBody } = await import("/watch/world.js");
          const torus = { width: 9, height: 7 };
          return bodies.map(([cells, heading]) =>
            traceBody(torus, new Set([...cells].sort()), cells[0], HEADINGS[heading]));
        }""",
        bodies,
    )
    for (cells, _), path in zip(bodies, paths, strict=True):
        assert path is not None
        assert (path[0], sorted(path)) == (cells[0], sorted(cells))
        for one, other in pairwise(path):
            across, down = abs(one % 9 - other % 9), abs(one // 9 - other // 9)
            assert min(across, 9 - across) + min(down, 7 - down) == 1
