"""The routes of the agent API over a game of scripts."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from rattle.services.mock_env import requests
from rattle.services.mock_env.faults import Faults
from rattle.services.mock_env.game import ScriptedGame, ScriptedLife
from rattle.services.utils.guard import Guard, wrong_type
from rattle.wire.problems import PROBLEM_TYPE, STATUS, RequestError, problem_body

MAX_BODY_BYTES = 2**18
RETRY_AFTER_SECONDS = 1
#: How often a stream that has nothing to say looks whether its reader is still there.
GONE_CHECK_SECONDS = 0.5
_NDJSON = "application/x-ndjson"
_NOT_STORED = {"Cache-Control": "no-store"}
_CODES = {404: "unknown_path", 405: "wrong_method", 413: "too_large", 500: "internal"}


class SteadyClock:
    """Seconds since 1970 that never go back."""

    def __init__(self) -> None:
        self._start = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Return the time."""
        return self._start + time.monotonic()


class Board:
    """The game as threads share it: one at a time, and streams wake when something has happened."""

    def __init__(self, game: ScriptedGame, max_streams: int) -> None:
        self._game = game
        self._clock = SteadyClock()
        self._changed = threading.Condition()
        self._max_streams = max_streams
        self._streams = 0

    def ask(self, question: Callable[[ScriptedGame, float], Any]) -> Any:
        """Return what a question says to the game and the time."""
        with self._changed:
            answer = question(self._game, self._clock())
            self._changed.notify_all()
            return answer

    def join(self, snake_id: str, reader: socket.socket | None) -> Lines:
        """Return the lines of a snake from now on; RequestError `full` without room."""
        with self._changed:
            if self._streams >= self._max_streams:
                raise RequestError("full", f"{self._max_streams} streams are open: close one, or try again later")
            life = self._game.join(snake_id, self._clock())
            self._streams += 1
            self._changed.notify_all()
        return Lines(self, life, reader)

    def leave(self, life: ScriptedLife) -> None:
        """Close a stream."""
        with self._changed:
            self._game.leave(life, self._clock())
            self._streams -= 1

    def wait_for(self, life: ScriptedLife, tick: int, seconds: float) -> bytes | None:
        """Return a life's line of a tick, None when it has not been made within some seconds."""
        deadline = self._clock() + seconds
        with self._changed:
            while True:
                now = self._clock()
                self._game.catch_up(life, now)
                if life.tick >= tick:
                    return msgspec.json.encode(self._game.line(life, tick)) + b"\n"
                if now >= deadline:
                    return None
                self._changed.wait(min(self._game.next_line(life), deadline) - now)


class Lines:
    """The encoded lines of one reader; closing it leaves the snake, also when nothing has been read."""

    def __init__(self, board: Board, life: ScriptedLife, reader: socket.socket | None) -> None:
        self._board, self._life, self._reader = board, life, reader
        self._tick = life.tick
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._tick > self._life.length:
            raise StopIteration
        while (line := self._board.wait_for(self._life, self._tick, GONE_CHECK_SECONDS)) is None:
            if self._reader is not None and _is_gone(self._reader):
                raise ConnectionAbortedError("the reader has left")
        self._tick += 1
        return line

    def close(self) -> None:
        """Leave the snake."""
        if not self._closed:
            self._closed = True
            self._board.leave(self._life)


def _is_gone(reader: socket.socket) -> bool:
    """Say whether a reader has closed; one that only says that it will send no more looks the same."""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        if not selector.select(0):
            return False
    try:
        return reader.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def make_app(board: Board, faults: Faults, guard: Guard) -> Flask:
    """Return the WSGI application."""
    app = Flask("rattle.services.mock_env", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1  # a chunked body is cut there, and seen to be too large
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.register_error_handler(RequestError, _problem)
    app.register_error_handler(HTTPException, _http_problem)
    app.before_request(lambda: _check(guard))
    app.after_request(lambda response: _as_asked(faults, response))
    _add_world_routes(app, board)
    _add_snake_routes(app, board, faults)
    return app


def _check(guard: Guard) -> None:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if request.environ["SERVER_PROTOCOL"] == "HTTP/1.1" and ("host" not in headers or "," in headers["host"]):
        raise RequestError("bad_request", "a request of HTTP/1.1 has one Host header (RFC 9112, 3.2)")
    guard.check(request.method, request.path, headers)
    if request.method == "POST" and request.routing_exception is None:  # a wrong path or method is said first
        wrong = wrong_type(request.path, headers)
        if wrong is not None:
            raise wrong


def _add_world_routes(app: Flask, board: Board) -> None:
    @app.get("/")
    def health() -> Response:
        return _json(board.ask(lambda game, now: game.summary(now)))

    @app.get("/healthz")
    @app.get("/readyz")
    def ready() -> Response:
        return _json({"status": "ok"})

    @app.get("/state")
    def state() -> Response:
        return _json(board.ask(lambda game, now: game.state(now)))

    @app.post("/reset")
    def reset() -> Response:
        seed = requests.read_reset(_body(), request.content_type)
        return _json({"game_over": False, "seed": board.ask(lambda game, now: game.reset(seed, now))})


def _add_snake_routes(app: Flask, board: Board, faults: Faults) -> None:
    @app.get("/snake/")
    def no_id() -> NoReturn:
        requests.check_snake_id("")
        raise AssertionError  # it has no letter

    @app.get("/snake/<snake_id>")
    def stream(snake_id: str) -> Response:
        requests.check_snake_id(snake_id)
        requests.check_lines(request.args.get("lines"))
        if request.method == "HEAD":  # nobody joins
            return Response(content_type=_NDJSON, headers=_NOT_STORED)
        lines = board.join(snake_id, request.environ.get("werkzeug.socket"))
        response = Response(faults.stream(lines), content_type=_NDJSON, headers=_NOT_STORED)
        response.call_on_close(lines.close)
        return response

    @app.post("/snake/<snake_id>/move")
    def move(snake_id: str) -> Response:
        requests.check_snake_id(snake_id)
        asked = requests.read_move(_body(), request.content_type)

        def play(game: ScriptedGame, now: float) -> bool:
            game.check_move(asked)
            return game.move(snake_id, now)

        return _json({"snake_id": snake_id, "game_over": board.ask(play)})

    @app.post("/snake/<snake_id>/reset")
    def reset_snake(snake_id: str) -> Response:
        requests.check_snake_id(snake_id)
        requests.read_nothing(_body(), request.content_type)
        board.ask(lambda game, now: game.reset_snake(snake_id, now))
        return _json({"snake_id": snake_id, "game_over": False})


def _body() -> bytes:
    body = request.get_data()
    if len(body) > MAX_BODY_BYTES:
        raise RequestError("too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    return body


def _json(content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), content_type="application/json")


def _problem(error: RequestError) -> Response:
    response = Response(problem_body(error), error.status, content_type=PROBLEM_TYPE)
    if error.status == STATUS["full"]:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if error.status == STATUS["unauthenticated"]:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _http_problem(error: HTTPException) -> Response:
    code = _CODES.get(error.code or 500, "bad_request")
    detail = {
        "unknown_path": f"there is no {request.path}",
        "wrong_method": f"{request.path} cannot be asked with {request.method}",
        "too_large": f"the body is larger than {MAX_BODY_BYTES} bytes",
    }.get(code, error.description or error.name)
    response = _problem(RequestError(code, detail))
    if code == "wrong_method":
        allowed = dict(error.get_headers()).get("Allow", "")
        response.headers["Allow"] = ", ".join(
            name for name in allowed.split(", ") if name != "HEAD"
        )  # as others say it
    return response


def _as_asked(faults: Faults, response: Response) -> Response:
    return faults.answer(request.endpoint or "", response)
