"""What may be asked, by whom, and under which name: the rule by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from rattle.services.utils.asgi import answer, answer_problem
from rattle.services.utils.guard import Guard, wrong_type
from rattle.services.utils.sockets import ServiceError
from rattle.settings.services import SecuritySection
from rattle.wire.problems import RequestError

OWN = {"host": "127.0.0.1:5000"}
JSON = OWN | {"content-type": "application/json"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
GUARD = Guard("gpu-box", SecuritySection(allowed_hosts=("Rattle.example.org", "other"), trust_network=True))


def refused(method: str, path: str, headers: dict[str, str]) -> tuple[str, str | None] | None:
    """Return code and field of what is refused, None for what may be asked."""
    try:
        GUARD.check(method, path, headers)
    except RequestError as error:
        return error.code, error.field
    wrong = wrong_type(path, headers) if method == "POST" else None
    return wrong and (wrong.code, wrong.field)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "localhost:5000",
            "LOCALHOST:5000",
            "localhost.:5000",
            "127.0.0.1",
            "127.9.9.9:80",
            "10.0.0.7:5",
        ),
        *("[::1]", "[::1]:5000", "[fe80::1%25eth0]:5000", "0.0.0.0:5000"),
        *("gpu-box:5000", "GPU-box", "rattle.example.org", "rattle.EXAMPLE.org.:5000", "other:1"),
    ],
)
def test_own_names_and_addresses_as_numbers_may_be_asked(host: str) -> None:
    assert refused("GET", "/state", {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:5000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost"),
        *(
            "",
            ":5000",
            "x",
            "sub.rattle.example.org",
            "rattle.example.org.evil.example",
            "localhost..",
            "localhost:5:5",
        ),
        *("[::1", "::1]:5000", "[evil.example]", "[localhost]", "localhost@evil.example", "localhost, evil.example"),
        *("127.0.0.1 evil.example", "1.2.3.4.5", "evil.example:127.0.0.1", "\x1b[2J", "x" * 5000),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/healthz"), ("POST", "/reset"), ("WEBSOCKET", "/")])
def test_other_names_are_refused(host: str, method: str, path: str) -> None:
    assert refused(method, path, JSON | {"host": host}) == ("forbidden", "Host")


def test_a_program_that_sends_no_host_is_answered() -> None:
    assert refused("GET", "/state", {}) is None


SITES = {
    "program": {},
    "own page": {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:5000"},
    "own page behind a proxy": {"sec-fetch-site": "same-origin", "origin": "https://rattle.example.org"},
    "typed": {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    "own page in an old browser": {"origin": "http://127.0.0.1:5000"},
    "own page behind a proxy with TLS in an old browser": {"origin": "https://127.0.0.1:5000"},
}
OTHER_SITES = {
    "page": ({"sec-fetch-site": "cross-site"}, "Sec-Fetch-Site"),
    "page with its origin": ({"sec-fetch-site": "cross-site", "origin": "http://evil.example"}, "Sec-Fetch-Site"),
    "port": ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8888"}, "Sec-Fetch-Site"),
    "unheard-of": ({"sec-fetch-site": "somewhere"}, "Sec-Fetch-Site"),
    "nothing": ({"sec-fetch-site": ""}, "Sec-Fetch-Site"),
    "old page": ({"origin": "http://evil.example"}, "Origin"),
    "old port": ({"origin": "http://127.0.0.1:8888"}, "Origin"),
    "old name": ({"origin": "http://localhost:5000"}, "Origin"),
    "old begin": ({"origin": "http://127.0.0.1:5000.evil.example"}, "Origin"),
    "old file": ({"origin": "null"}, "Origin"),
    "old blank": ({"origin": ""}, "Origin"),
    "frame": (LINK | {"sec-fetch-dest": "iframe"}, "Sec-Fetch-Site"),
    "image": (LINK | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, "Sec-Fetch-Site"),
}
ASKED = [
    ("GET", "/state", OWN),
    ("GET", "/snake/anna", OWN),
    ("HEAD", "/", OWN),
    ("OPTIONS", "/reset", OWN),
    ("POST", "/reset", JSON),
    ("POST", "/v2/models/snake/infer", OWN),
    ("DELETE", "/v1/agents/main-0", OWN),
    ("WEBSOCKET", "/v1/sessions/0/ws", OWN),
]


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
@pytest.mark.parametrize(("method", "path", "headers"), ASKED)
def test_own_pages_and_programs_may_ask(method: str, path: str, headers: dict[str, str], site: dict[str, str]) -> None:
    assert refused(method, path, headers | site) is None


@pytest.mark.parametrize(("site", "field"), OTHER_SITES.values(), ids=OTHER_SITES)
@pytest.mark.parametrize(("method", "path", "headers"), ASKED)
def test_pages_of_other_sites_may_not(
    method: str, path: str, headers: dict[str, str], site: dict[str, str], field: str
) -> None:
    assert refused(method, path, headers | site) == ("forbidden", field)


AT_AN_ADDRESS = {"host": "10.0.0.7:5000", "user-agent": "Mozilla/5.0 (X11; Linux x86_64)"}


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"accept": "image/avif,image/webp,*/*;q=0.8", "referer": "http://evil.example/"}, False),
        ({"accept": "*/*", "referer": "http://10.0.0.7:50000/"}, False),
        ({"accept": "*/*", "referer": "http://10.0.0.7:5000.evil.example/"}, False),
        ({"accept": "*/*"}, False),  # a page may have its browser send no Referer
        ({"accept": "text/html", "referer": ""}, False),
        ({"accept": "application/json", "referer": "http://10.0.0.7:5000/docs"}, True),
        ({"user-agent": "curl/8.5.0", "accept": "*/*"}, True),
        ({"user-agent": ""}, True),
    ],
)
def test_no_page_joins_where_browsers_say_little(headers: dict[str, str], allowed: bool) -> None:
    assert refused("GET", "/snake/anna", AT_AN_ADDRESS | headers) == (None if allowed else ("forbidden", "Referer"))
    for method, path in (("GET", "/state"), ("GET", "/watch"), ("HEAD", "/snake/anna")):  # nothing changes by these
        assert refused(method, path, AT_AN_ADDRESS | headers) is None


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *(("GET", path, True) for path in ("/", "/watch", "/docs", "/sql", "/state", "/metrics")),
        ("HEAD", "/watch", True),
        ("GET", "/snake/anna", False),  # which would join
        *((method, "/reset", False) for method in ("POST", "DELETE", "PUT", "WEBSOCKET")),
    ],
)
def test_a_link_may_be_followed_to_what_is_only_read(method: str, path: str, allowed: bool) -> None:
    assert (refused(method, path, JSON | LINK) is None) == allowed


@pytest.mark.parametrize(
    ("media_type", "allowed"),
    [
        *((name, True) for name in ("application/json", "Application/JSON; charset=utf-8", "application/msgpack")),
        *((name, True) for name in ("application/x-msgpack", "application/octet-stream")),
        *((name, False) for name in ("", " ", "text/plain", "text/plain; application/json", "application/json, x")),
        *((name, False) for name in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "*/*")),
        *((name, False) for name in ("text/json", "application/xml", "application/jsonp")),
    ],
)
@pytest.mark.parametrize("path", ["/reset", "/v1/agents/main-0/pause", "/v1/sessions", "/v2/models/snake/infer"])
def test_a_post_says_what_it_is(path: str, media_type: str, allowed: bool) -> None:
    expected = None if allowed else ("unsupported_type", "Content-Type")
    assert refused("POST", path, OWN | {"content-type": media_type}) == (
        None if path.startswith("/v2/") and not media_type.strip() else expected
    )
    assert refused("GET", path, OWN | {"content-type": media_type}) is None


def test_a_post_without_a_type_is_of_clients_of_the_open_inference_protocol_only() -> None:
    assert refused("POST", "/v2/models/snake/infer", OWN) is None
    for path in ("/reset", "/v1/agents", "/v2", "/v2x", "/"):
        assert refused("POST", path, OWN) == ("unsupported_type", "Content-Type")


def test_errors_say_what_to_do() -> None:
    with pytest.raises(RequestError, match=r"start it with --set security.allowed_hosts=\[evil.example\]"):
        GUARD.check("GET", "/", {"host": "evil.example:5000"})
    assert "curl -H 'Content-Type: application/json'" in str(wrong_type("/reset", OWN))


@pytest.mark.parametrize(("kind", "start"), [("http", "http.response"), ("websocket", "websocket.http.response")])
def test_what_is_refused_does_not_reach_the_service(kind: str, start: str) -> None:
    reached: list[str] = []
    sent: list[MutableMapping[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def receive() -> MutableMapping[str, Any]:
        return {}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    def ask(path: str, host: bytes) -> None:
        scope = {"type": kind, "path": path, "headers": [(b"host", host), (b"x", b"y")]}
        asyncio.run(GUARD.protect(app)(scope | ({"method": "GET"} if kind == "http" else {}), receive, send))

    ask("/own", b"localhost")
    ask("/others", b"evil.example\xff")
    assert reached == ["/own"]
    assert [message["type"] for message in sent] == [f"{start}.start", f"{start}.body"]
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(
    ("method", "content_type", "expected"),
    [
        ("POST", b"application/json", ["POST", 200]),
        ("POST", b"text/plain", ["post", 415]),
        ("DELETE", b"text/plain", ["DELETE", 405]),
    ],
)
def test_a_route_sees_no_post_of_a_wrong_type(method: str, content_type: bytes, expected: list[object]) -> None:
    told: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append(scope["method"])
        if scope["method"] == "POST":
            await answer(send, 200, "text/plain", b"done")
        else:
            await answer_problem(send, RequestError("wrong_method", "no", allow="GET, POST"))

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            told.append(message["status"])

    async def receive() -> MutableMapping[str, Any]:
        return {}

    headers = [(b"host", b"localhost"), (b"content-type", content_type)]
    scope = {"type": "http", "method": method, "path": "/reset", "headers": headers}
    asyncio.run(GUARD.protect(app)(scope, receive, send))
    assert told == expected


TOKEN = "the-token-of-these-tests"  # noqa: S105
RIGHT = {"authorization": f"Bearer {TOKEN}"}


def guard_with_token(folder: Path, *open_to_all: str) -> Guard:
    file = folder / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return Guard("127.0.0.1", SecuritySection(token_file=str(file), open=open_to_all))


@pytest.mark.parametrize("said", [None, "", TOKEN, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token_health_and_files_of_pages_are_all_that_is_answered(tmp_path: Path, said: str | None) -> None:
    guard = guard_with_token(tmp_path)
    headers = OWN | ({} if said is None else {"authorization": said})
    for path in ("/healthz", "/readyz", "/watch", "/watch/watch.js", "/docs", "/static/dashboard.js"):
        guard.check("GET", path, headers)
    for method, path in [("GET", "/"), ("GET", "/state"), ("GET", "/metrics"), ("GET", "/v1/spec"), ("POST", "/reset")]:
        with pytest.raises(RequestError, match="Authorization: Bearer") as refused:
            guard.check(method, path, headers)
        assert (refused.value.code, refused.value.field) == ("unauthenticated", "Authorization")
    for method, path in [("POST", "/watch"), ("WEBSOCKET", "/static/x"), ("GET", "/healthz/"), ("GET", "//healthz")]:
        with pytest.raises(RequestError):
            guard.check(method, path, headers)


def test_with_the_token_everything_is_answered_that_no_page_elsewhere_asks(tmp_path: Path) -> None:
    guard = guard_with_token(tmp_path)
    guard.check("WEBSOCKET", "/v1/sessions/1/socket", OWN | RIGHT)
    guard.check("POST", "/reset", OWN | {"authorization": f"bearer  {TOKEN}"})
    with pytest.raises(RequestError) as refused:
        guard.check("GET", "/state", OWN | RIGHT | {"sec-fetch-site": "cross-site"})
    assert refused.value.code == "forbidden"


@pytest.mark.parametrize(
    ("name", "answered", "others"),
    [
        ("infer", ["/v2", "/v2/models/m/infer", "/v1/models"], ["/v1/agents", "/v20", "/metrics", "/v1/models/x"]),
        ("watch", ["/state"], ["/", "/snake/a", "/reset", "/snake/a/move"]),
        ("metrics", ["/metrics"], ["/v2", "/state", "/metrics/"]),
    ],
)
def test_what_is_open_is_answered_without_a_token(
    tmp_path: Path, name: str, answered: list[str], others: list[str]
) -> None:
    guard = guard_with_token(tmp_path, name)
    for path in answered:
        guard.check_token(path, None)
    for path in others:
        with pytest.raises(RequestError):
            guard.check_token(path, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "::ffff:127.0.0.1"])
def test_a_service_for_this_machine_alone_needs_no_token(host: str) -> None:
    Guard(host, SecuritySection())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "fe80::1", "192.168.1.1"])  # noqa: S104
def test_a_service_for_others_needs_a_token_or_trust(host: str, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"security\.token_file=FILE, or .* security\.trust_network=true"):
        Guard(host, SecuritySection())
    Guard(host, SecuritySection(trust_network=True))
    guard_with_token(tmp_path)
    Guard(host, SecuritySection(token_file=str(tmp_path / "token")))


def test_all_addresses_of_a_name_must_be_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = ["127.0.1.1", "::1"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 0)) for number in numbers]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    Guard("gpu-box", SecuritySection())
    found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 0)))
    with pytest.raises(ServiceError, match="listening on gpu-box without a token"):
        Guard("gpu-box", SecuritySection())


def test_refused_requests_are_counted_and_pages_show_where_the_token_goes(tmp_path: Path) -> None:
    guard = guard_with_token(tmp_path)
    file = SecuritySection(token_file=str(tmp_path / "token"))
    sent: list[MutableMapping[str, Any]] = []

    async def entrance(send: Any, status: int) -> None:
        await answer(send, status, "text/html", b"where is your token?")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, "text/plain", b"yes")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {}

    def ask(guard: Guard, **headers: str) -> tuple[int, bytes]:
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": fields}
        sent.clear()
        asyncio.run(guard.protect(app)(scope, receive, send))
        return sent[0]["status"], sent[1]["body"]

    assert ask(guard, accept="text/html")[0] == ask(guard)[0] == 401
    assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
    assert ask(guard, host="evil.example")[0] == 403
    assert ask(guard, **RIGHT) == (200, b"yes")
    samples = next(iter(guard.refused.collect())).samples
    counted = {one.labels["status"]: one.value for one in samples if one.name.endswith("_total")}
    assert (counted["401"], counted["403"]) == (2, 1)
    guard = Guard("127.0.0.1", file, entrance)
    assert ask(guard, accept="text/html,*/*") == (401, b"where is your token?")
    assert b"unauthenticated" in ask(guard, accept="*/*")[1]
    assert b"forbidden" in ask(guard, accept="text/html", host="evil.example")[1]
    assert ask(guard, accept="text/html", **RIGHT) == (200, b"yes")
