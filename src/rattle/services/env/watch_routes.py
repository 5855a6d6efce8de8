"""The watch page: the agent API's world in a browser, and a snake to steer."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

#: Every file of the page and its media type; `watch.html` is the page itself.
_FILES = {
    "watch.html": "text/html",
    "watch.css": "text/css",
    "watch.js": "text/javascript",
    "board.js": "text/javascript",
    "link.js": "text/javascript",
    "play.js": "text/javascript",
    "world.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

_HEADERS = {
    "Cache-Control": "no-store",  # a newer server's page must not run an older one's scripts
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def watch_routes() -> list[Route]:
    """Return the routes of the page, `/watch`, and of the files that it needs, `/watch/...`."""
    folder = resources.files(__package__) / "watch"
    return [_route(name, (folder / name).read_bytes(), media_type) for name, media_type in _FILES.items()]


def _route(name: str, content: bytes, media_type: str) -> Route:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    path = "/watch" if name == "watch.html" else f"/watch/{name}"
    return Route(path, answer, methods=["GET"], include_in_schema=False)
