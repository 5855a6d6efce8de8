"""The page at /docs: routes to read and to try, with scripts of its own, so that it works without a network."""

from __future__ import annotations

from importlib import resources

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


def docs_routes(title: str, openapi_url: str = "/openapi.json") -> list[Route]:
    """Return the routes of the page and of what it loads."""
    folder = resources.files("fastapi_swagger.resources")

    async def page(request: Request) -> Response:
        script, style, icon = (f"/docs/{name}" for name in _FILES)
        return get_swagger_ui_html(
            openapi_url=openapi_url,
            title=title,
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=icon,
        )

    async def file(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return Response((folder / name).read_bytes(), media_type=_FILES[name])

    files = [Route(f"/docs/{name}", file, methods=["GET"], include_in_schema=False) for name in _FILES]
    return [Route("/docs", page, methods=["GET"], include_in_schema=False), *files]
