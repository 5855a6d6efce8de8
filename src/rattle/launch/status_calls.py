"""Asking Training and Sync services where they stand."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import grpc
import msgspec

from rattle.clients.async_http import AsyncHttp
from rattle.clients.channels import open_async_channel
from rattle.clients.errors import ClientError, DamagedAnswer
from rattle.launch.ticking import SyncStatus
from rattle.services.utils.checked_messages import checked, whole
from rattle.services.utils.protos import training_pb2, training_pb2_grpc

if TYPE_CHECKING:
    from rattle.services.utils.protos.training_pb2 import Status

#: How long an answer may take, in seconds: a service that is learning may be slow, one that is dead says nothing.
_DEADLINE_SECONDS = 2.0
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class StatusCalls:
    """Connections to services, by address; services come back to the address that they had."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._https: dict[str, AsyncHttp] = {}

    async def ask(self, address: str) -> Status | None:
        """Return where a Training service stands, or None when it does not say so in time."""
        if address not in self._channels:
            self._channels[address] = open_async_channel(address, _OPTIONS)
        stub = cast(
            "training_pb2_grpc.TrainingAsyncStub", training_pb2_grpc.TrainingStub(checked(self._channels[address]))
        )
        try:
            status = await stub.GetStatus(training_pb2.GetStatusRequest(), timeout=_DEADLINE_SECONDS)
            return whole(status, f"Training service {address}")
        except (grpc.aio.AioRpcError, DamagedAnswer):
            return None

    async def ask_sync(self, url: str) -> SyncStatus | None:
        """Return where a Sync service stands, or None when it does not say so in time."""
        if url not in self._https:
            self._https[url] = AsyncHttp(url, _DEADLINE_SECONDS, _DEADLINE_SECONDS)
        try:
            status, _, body = await self._https[url].ask("GET", "/v1/status")
            return msgspec.json.decode(body, type=SyncStatus) if status == 200 else None
        except (ClientError, msgspec.DecodeError):
            return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            await channel.close()
        for http in self._https.values():
            await http.aclose()
