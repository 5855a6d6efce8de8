"""The Open Inference Protocol over gRPC: converts messages, calls the data plane, converts its answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from rattle.services.inference.metrics import InferenceMetrics
from rattle.services.inference.serving.dataplane import DataPlane
from rattle.services.inference.serving.grpc_streams import RequestStreams
from rattle.services.inference.serving.messages import MOST_FIELDS, SMALL_BYTES, InferRequest, InferResponse, Parameter
from rattle.services.inference.serving.tensors import (
    InputTensor,
    TensorDescription,
    check_parameters,
    read_bytes,
    shown,
    wrong,
)
from rattle.services.utils import budget
from rattle.services.utils.grpc_reading import Reading, check_fields
from rattle.services.utils.grpc_refusals import STATUS, answering, message_of
from rattle.services.utils.protos import open_inference_pb2 as pb
from rattle.services.utils.protos.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from rattle.wire.problems import RequestError

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
NAME: str = _SERVICE.full_name

#: Where the numbers are of tensors that do not travel as bytes.
_CONTENTS = {"UINT8": "uint_contents", "INT64": "int64_contents", "FP32": "fp32_contents"}

_Input = pb.ModelInferRequest.InferInputTensor
_Context = grpc.aio.ServicerContext[Any, Any]
_Kind = TypeVar("_Kind", bound=Message)


class GrpcFace(GRPCInferenceServiceServicer):
    """The protocol's methods; a RequestError that they raise ends the call with its status."""

    def __init__(self, plane: DataPlane, metrics: InferenceMetrics, max_message_bytes: int) -> None:
        self._reading = Reading(max_message_bytes, quick=True)
        self._plane = plane
        self._metrics = metrics
        self._streams = RequestStreams(self._answer_in_stream, max_message_bytes)

    def attach(self, server: grpc.aio.Server) -> None:
        """Add the methods to a server."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method.name: grpc.unary_unary_rpc_method_handler(
                partial(self._answer, getattr(self, method.name), GetMessageClass(method.input_type)),
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in _SERVICE.methods
            if not method.client_streaming
        }
        stream: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self.ModelStreamInfer, response_serializer=pb.ModelStreamInferResponse.SerializeToString
        )
        streams = grpc.method_handlers_generic_handler(NAME, {"ModelStreamInfer": stream})
        server.add_generic_rpc_handlers((self._reading.handlers(NAME, handlers), streams))

    def close(self) -> None:
        """End the streams when what they have asked is answered."""
        self._streams.close()

    async def ServerLive(self, request: pb.ServerLiveRequest, context: _Context) -> pb.ServerLiveResponse:  # noqa: N802
        """Say that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: _Context
    ) -> pb.ServerReadyResponse:
        """Say whether requests are welcome."""
        return pb.ServerReadyResponse(ready=self._plane.is_ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: _Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Say whether requests to a model are welcome; those to an unknown one are not."""
        try:
            self._plane.check_model_ready(request.name, request.version)
        except RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: _Context
    ) -> pb.ServerMetadataResponse:
        """Say what the server is."""
        return pb.ServerMetadataResponse(**self._plane.server_metadata()._asdict())

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: _Context
    ) -> pb.ModelMetadataResponse:
        """Say what a model takes and gives."""
        known = self._plane.model_metadata(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=known.name,
            versions=known.versions,
            platform=known.platform,
            inputs=map(_described, known.inputs),
            outputs=map(_described, known.outputs),
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: _Context) -> pb.ModelInferResponse:  # noqa: N802
        """Answer rows."""
        return await self._infer(request, context)

    async def ModelStreamInfer(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[bytes], context: _Context
    ) -> None:
        """Answer rows, request after request."""
        await self._streams.serve(context)

    async def _infer(self, request: pb.ModelInferRequest, context: _Context) -> pb.ModelInferResponse:
        began, status = time.perf_counter(), "CANCELLED"
        try:
            answer = await self._plane.infer(_from_message(request), context.time_remaining())
            status = "OK"
        except RequestError as error:
            status = STATUS[error.code].name
            raise
        finally:
            self._metrics.request("grpc", status, time.perf_counter() - began)
        return _to_message(answer, request)

    async def _answer(
        self,
        method: Callable[[Any, _Context], Awaitable[Message]],
        kind: type[Message],
        content: bytes,
        context: _Context,
    ) -> Message:
        """Answer a call."""
        self._reading.arrived()
        async with answering(context):
            return await method(self._parsed(content, kind), context)

    async def _answer_in_stream(self, content: bytes, context: _Context) -> pb.ModelStreamInferResponse:
        """Answer a request of a stream, which continues where this one is refused."""
        answer = pb.ModelStreamInferResponse()
        try:
            with budget.BUDGET.holding(len(content)):
                request = self._parsed(content, pb.ModelInferRequest)
                answer.infer_response.id = request.id
                answer.infer_response.CopyFrom(await self._infer(request, context))
        except RequestError as error:
            answer.error_message = message_of(error)
        return answer

    def _parsed(self, content: bytes, kind: type[_Kind]) -> _Kind:
        """Return a message; gRPC itself would blame the server where the content is no message of its kind."""
        if len(content) > SMALL_BYTES:
            numbers = self._plane.most_numbers_of_all() + MOST_FIELDS  # those of shapes
            check_fields(content, kind.DESCRIPTOR, MOST_FIELDS, numbers)
        try:
            return kind.FromString(content)
        except DecodeError:
            raise RequestError("bad_request", f"the request is no {kind.DESCRIPTOR.name}") from None


def _described(tensor: TensorDescription) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _from_message(message: pb.ModelInferRequest) -> InferRequest:
    """Convert a request; raises RequestError where its parts contradict one another."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise wrong("raw_input_contents", f"must be one for each of {len(message.inputs)} inputs, got {len(raw)}")
    return InferRequest(
        message.model_name,
        message.model_version,
        [_input(tensor, raw[number] if raw else None) for number, tensor in enumerate(message.inputs)],
        [_output(tensor) for tensor in message.outputs],
        {name: _parameter(name, value) for name, value in message.parameters.items()},
        slow=not raw and message.ByteSize() > SMALL_BYTES,
    )


def _output(tensor: pb.ModelInferRequest.InferRequestedOutputTensor) -> str:
    check_parameters(tensor.name, tensor.parameters)
    return tensor.name


def _input(tensor: _Input, raw: bytes | None) -> InputTensor:
    check_parameters(tensor.name, tensor.parameters)
    if raw is None:
        read = partial(_read_contents, tensor)
    elif tensor.HasField("contents"):
        raise wrong(tensor.name, "has contents, and also raw_input_contents")
    else:
        read = partial(read_bytes, tensor.name, raw)
    return InputTensor(tensor.name, tensor.datatype, tensor.shape, read)


def _read_contents(tensor: _Input, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    numbers = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    if len(numbers) > size:
        raise wrong(tensor.name, f"{shown(list(tensor.shape))} takes {size} numbers, got {len(numbers)}")
    try:
        return np.array(numbers, dtype)
    except OverflowError:
        raise wrong(tensor.name, f"holds numbers that are no {tensor.datatype}") from None


def _parameter(name: str, parameter: pb.InferParameter) -> Parameter:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise wrong(name, "has no value")
    value: Parameter = getattr(parameter, choice)
    return value


def _to_message(answer: InferResponse, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Convert an answer; its tensors travel as those of the request do."""
    message = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=request.id)
    for tensor in answer.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if request.raw_input_contents:
            message.raw_output_contents.append(tensor.array.tobytes())
        else:
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(tensor.array.ravel().tolist())
    for name, number in answer.parameters.items():
        message.parameters[name].int64_param = number
    return message
