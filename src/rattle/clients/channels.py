"""Channels of gRPC, made in one place: what calls carry, and how servers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from rattle.clients.addresses import GRPC_WITHOUT_PROXY
from rattle.tokens import bearer, token_for

Options = Sequence[tuple[str, Any]]


def open_channel(address: str, options: Options = ()) -> grpc.Channel:
    """Return a channel to HOST:PORT, whose calls carry the token of this process where there is one."""
    channel = grpc.insecure_channel(address, [GRPC_WITHOUT_PROXY, *options])
    token = token_for(address)
    return channel if token is None else grpc.intercept_channel(channel, _Bearer(token))


def open_async_channel(address: str, options: Options = ()) -> grpc.aio.Channel:
    """Return the same for asyncio."""
    token = token_for(address)
    interceptors = None if token is None else [_AsyncBearer(token)]
    return grpc.aio.insecure_channel(address, [GRPC_WITHOUT_PROXY, *options], interceptors=interceptors)


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
