"""The watch page: the agent API's world in a browser, and a snake to steer."""

from __future__ import annotations

from importlib import resources

from starlette.routing import Route

from rattle.services.utils.pages import file_route, file_routes, shared_files

_PAGE = "watch.html"


def watch_routes() -> list[Route]:
    """Return the routes of the page, `/watch`, and of the files that it needs, `/watch/...`."""
    folder = resources.files(__package__) / "watch"
    others = [file for file in folder.iterdir() if file.name != _PAGE]
    return [file_route("/watch", folder / _PAGE), *file_routes("/watch", [*others, *shared_files()])]
