"""Addresses, the limit of open files, and bodies that arrive as they like."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.certificates import make_set
from rattle.services.utils.asgi import ClientGone, Receive, answer_problem, read_body
from rattle.services.utils.serving import _Loop, _raise_file_limit
from rattle.services.utils.sockets import EVERYWHERE, ServiceError, address_of, listen, url_of
from rattle.wire.problems import RequestError


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1")])
def test_a_socket_has_an_address_to_open(host: str, url: str) -> None:
    with listen(host, 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) in (f"http://{url}:{port}", f"http://[::1]:{port}")
        with socket.create_connection(("localhost", port), timeout=240):
            pass  # it listens already


def test_an_address_of_version_6_stands_in_brackets() -> None:
    try:
        listener = listen("::1", 0)
    except ServiceError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


class _Routed(socket.socket):
    """Asks for routes: they lead from 10.77.1.2, and there are none of IPv6."""

    def connect(self, address: Any) -> None:
        if ":" in address[0]:
            raise OSError("no route")
        super().connect(("127.0.0.1", address[1]))

    def getsockname(self) -> Any:
        return "10.77.1.2", super().getsockname()[1]


@pytest.mark.parametrize("host", EVERYWHERE)
def test_who_listens_everywhere_says_an_address_that_others_reach(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", _Routed)
    assert address_of(host, 5000) == "10.77.1.2:5000"
    monkeypatch.setattr(_Routed, "connect", lambda *_: _no_route())
    assert address_of(host, 5000) == ("127.0.0.1:5000" if host == "0.0.0.0" else "[::1]:5000")  # noqa: S104


def _no_route() -> None:
    raise OSError("no route")


def test_a_service_says_what_it_is_told_to_say() -> None:
    with listen("0.0.0.0", 0) as listener:  # noqa: S104
        port = listener.getsockname()[1]
        assert url_of(listener, "gpu-box") == f"http://gpu-box:{port}"
        assert url_of(listener, "2001:db8::7", tls=True) == f"https://[2001:db8::7]:{port}"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_named(kind: socket.SocketKind) -> None:
    with listen("127.0.0.1", 0, kind) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} of 127\.0\.0\.1: Address already in use; choose another"):
            listen("127.0.0.1", port, kind)


@pytest.mark.parametrize("host", ["no such host", "x" * 300, "a..b", "\N{SNOWMAN}" * 70])
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(ServiceError, match=r"cannot listen on .*choose another host"):
        listen(host, 0)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ServiceError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_the_limit_of_open_files_is_raised_and_never_lowered() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        _raise_file_limit(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)
        _raise_file_limit(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (356, hard)
        _raise_file_limit(10**9)
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == (hard if hard != resource.RLIM_INFINITY else 10**9 + 256)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def receiving(parts: Iterable[bytes], *, gone: bool = False) -> Receive:
    """Return an ASGI `receive` of a body in parts, whose client may go away before its end."""
    rest = list(parts)

    async def receive() -> MutableMapping[str, Any]:
        if not rest:
            return {"type": "http.disconnect"}
        part = rest.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(rest) or gone}

    return receive


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=6), st.integers(0, 30), st.booleans())
def test_a_body_arrives_whole_or_is_too_large_or_its_client_has_gone(parts: list[bytes], most: int, gone: bool) -> None:
    whole = b"".join(parts)
    try:
        said: object = asyncio.run(read_body(scope(), receiving(parts, gone=gone), most))
    except RequestError as error:
        said = error.code
    except ClientGone:
        said = "gone"
    if len(whole) <= most:
        assert said == ("gone" if gone else whole)
    else:
        assert said in (("too_large", "gone") if gone else ("too_large",))


@pytest.mark.parametrize("length", ["11", "999999999999999999"])
def test_a_length_above_the_limit_is_refused(length: str) -> None:
    with pytest.raises(RequestError, match="larger than the 10 bytes"):
        asyncio.run(read_body(scope(content_length=length), receiving([b"x" * 11]), 10))


def test_who_asks_before_sending_is_refused_before_sending() -> None:
    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("it was told to go on")

    with pytest.raises(RequestError, match="larger"):
        asyncio.run(read_body(scope(content_length="11", expect="100-continue"), receive, 10))


def test_a_length_that_is_no_number_does_no_harm() -> None:
    headers = {"headers": [(b"content-length", "\N{SUPERSCRIPT TWO}".encode("latin-1"))]}
    assert asyncio.run(read_body(headers, receiving([b"ab"]), 10)) == b"ab"


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (RequestError("full", "no room"), {b"retry-after": b"1"}),
        (RequestError("wrong_method", "no", allow="GET, POST"), {b"allow": b"GET, POST"}),
        (RequestError("too_large", "too much"), {b"connection": b"close"}),
        (RequestError("unknown_path", "nothing"), {}),
    ],
)
def test_what_a_problem_says_beside_its_body(error: RequestError, headers: dict[bytes, bytes]) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(answer_problem(send, error))
    said = dict(sent[0]["headers"])
    assert said.pop(b"content-type") == b"application/problem+json"
    assert int(said.pop(b"content-length")) == len(sent[1]["body"])
    assert said == headers
    assert sent[0]["status"] == error.status


def test_a_connection_with_tls_ends_although_its_client_says_nothing(tmp_path: Path) -> None:
    authority, certificate, key = make_set(tmp_path, [])
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate, key)
    client_side = ssl.create_default_context(cafile=authority)

    async def run() -> None:
        ended = asyncio.Event()

        class Goodbye(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transport.close()

            def connection_lost(self, error: Exception | None) -> None:
                ended.set()

        server = await asyncio.get_running_loop().create_server(Goodbye, "127.0.0.1", 0, ssl=server_side)
        address = server.sockets[0].getsockname()
        with await asyncio.to_thread(socket.create_connection, address) as plain:
            kept = await asyncio.to_thread(client_side.wrap_socket, plain, server_hostname="localhost")
            async with asyncio.timeout(20):  # of the 30 seconds that it would take
                await ended.wait()
            kept.close()
        server.close()

    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(run())
