"""The dashboard as one ASGI application: pages, the files that they need, health and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, PackageLoader
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rattle import __version__
from rattle.analytics.store.connection import StoreError
from rattle.errors import RattleError
from rattle.services.dashboard import compare_page, replay_page, run_page, runs_page, shown, sql_page
from rattle.services.dashboard.source import DashboardError, NotThere, RunSource
from rattle.services.dashboard.views import CompareView, EpisodesView, ReplayPageView, RunsView, RunView, SqlView, View
from rattle.services.utils.asgi import Message, Receive, Scope, Send, answer, exposition
from rattle.services.utils.guard import Guard
from rattle.services.utils.measures import REQUEST_SECONDS, REQUESTS
from rattle.services.utils.pages import HEADERS, compressed_route, file_routes, shared_files
from rattle.services.utils.serving import freeze_gc
from rattle.text import one_line
from rattle.wire.problems import PROBLEM_TYPE, RequestError, problem_body

_PAGES: tuple[tuple[type[View], str, Callable[[RunSource, Any], dict[str, Any]]], ...] = (
    (RunsView, "runs.html", runs_page.context),
    (CompareView, "compare.html", compare_page.context),
    (RunView, "run.html", run_page.context),
    (EpisodesView, "episodes.html", replay_page.episodes_context),
    (ReplayPageView, "replay.html", replay_page.context),
    (SqlView, "sql.html", sql_page.context),
)
#: What requests are counted as, by their paths.
_APIS = {kind.path: name.removesuffix(".html") for kind, name, _ in _PAGES}
_CHARTS = f"/static/plotly-{metadata.version('plotly')}.min.js"
#: The charting library styles its figures by itself, and offers them as pictures.
_PAGE_HEADERS = HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}


async def entrance(send: Send, status: int) -> None:
    """Send the page that asks for the token, and shows the page that was asked for to those who have it."""
    content = (resources.files(__package__) / "static" / "enter.html").read_bytes()
    headers = {**_PAGE_HEADERS, "WWW-Authenticate": "Bearer"}.items()
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    await answer(send, status, "text/html; charset=utf-8", content, encoded)


def _status_of(error: Exception) -> int:
    """Return the HTTP status of what cannot be shown: a store that cannot be read may be there later."""
    if isinstance(error, StoreError):
        return 503
    return error.status if isinstance(error, DashboardError) else 404


class DashboardService:
    """Pages over a source of runs (ASGI)."""

    def __init__(self, source: RunSource, guard: Guard) -> None:
        self._source = source
        self._registry = CollectorRegistry()
        self._registry.register(guard.refused)
        self._requests = REQUESTS.live(self._registry)
        self._seconds = REQUEST_SECONDS.live(self._registry)
        self._templates = Environment(
            loader=PackageLoader(__package__), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self._templates.filters |= shown.FILTERS
        self._templates.globals |= {"charts_script": _CHARTS, "version": __version__, "source": source.title}
        self._app = Starlette(
            routes=[*map(self._page, _PAGES), *self._files(), *self._operation()],
            middleware=[Middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)],
            exception_handlers=dict.fromkeys((RattleError, HTTPException, Exception), self._problem),
        )
        self._app.router.redirect_slashes = False  # a path has one name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI), and time it up to its first bytes."""
        began, api = time.perf_counter(), _APIS.get(scope.get("path", ""), "operation")

        async def noticing(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.labels(api, message["status"]).inc()
                self._seconds.labels(api).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, noticing)

    async def start(self) -> None:
        """Get ready."""
        freeze_gc()

    async def stop(self) -> None:
        """Stop: pages that are being made are finished."""
        self._source.close()

    def _page(self, page: tuple[type[View], str, Callable[[RunSource, Any], dict[str, Any]]]) -> Route:
        kind, name, context = page
        template = self._templates.get_template(name)

        def answer(request: Request) -> Response:  # in a thread: a page may have much to read
            view = kind.read(request.query_params)
            content = template.render(context(self._source, view), view=view)
            return Response(content, media_type="text/html", headers=_PAGE_HEADERS)

        return Route(kind.path, answer, methods=["GET"])

    def _files(self) -> list[BaseRoute]:
        own = (resources.files(__package__) / "static").iterdir()
        library = resources.files("plotly") / "package_data" / "plotly.min.js"
        return [*file_routes("/static", [*own, *shared_files()]), compressed_route(_CHARTS, library)]

    def _operation(self) -> list[BaseRoute]:
        async def health(request: Request) -> Response:
            return JSONResponse({"status": "ok"})

        def ready(request: Request) -> Response:  # in a thread: a store may take its time
            try:
                self._source.check()
            except RattleError as error:
                return Response(problem_body(RequestError("not_ready", str(error))), 503, media_type=PROBLEM_TYPE)
            return JSONResponse({"status": "ready"})

        async def metrics(request: Request) -> Response:
            media_type, numbers = exposition(self._registry, request.scope)
            return Response(numbers, media_type=media_type)

        return [Route("/healthz", health), Route("/readyz", ready), Route("/metrics", metrics)]

    def _problem(self, request: Request, error: Exception) -> Response:
        """Answer what cannot be shown with a page that says why."""
        if isinstance(error, HTTPException):
            status = error.status_code
            said = f"there is no page {request.url.path}" if status == 404 else error.detail
        elif isinstance(error, RattleError):
            status, said = _status_of(error), str(error)
        else:  # the log has the traceback
            status, said = 500, f"the dashboard has failed: {one_line(f'{type(error).__name__}: {error}', 300)}"
        missing = isinstance(error, HTTPException | NotThere)
        content = self._templates.get_template("problem.html").render(said=said, status=status, missing=missing)
        return Response(content, status, headers=_PAGE_HEADERS, media_type="text/html")
