"""Who is answered: those who know the token, at the service's own names; pages of other sites never.

Any page in a browser can send requests to services on the same machine, and to all that the machine reaches. It is kept
out where it says which site it is of, and where its own name has been bound to a service's address (DNS rebinding).
Other programs can send any headers: the token keeps them out. Every service that listens for the network must have it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address

from rattle.services.utils.asgi import App, Message, Receive, Scope, Send, answer_problem, refuse
from rattle.services.utils.measures import REFUSED_REQUESTS
from rattle.services.utils.server_tls import server_tls
from rattle.services.utils.sockets import check_loopback
from rattle.settings.services import SecuritySection
from rattle.tokens import is_right, read_token
from rattle.wire.encoding import JSON, MEDIA_TYPES, MSGPACK
from rattle.wire.problems import RequestError

#: The method that routes see in place of POST where the type is wrong. None has it, so none acts: each answers 405.
_UNTYPED = "post"
#: The headers that are looked at; pages cannot change those that begin with Sec-.
_HEADERS = ("host", "origin", *(f"sec-fetch-{what}" for what in ("site", "mode", "dest")), "content-type")
_HEADERS += ("accept", "authorization", "user-agent", "referer")
_BY_BYTES = {name.encode(): name for name in _HEADERS}
#: A name or an address, in brackets or not, and a port.
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?")
#: To read what is below joins the game.
_JOINS = "/snake/"
#: To ask what is below changes nothing, and clients of the Open Inference Protocol send no Content-Type.
_MAY_LACK_TYPE = "/v2/"
_TENSORS = "application/octet-stream"
#: What is asked without a token: whether a service lives, and files that come with the package. They hold no secrets,
#: and a browser cannot send a token for what it loads by itself: a page's script sends it for what the page shows.
_HEALTH = ("/healthz", "/readyz")
_FILES = re.compile(r"/watch(/.*)?|/docs(/.*)?|/openapi\.json|/static/.*")
#: What `security.open` lets anybody ask: over HTTP the paths, for `watch` only to read; over gRPC the services.
_OPEN = {
    "infer": re.compile(r"/v2(/.*)?|/v1/models|/inference\.GRPCInferenceService/.*"),
    "watch": re.compile(r"/state"),
    "metrics": re.compile(r"/metrics"),
}


#: Sends a page with a status.
Entrance = Callable[[Send, int], Awaitable[None]]


class Guard:
    """What a service that listens at a host answers to whom; `tls` is how it speaks TLS, None where it does not.

    `name` is the host that its clients are told, None where that is the address that it listens on.

    Who asks for a page without the token is shown the `entrance`, whose script gets the page with it; None: there are
    no such pages. Raises a RattleError where it may not listen there, or where that is set up wrong.
    """

    def __init__(
        self,
        host: str,
        security: SecuritySection,
        entrance: Entrance | None = None,
        advertise: str | None = None,
    ) -> None:
        self._entrance = entrance
        #: How many requests were refused, for the registry of the service.
        self.refused = REFUSED_REQUESTS.live(None)
        self._token = read_token(security.token_file)
        if self._token is None and not security.trust_network:
            check_loopback(host)
        self.tls = server_tls(host, security, advertise)
        self.name = advertise if self.tls is None else self.tls.name
        self._open = [_OPEN[name] for name in security.open]
        given = (host, *security.allowed_hosts, *([] if advertise is None else [advertise]))
        names = {"localhost", *(name.lower() for name in given)}
        self._is_own = lru_cache(64)(lambda host: _is_own(host, names))

    def protect(self, app: App) -> App:
        """Return an application (ASGI) that is asked only what `check` lets pass."""

        async def protected(scope: Scope, receive: Receive, send: Send) -> None:
            headers = {_BY_BYTES[name]: str(value, "latin-1") for name, value in scope["headers"] if name in _BY_BYTES}
            try:
                self.check(scope.get("method", "WEBSOCKET"), scope["path"], headers)
            except RequestError as error:
                self.refused.labels(str(error.status)).inc()
                is_page = error.code == "unauthenticated" and scope.get("method") == "GET"
                if self._entrance is not None and is_page and "text/html" in headers.get("accept", ""):
                    await self._entrance(send, error.status)
                else:
                    await refuse(scope, receive, send, error)
                return
            wrong = wrong_type(scope["path"], headers) if scope.get("method") == "POST" else None
            if wrong is None:
                await app(scope, receive, send)
            else:
                await app({**scope, "method": _UNTYPED}, receive, _instead_of_wrong_method(send, wrong))

        return protected

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Raise RequestError for what a page elsewhere has sent; names of headers are in lower case.

        A link from another site to a page is no harm, as long as reading changes nothing.
        """
        host = headers.get("host")  # which only programs leave out
        if host is not None and not self._is_own(host):
            raise RequestError("forbidden", _not_own(host), "Host")
        field = _tells_of_another_site(headers)
        if field and not _is_link(method, path, headers):
            raise RequestError("forbidden", "pages of other sites may ask nothing here, only link to pages", field)
        if field is None and _may_join_unasked(method, path, headers):
            raise RequestError("forbidden", "a browser may join from a page of this service only", "Referer")
        may_read = method in ("GET", "HEAD") and _FILES.fullmatch(path)
        if self._token is not None and path not in _HEALTH and not may_read:
            self.check_token(path, headers.get("authorization"))

    def check_token(self, path: str, authorization: str | None) -> None:
        """Raise RequestError unless the token is there, or is not needed to ask for a path, or to call a method."""
        if self._token is None or is_right(authorization, self._token):
            return
        if any(one.fullmatch(path) for one in self._open):
            return
        wrong = "this is not the token that is asked for here" if authorization else "a token is asked for here"
        raise RequestError("unauthenticated", f"{wrong}: send the header Authorization: Bearer TOKEN", "Authorization")


def _is_own(host: str, names: set[str]) -> bool:
    """Whether a Host header has one of these names, or an address as a number, which no page can be named after."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower()
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return name.removesuffix(".") in names
    return True


def _not_own(host: str) -> str:
    found = _HOST.fullmatch(host)
    name = found[1] if found else host
    return (
        f"this service is not known as '{name[:100]}': if that is a name of its machine, start it with "
        f"--set security.allowed_hosts=[{name[:100]}], or ask it by its address"
    )


def _tells_of_another_site(headers: Mapping[str, str]) -> str | None:
    """Return the header that says that a page of another origin asks, None where none does.

    Old browsers, and all without TLS at other addresses than those of the own machine, send Origin alone, and not with
    every GET.
    """
    if (site := headers.get("sec-fetch-site")) is not None:
        return None if site.lower() in ("same-origin", "none") else "Sec-Fetch-Site"
    if (origin := headers.get("origin")) is not None:
        return None if _is_of_own_page(origin, headers) else "Origin"
    return None


def _may_join_unasked(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser that says nothing of its page wants to join, so that the page may be of another site.

    Browsers send neither Sec-Fetch-Site nor Origin for an image or a link without TLS at other addresses than those of
    the own machine. All call themselves Mozilla, and no page changes that for what its elements load.
    """
    if method != "GET" or not path.startswith(_JOINS) or "sec-fetch-site" in headers or "origin" in headers:
        return False
    is_browser = headers.get("user-agent", "").startswith("Mozilla/")
    return is_browser and not _is_of_own_page(headers.get("referer", ""), headers)


def _is_of_own_page(url: str, headers: Mapping[str, str]) -> bool:
    """Whether a URL is of the origin that is asked."""
    authority = url.partition("://")[2].partition("/")[0]
    return authority.lower() == headers.get("host", "").lower()


def _is_link(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether somebody goes from one page to another, and does nothing else."""
    goes = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return goes and method in ("GET", "HEAD") and not path.startswith(_JOINS)


def wrong_type(path: str, headers: Mapping[str, str]) -> RequestError | None:
    """Return the error of a POST that pages may send without asking first: of the type of a form, or of none."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in (*MEDIA_TYPES, _TENSORS) or (not media_type and path.startswith(_MAY_LACK_TYPE)):
        return None
    got = f"got {media_type[:60]!r}" if media_type else "and there is none"
    return RequestError(
        "unsupported_type",
        f"the Content-Type of a POST must be {JSON} (curl -H 'Content-Type: {JSON}') or {MSGPACK}, also where its body "
        f"is empty, {got}",
        "Content-Type",
    )


def _instead_of_wrong_method(send: Send, error: RequestError) -> Send:
    """Return a `send` (ASGI) that sends an error in place of the answer that a route takes POST."""
    replaced = False

    async def replacing(message: Message) -> None:
        nonlocal replaced
        if message["type"] == "http.response.start" and message["status"] == 405:
            allowed = str(dict(message["headers"]).get(b"allow", b""), "latin-1").split(", ")
            if replaced := "POST" in allowed:
                await answer_problem(send, error)
        if not replaced:
            await send(message)

    return replacing
