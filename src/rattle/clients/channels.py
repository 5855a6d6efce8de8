"""Channels of gRPC, made in one place: what calls carry, and how servers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from rattle.addresses import HTTP, why_no_tls
from rattle.clients.addresses import GRPC_WITHOUT_PROXY
from rattle.tls import system_authorities, tls_context, tls_files
from rattle.tokens import bearer, token_for

Options = Sequence[tuple[str, Any]]


def open_channel(address: str, options: Options = ()) -> grpc.Channel:
    """Return a channel to HOST:PORT, whose calls carry the token of this process where there is one.

    It uses TLS where this process has an authority to trust or a certificate of its own, unless the address begins
    with http:// or https://, which decides. Raises TlsFileError.
    """
    options = [GRPC_WITHOUT_PROXY, *options]
    target, uses_tls = _read(address)
    channel = (
        grpc.secure_channel(target, _credentials(), options) if uses_tls else grpc.insecure_channel(target, options)
    )
    token = token_for(target)
    return channel if token is None else grpc.intercept_channel(channel, _Bearer(token))


def open_async_channel(address: str, options: Options = ()) -> grpc.aio.Channel:
    """Return the same for asyncio."""
    target, uses_tls = _read(address)
    token = token_for(target)
    interceptors = None if token is None else [_AsyncBearer(token)]
    options = [GRPC_WITHOUT_PROXY, *options]
    if not uses_tls:
        return grpc.aio.insecure_channel(target, options, interceptors=interceptors)
    return grpc.aio.secure_channel(target, _credentials(), options, interceptors=interceptors)


def why_no_channel(address: str) -> str | None:
    """Return why no channel to HOST:PORT can be made, where TLS is the reason; None where it is not.

    gRPC itself says of all such reasons that the server is unavailable. To ask takes a moment, two seconds at most.
    """
    target, uses_tls = _read(address)
    host, _, port = target.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:  # gRPC knows other ways to write addresses
        return None
    return why_no_tls(address, host.strip("[]"), int(port), tls=uses_tls)


def _read(address: str) -> tuple[str, bool]:
    """Return an address as gRPC takes it, without http:// or https://, and whether TLS should be used there."""
    scheme, _, rest = address.partition("://")
    return (rest.rstrip("/"), scheme == "https") if rest and scheme in HTTP else (address, bool(tls_files()))


def _credentials() -> grpc.ChannelCredentials:
    """Return what channels with TLS trust and show."""
    tls_context()  # says in one line what is wrong with the files
    certificate, key, authority = tls_files().read()
    return grpc.ssl_channel_credentials(authority or system_authorities(), key, certificate)


def _carrying(details: Any, token: str) -> Any:
    """Return what a call is made with, and the token as well."""
    metadata = (*(details.metadata or ()), ("authorization", bearer(token)))
    is_async = isinstance(details, grpc.aio.ClientCallDetails)
    return details._replace(metadata=grpc.aio.Metadata(*metadata) if is_async else metadata)


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Puts the token into the metadata of calls: once for a stream, whatever goes over it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Called by gRPC, as the following."""
        return continuation(_carrying(client_call_details, self._token), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Carry the token."""
        return continuation(_carrying(client_call_details, self._token), request)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Carry the token."""
        return continuation(_carrying(client_call_details, self._token), request_iterator)


class _AsyncBearer(grpc.aio.UnaryUnaryClientInterceptor):
    """The same for asyncio, where unary calls only are made."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Called by gRPC."""
        return await continuation(_carrying(client_call_details, self._token), request)
