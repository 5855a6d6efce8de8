"""Each fault does what it says, over real sockets, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

import rattle.services.mock_env
from rattle.cli import main
from rattle.services.mock_env.faults import FAULTS
from rattle.services.mock_env.script import line
from rattle.services.mock_env.server import MockEnv, MockSettings

README = Path(rattle.services.mock_env.__file__).with_name("README.md")
Check = Callable[[httpx.Client], None]
CHECKS: dict[str, Check] = {}
SETTINGS: dict[str, dict[str, Any]] = {}


def check(name: str, **settings: Any) -> Callable[[Check], Check]:
    """Register what a fault is to be seen by, and the server to see it on."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        SETTINGS[name] = {"delay": 0.01} | settings
        return function

    return register


def texts(http: httpx.Client, path: str = "/snake/anna") -> list[str]:
    with http.stream("GET", path) as stream:
        return list(stream.iter_lines())


def lines(http: httpx.Client, path: str = "/snake/anna") -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts(http, path)]


def ticks(http: httpx.Client) -> list[int]:
    return [state["tick"] for state in lines(http, "/snake/anna?lines=all")]


def move(http: httpx.Client, name: str = "anna", to: str = "left") -> httpx.Response:
    return http.post(f"/snake/{name}/move", json={"move": to})


@check("late")
def late(http: httpx.Client) -> None:
    ticks(http)
    start = time.monotonic()
    assert move(http).json()["game_over"]
    assert time.monotonic() - start >= 3.0


@check("late-lines", length=1)
def late_lines(http: httpx.Client) -> None:
    start = time.monotonic()
    assert ticks(http) == [0, 1]
    assert time.monotonic() - start >= 2.0


@check("cut-stream")
def cut_stream(http: httpx.Client) -> None:
    got: list[str] = []
    with http.stream("GET", "/snake/anna") as stream, pytest.raises(httpx.RemoteProtocolError):
        got.extend(stream.iter_lines())
    assert [json.loads(text)["game_over"] for text in got] == [False]


@check("cut-answer")
def cut_answer(http: httpx.Client) -> None:
    for path in ("/", "/state", "/nothing"):
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(path)
    assert ticks(http) == list(range(11))


@check("malformed-line")
def malformed_line(http: httpx.Client) -> None:
    got = texts(http)
    assert len(got) == 11
    for text in got:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)


@check("malformed-answer")
def malformed_answer(http: httpx.Client) -> None:
    for path in ("/", "/state", "/nothing"):
        with pytest.raises(json.JSONDecodeError):
            http.get(path).json()
    assert ticks(http) == list(range(11))


@check("missing-field")
def missing_field(http: httpx.Client) -> None:
    assert all("reward" not in state and len(state) == 6 for state in lines(http))


@check("wrong-type")
def wrong_type(http: httpx.Client) -> None:
    assert [state["tick"] for state in lines(http)] == [str(tick) for tick in range(11)]


@check("out-of-order")
def out_of_order(http: httpx.Client) -> None:
    assert ticks(http) == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 10]


@check("repeated-line")
def repeated_line(http: httpx.Client) -> None:
    assert ticks(http) == [tick for tick in range(11) for _ in range(2)]


@check("skipped-tick")
def skipped_tick(http: httpx.Client) -> None:
    assert ticks(http) == [0, 2, 4, 6, 8, 10]


@check("after-end")
def after_end(http: httpx.Client) -> None:
    assert [(state["tick"], state["game_over"]) for state in lines(http)[-3:]] == [(9, False), (10, True), (11, False)]


@check("no-end", length=2)
def no_end(http: httpx.Client) -> None:
    with http.stream("GET", "/snake/anna") as stream:
        got = stream.iter_lines()
        assert [json.loads(next(got))["game_over"] for _ in range(10)] == [False] * 10
        http.post("/reset", json={})
        assert [json.loads(text)["game_over"] for text in got].count(True) == 0


@check("error-500")
def error_500(http: httpx.Client) -> None:
    assert move(http).status_code == 404
    ticks(http)
    answer = move(http)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert move(http, to="up").status_code == 400


@check("plain-errors")
def plain_errors(http: httpx.Client) -> None:
    for answer in (http.get("/nothing"), move(http), move(http, to="up"), http.put("/")):
        assert answer.status_code in (400, 404, 405)
        assert answer.headers["content-type"].startswith("text/plain")
    assert http.get("/").json()["agents"] == 0


@check("accepts-bad-moves")
def accepts_bad_moves(http: httpx.Client) -> None:
    ticks(http)
    assert move(http, to="up").status_code == 200
    assert http.post("/snake/anna/move", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400


@check("accepts-unknown-snakes")
def accepts_unknown_snakes(http: httpx.Client) -> None:
    assert move(http, "nobody").json() == {"snake_id": "nobody", "game_over": False}
    assert http.post("/snake/nobody/reset", json={}).status_code == 200


@check("wrong-window")
def wrong_window(http: httpx.Client) -> None:
    cells = lines(http)[0]["visible_cells"]
    assert (cells["0,0"], cells["0,1"], len(cells)) == ("HEAD", "BODY", 61)


@check("no-head")
def no_head(http: httpx.Client) -> None:
    cells = lines(http)[0]["visible_cells"]
    assert "HEAD" not in cells.values()
    assert len(cells) == 60


@check("shared-script", delay=3600)
def shared_script(http: httpx.Client) -> None:
    with http.stream("GET", "/snake/anna") as one, http.stream("GET", "/snake/ben") as two:
        annas, bens = one.iter_lines(), two.iter_lines()
        assert json.loads(next(annas)) == json.loads(next(bens))
        move(http, "ben")
        state = json.loads(next(annas))
        assert (state["snake_id"], state["tick"]) == ("anna", 1)
        assert json.loads(next(bens)) == state


@check("sticky-reset", delay=3600)
def sticky_reset(http: httpx.Client) -> None:
    with http.stream("GET", "/snake/anna") as stream:
        got = stream.iter_lines()
        next(got)
        assert http.post("/reset", json={}).status_code == 200
        assert http.post("/snake/anna/reset", json={}).status_code == 200
        move(http)
        state = json.loads(next(got))
        assert (state["tick"], state["game_over"]) == (1, False)


@check("not-repeatable")
def not_repeatable(http: httpx.Client) -> None:
    first, second = ([state["visible_cells"] for state in lines(http)] for _ in range(2))
    assert first != second


def test_every_fault_is_looked_at() -> None:
    assert CHECKS.keys() == FAULTS.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_shows(name: str) -> None:
    settings = MockSettings(faults=(name,), **SETTINGS[name])
    with MockEnv(settings) as env, httpx.Client(base_url=env.url, timeout=240) as http:
        CHECKS[name](http)


EVERY: dict[str, list[Any]] = {
    "malformed-line": [True, True, False, True, True, False, True, True],
    "repeated-line": [0, 1, 2, 2, 3, 4, 5, 5, 6, 7],
    "out-of-order": [0, 1, 3, 2, 4, 6, 5, 7],
    "skipped-tick": [0, 1, 2, 4, 5, 6, 7],
    "cut-stream": [0, 1, 2],
}


@pytest.mark.parametrize("name", EVERY)
def test_some_lines_only(name: str) -> None:
    settings = MockSettings(length=7, delay=0.01, faults=(name,), fault_every=3)
    got: list[str] = []
    end = pytest.raises(httpx.RemoteProtocolError) if name == "cut-stream" else nullcontext()
    with MockEnv(settings) as env, httpx.stream("GET", f"{env.url}/snake/anna", timeout=240) as stream, end:
        got.extend(stream.iter_lines())
    whole = [text.endswith("}") for text in got]
    assert (whole if name == "malformed-line" else [json.loads(text)["tick"] for text in got]) == EVERY[name]


def test_some_answers_only() -> None:
    settings = MockSettings(faults=("cut-answer",), fault_every=2)
    with MockEnv(settings) as env, httpx.Client(base_url=env.url, timeout=240) as http:
        for _ in range(3):
            assert http.get("/").status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                http.get("/")


def test_faults_add_up() -> None:
    settings = MockSettings(delay=0.01, length=2, faults=("malformed-line", "no-head", "after-end", "plain-errors"))
    with MockEnv(settings) as env, httpx.Client(base_url=env.url, timeout=240) as http:
        assert len(texts(http)) == 4
        assert "HEAD" not in texts(http)[0]
        assert http.get("/nothing").headers["content-type"].startswith("text/plain")


def test_without_faults_nothing_is_wrong() -> None:
    with MockEnv(MockSettings(delay=0.01)) as env, httpx.Client(base_url=env.url, timeout=240) as http:
        for _ in range(2):
            for tick, state in enumerate(lines(http)):
                assert state["visible_cells"] == line("anna", tick, 10).visible_cells


def test_the_readme_and_the_help_list_every_fault() -> None:
    rows = [f"| `{name}` | {fault.description} | {fault.rule} |" for name, fault in FAULTS.items()]
    assert "\n".join(rows) + "\n" in README.read_text()
    shown = " ".join(CliRunner().invoke(main, ["mock-env", "--help"]).output.split())
    for name, fault in FAULTS.items():
        assert f" {name} {fault.description} (the rule: {fault.rule})" in shown
