"""The watch page's files are served as they are, with headers that let nothing else in."""

from __future__ import annotations

import asyncio
import re
from importlib import resources

import httpx
import pytest
from starlette.applications import Starlette

from rattle.services.env.watch_routes import watch_routes
from rattle.services.utils.pages import shared_files

SOURCES = {file.name: file for file in [*(resources.files("rattle.services.env") / "watch").iterdir(), *shared_files()]}
FILES = sorted(SOURCES)
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def address(name: str) -> str:
    return "/watch" if name == "watch.html" else f"/watch/{name}"


def ask(path: str, method: str = "GET") -> httpx.Response:
    """Send one request to an application that has these routes only."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=watch_routes()))
        async with httpx.AsyncClient(transport=transport, base_url="http://env") as client:
            return await client.request(method, path)

    return asyncio.run(send())


def test_every_file_has_a_route_and_every_route_a_file() -> None:
    assert sorted(route.path for route in watch_routes()) == sorted(map(address, FILES))
    assert {"/watch", "/watch/watch.css", "/watch/watch.js"} <= {route.path for route in watch_routes()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_served_as_it_is(name: str) -> None:
    answer = ask(address(name))
    assert answer.status_code == 200
    assert answer.content == SOURCES[name].read_bytes()
    assert answer.headers["content-type"].split(";")[0] == TYPES[name.rpartition(".")[2]]


@pytest.mark.parametrize("name", FILES)
def test_nothing_else_gets_in_and_nothing_is_kept(name: str) -> None:
    headers = ask(address(name)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    text = ask(address(name)).text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//[a-z]+\.", text)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_what_the_page_names_is_served() -> None:
    page = ask("/watch").text
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert named
    for script in (name for name in FILES if name.endswith(".js")):
        named |= {f"watch/{other}" for other in re.findall(r'from "\./([^"]+)"', ask(address(script)).text)}
    assert named == {f"watch/{name}" for name in FILES if name != "watch.html"}


def test_only_reading_is_answered() -> None:
    assert ask("/watch", "HEAD").status_code == 200
    assert ask("/watch", "POST").status_code == 405
    assert ask("/watch/../pyproject.toml").status_code == 404
    assert ask("/watch/watch.html").status_code == 404
