"""Files of pages for browsers: what comes with the package, and headers that let nothing else in."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

HEADERS = {
    "Cache-Control": "no-store",  # a newer server's page must not run an older one's scripts
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def shared_files() -> list[Traversable]:
    """Return what pages share: the scripts that draw a board of snakes, and the icon."""
    return list((resources.files(__package__) / "board").iterdir())


def file_route(path: str, file: Traversable) -> Route:
    """Return the route that answers with a file as it is; the ending of its name says what it holds."""
    content, media_type = file.read_bytes(), _MEDIA_TYPES[file.name.rpartition(".")[2]]

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return Route(path, answer, methods=["GET"], include_in_schema=False)


def file_routes(folder: str, files: Iterable[Traversable]) -> list[Route]:
    """Return the routes FOLDER/NAME of files."""
    return [file_route(f"{folder}/{file.name}", file) for file in files]


def compressed_route(path: str, file: Traversable) -> Route:
    """Return the route of a large script whose path changes with its content: browsers keep it."""
    content, media_type = file.read_bytes(), _MEDIA_TYPES[file.name.rpartition(".")[2]]
    small = gzip.compress(content, 6)
    headers = HEADERS | {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}

    async def answer(request: Request) -> Response:
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(small, media_type=media_type, headers=headers | {"Content-Encoding": "gzip"})
        return Response(content, media_type=media_type, headers=headers)

    return Route(path, answer, methods=["GET"], include_in_schema=False)
