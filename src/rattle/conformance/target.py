"""The server under test: ordinary requests to it, and a record of what was sent and came back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rattle.addresses import parse_address
from rattle.conformance.errors import ConformanceError
from rattle.conformance.judging import Failed, expect, fail, kind, shorten
from rattle.tls import tls_context
from rattle.tokens import TokenFileError, token_for

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"
PROBLEM_TYPE = "application/problem+json"
#: How many of the last requests a failure shows.
_EVIDENCE = 3


@dataclass(frozen=True)
class HttpAnswer:
    """What came back for a request; `request` says which, for the record."""

    request: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def media_type(self) -> str:
        """Return the Content-Type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def __str__(self) -> str:
        return f"{self.status} {self.media_type or '(no Content-Type)'} {readable(self.media_type, self.content)}"

    def expect_status(self, status: int) -> HttpAnswer:
        """End the check unless the answer has this status."""
        expect(
            self.status == status,
            f"{self.request} is answered with status {self.status}, not {status}",
            expected=f"status {status}",
            got=str(self),
        )
        return self

    def object(self, status: int = 200) -> dict[str, Any]:
        """Return the object in the body, JSON or MessagePack by Content-Type; ends the check where there is none."""
        self.expect_status(status)
        expect(
            self.media_type in (JSON_TYPE, MSGPACK_TYPE, PROBLEM_TYPE),
            f"{self.request} is answered with Content-Type '{self.headers.get('content-type', '')}'",
            expected=f"Content-Type: {JSON_TYPE}",
            got=str(self),
        )
        try:
            value = decode(self.media_type, self.content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            fail(f"the body of the answer to {self.request} is not valid {self.media_type}: {error}", got=str(self))
        expect(isinstance(value, dict), f"{self.request} is answered with {kind(value)}, not an object", got=str(self))
        found: dict[str, Any] = value
        return found

    def problem(self, status: int, code: str | tuple[str, ...], field: str | None = None) -> dict[str, Any]:
        """Return the problem that the answer must be: one of the codes, and the field that is wrong or a part of it."""
        self.expect_status(status)
        expect(
            self.media_type == PROBLEM_TYPE,
            f"{self.request} is refused with Content-Type '{self.media_type}': errors are {PROBLEM_TYPE}",
            expected=f"Content-Type: {PROBLEM_TYPE}",
            got=str(self),
        )
        body = self.object(status)
        codes = (code,) if isinstance(code, str) else code
        expect(
            body.get("code") in codes,
            f"{self.request} is refused with code {body.get('code')!r}, not {' or '.join(map(repr, codes))}",
            expected=f'"code": "{codes[0]}"',
            got=str(self),
        )
        if field is not None:
            expect(
                str(body.get("field")).split(".")[0].split("[")[0] == field,
                f"the problem for {self.request} does not name the part that is wrong: field is {body.get('field')!r}",
                expected=f'"field": "{field}"',
                got=str(self),
            )
        return body


class Target:
    """A server at `url`; every wait for it ends after `timeout` seconds."""

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        try:
            self.address = parse_address(url if "://" in url else f"http://{url}")
            self.address = replace(self.address, token=token_for(self.address.url))
        except (ValueError, TokenFileError) as error:
            raise ConformanceError(str(error)) from None
        self.url = self.address.url  # as it is shown: without credentials
        self.timeout = timeout
        self.evidence: list[str] = []
        #: Two runs of the checker must not take each other's snakes for their own.
        self._snakes = (f"check-{secrets.token_hex(3)}-{number}" for number in count(1))
        self._facts: dict[Callable[[Target], Any], tuple[Any, list[str]]] = {}
        self._client = self.client()

    @property
    def websocket_url(self) -> str:
        """Return the URL below which WebSockets are."""
        return f"ws{self.url.removeprefix('http')}"

    def client(self) -> httpx.Client:
        """Return a client of ordinary requests, with the credentials that the server may want."""
        import httpx  # the checks are listed where it is not installed too

        return httpx.Client(
            base_url=self.url,
            timeout=self.timeout,
            headers=self.address.headers,
            verify=tls_context() if self.address.tls else False,
            follow_redirects=False,
            trust_env=False,
        )

    def head(self, method: str, path: str) -> str:
        """Return the first lines of a request that is sent over a plain socket; more headers may follow."""
        address = self.address
        lines = (f"{method} {address.prefix}{path} HTTP/1.1", f"Host: {address.authority}")
        return "".join(f"{line}\r\n" for line in (*lines, *(f"{key}: {val}" for key, val in address.headers.items())))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def new_snake(self) -> str:
        """Return an id that no snake has had."""
        return next(self._snakes)

    def note(self, line: str) -> None:
        """Record something that was sent or came back, as evidence; only the last few are kept."""
        self.evidence = [*self.evidence[1 - _EVIDENCE :], line]

    def fact(self, find: Callable[[Target], T]) -> T:
        """Return what `find` learns about the server, learnt once; several checks judge it."""
        if find not in self._facts:
            self._facts[find] = (find(self), self.evidence)
        found: T
        found, evidence = self._facts[find]
        self.evidence = self.evidence or evidence
        return found

    def request(
        self,
        method: str,
        path: str,
        value: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """Send a request, its body `value` as JSON or `content` as it is, and return the answer.

        Ends the check where no answer comes.
        """
        import httpx

        sent = {"Accept-Encoding": "identity"}
        if value is not None:
            content = msgspec.json.encode(value)
        if content is not None or method == "POST":
            sent["Content-Type"] = JSON_TYPE
        sent |= headers or {}
        shown = f"{method} {path}"
        if content is not None:
            shown += " " + shorten(readable(sent.get("Content-Type", ""), content), 160)
        try:
            response = self._client.request(method, path, content=content, headers=sent)
        except httpx.TimeoutException:
            raise self._no_answer(shown, f"there is no answer within {self.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise self._no_answer(shown, f"the connection breaks: {error or type(error).__name__}") from None
        answer = HttpAnswer(shown, response.status_code, response.headers, response.content)
        self.note(f"{shown}  ->  {shorten(str(answer), 200)}")
        return answer

    def _no_answer(self, request: str, what: str) -> Failed:
        self.note(f"{request}  ->  {what}")
        return Failed(f"{request}: {what}", expected="an answer")


def decode(media_type: str, content: bytes) -> Any:
    """Return the value of a body in JSON or MessagePack."""
    return msgspec.msgpack.decode(content) if media_type == MSGPACK_TYPE else msgspec.json.decode(content)


def _plain(value: Any) -> Any:
    """Return a MessagePack value with its arrays as words."""
    if isinstance(value, dict) and value.keys() == {"dtype", "shape", "data"}:
        data = value["data"]
        return f"<{value['dtype']} {value['shape']}, {len(data)} bytes>" if isinstance(data, bytes) else value
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, dict) else value


def readable(media_type: str, content: bytes) -> str:
    """Return a body as a person reads it."""
    if media_type.startswith(MSGPACK_TYPE):
        try:
            return f"(MessagePack) {_plain(msgspec.msgpack.decode(content))}"
        except (msgspec.DecodeError, UnicodeDecodeError):
            return f"({len(content)} bytes that are not MessagePack) {content[:80]!r}"
    return content[:2000].decode("utf-8", "backslashreplace")
