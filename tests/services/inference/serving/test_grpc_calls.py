"""The protocol over real gRPC: tensors as bytes and as numbers, refusals, and messages that are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.services.inference.serving.messages import MOST_FIELDS
from rattle.services.utils.grpc_reading import check_fields
from rattle.services.utils.protos import open_inference_pb2 as pb
from rattle.services.utils.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from rattle.wire.problems import RequestError
from tests.services.inference.serving.building import FLOATS, PATIENCE, chosen, policy, rows
from tests.services.inference.serving.inference_process import InferenceProcess, serving, write

LIMIT = 2**16
SEEDS = np.array([5, 2**62], np.int64)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    path = tmp_path_factory.mktemp("policies") / "snakes.safetensors"
    write(path, policy())
    with serving(path, f"inference.max_body_bytes={LIMIT}") as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: InferenceProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc, [("grpc.max_send_message_length", 2**24)]) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def message(**more: Any) -> pb.ModelInferRequest:
    """Return a request of two rows as bytes."""
    asked = pb.ModelInferRequest(model_name="snakes", **more)
    if not asked.inputs:
        asked.inputs.add(name="observation", datatype="UINT8", shape=[2, 9])
        asked.raw_input_contents.append(rows(2).tobytes())
    return asked


def refusal(stub: GRPCInferenceServiceStub, asked: pb.ModelInferRequest) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(asked, timeout=PATIENCE)
    return refused.value.code().name, refused.value.details()


def test_tensors_travel_as_bytes_where_those_of_the_request_do(stub: GRPCInferenceServiceStub) -> None:
    asked = message(id="x")
    asked.parameters["seed"].int64_param = 3
    for name in ("log_prob", "action", "logits"):
        asked.outputs.add(name=name)
    answer = stub.ModelInfer(asked, timeout=PATIENCE)
    assert (answer.model_name, answer.model_version, answer.id) == ("snakes", "7", "x")
    assert [(output.name, output.datatype, list(output.shape)) for output in answer.outputs] == [
        ("log_prob", "FP32", [2]),
        ("action", "INT64", [2]),
        ("logits", "FP32", [2, 3]),
    ]
    action, log_prob, _ = chosen(policy(), rows(2), 3)
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == log_prob
    assert np.frombuffer(answer.raw_output_contents[1], "<i8").tolist() == action
    assert len(answer.raw_output_contents) == 3
    assert not any(output.HasField("contents") for output in answer.outputs)


def test_tensors_travel_as_numbers_where_those_of_the_request_do(stub: GRPCInferenceServiceStub) -> None:
    asked = pb.ModelInferRequest(model_name="snakes")
    observation = asked.inputs.add(name="observation", datatype="UINT8", shape=[2, 9])
    observation.contents.uint_contents.extend(rows(2).ravel().tolist())
    asked.inputs.add(name="seed", datatype="INT64", shape=[2]).contents.int64_contents.extend(SEEDS.tolist())
    for name in ("action", "value"):
        asked.outputs.add(name=name)
    answer = stub.ModelInfer(asked, timeout=PATIENCE)
    alone = [chosen(policy(), rows(2)[[row]], int(SEEDS[row])) for row in range(2)]
    assert list(answer.outputs[0].contents.int64_contents) == [action for [action], _, _ in alone]
    assert list(answer.outputs[1].contents.fp32_contents) == [value for _, _, [value] in alone]
    assert not answer.raw_output_contents


def test_a_seed_that_was_drawn_comes_back(stub: GRPCInferenceServiceStub) -> None:
    first = stub.ModelInfer(message(), timeout=PATIENCE)
    again = message()
    again.parameters["seed"].int64_param = first.parameters["seed"].int64_param
    second = stub.ModelInfer(again, timeout=PATIENCE)
    assert second.raw_output_contents == first.raw_output_contents
    assert not second.parameters


def test_floats_as_numbers(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("policies") / "poles.safetensors"
    write(path, policy(FLOATS))
    with serving(path) as server, grpc.insecure_channel(server.grpc) as channel:
        asked = pb.ModelInferRequest(model_name="poles")
        observation = rows(3, spec=FLOATS)
        tensor = asked.inputs.add(name="observation", datatype="FP32", shape=[3, 4])
        tensor.contents.fp32_contents.extend(observation.ravel().tolist())
        asked.parameters["greedy"].bool_param = True
        answer = GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=PATIENCE)
        assert list(answer.outputs[0].contents.int64_contents) == chosen(policy(FLOATS), observation, greedy=True)[0]
        tensor.contents.fp32_contents[5] = float("nan")
        said = refusal(GRPCInferenceServiceStub(channel), asked)
        assert said == ("INVALID_ARGUMENT", "observation: must hold finite numbers, and [1, 1] is nan")


def test_metadata_and_readiness(stub: GRPCInferenceServiceStub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    extensions = ["binary_tensor_data", "parameters", "sequence", "sequence(string_id)"]
    assert list(stub.ServerMetadata(pb.ServerMetadataRequest()).extensions) == extensions
    for name, version, ready in (("snakes", "", True), ("snakes", "7", True), ("snakes", "8", False), ("x", "", False)):
        assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready == ready
    known = stub.ModelMetadata(pb.ModelMetadataRequest(name="snakes"))
    assert (known.name, list(known.versions)) == ("snakes", ["7"])
    assert [(one.name, list(one.shape)) for one in known.inputs] == [("observation", [-1, 9])]
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        stub.ModelMetadata(pb.ModelMetadataRequest(name="x"))


def test_the_standard_services_know_this_one(channel: grpc.Channel) -> None:
    name = "inference.GRPCInferenceService"
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", name):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
    listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [answer] = list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(listing))
    assert name in [service.name for service in answer.list_services_response.service]


def numbers(*values: int, **more: Any) -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name="snakes")
    described = {"name": "observation", "datatype": "UINT8", "shape": [1, len(values)], **more}
    asked.inputs.add(**described)
    asked.inputs[0].contents.uint_contents.extend(values)
    return asked


def with_parameter(name: str, **value: Any) -> pb.ModelInferRequest:
    asked = message()
    asked.parameters[name].CopyFrom(pb.InferParameter(**value))
    return asked


@pytest.mark.parametrize(
    ("asked", "status", "detail"),
    [
        (pb.ModelInferRequest(), "NOT_FOUND", "model_name: there is no ''; served are: snakes"),
        (message(model_version="6"), "NOT_FOUND", "model_version: '6' of model 'snakes' is not served"),
        (pb.ModelInferRequest(model_name="snakes"), "INVALID_ARGUMENT", "observation: is missing"),
        (numbers(*[0] * 8), "INVALID_ARGUMENT", "observation: must have the shape [1, 9], got [1, 8]"),
        (numbers(*[0] * 8, shape=[1, 9]), "INVALID_ARGUMENT", "observation: [1, 9] takes 9 numbers, got 8"),
        (numbers(*[0] * 40_000, shape=[1, 9]), "INVALID_ARGUMENT", "observation: [1, 9] takes 9 numbers, got 40000"),
        (numbers(*[0] * 8, 300), "INVALID_ARGUMENT", "observation: holds numbers that are no UINT8"),
        (numbers(*[0] * 8, 4), "INVALID_ARGUMENT", "observation: must hold cell codes from 0 to 3, and [0, 8] is 4"),
        (
            numbers(*[0] * 9, parameters={"shared_memory_region": pb.InferParameter(string_param="x")}),
            "INVALID_ARGUMENT",
            "observation: 'shared_memory_region': shared memory is not supported",
        ),
        (with_parameter("seed"), "INVALID_ARGUMENT", "seed: has no value"),
        (with_parameter("seed", int64_param=-1), "INVALID_ARGUMENT", "seed: must be a whole number"),
        (with_parameter("seed", double_param=1.0), "INVALID_ARGUMENT", "seed: must be a whole number"),
        (with_parameter("greedy", string_param="yes"), "INVALID_ARGUMENT", "greedy: must be true or false, got 'yes'"),
        (with_parameter("greddy", bool_param=True), "INVALID_ARGUMENT", "parameters: 'greddy' is none"),
    ],
)
def test_what_is_wrong_is_named(
    stub: GRPCInferenceServiceStub, asked: pb.ModelInferRequest, status: str, detail: str
) -> None:
    said = refusal(stub, asked)
    assert said[0] == status
    assert said[1].startswith(detail), said


def test_bytes_and_inputs_belong_together(stub: GRPCInferenceServiceStub) -> None:
    asked = message()
    asked.raw_input_contents.append(b"")
    assert refusal(stub, asked)[1] == "raw_input_contents: must be one for each of 1 inputs, got 2"
    asked = message()
    asked.inputs[0].contents.uint_contents.append(1)
    assert refusal(stub, asked)[1] == "observation: has contents, and also raw_input_contents"
    asked = message()
    asked.raw_input_contents[0] = b"x" * 17
    assert refusal(stub, asked)[1] == "observation: [2, 9] takes 18 numbers, got 17"


def test_what_is_too_large_is_refused(stub: GRPCInferenceServiceStub) -> None:
    asked = message()
    asked.raw_input_contents[0] = b"x" * LIMIT
    assert refusal(stub, asked)[0] == "RESOURCE_EXHAUSTED"
    assert stub.ModelInfer(message(), timeout=PATIENCE).model_version == "7"


def test_messages_of_too_many_fields_are_refused_before_they_are_parsed() -> None:
    many = pb.ModelInferRequest(model_name="snakes", raw_input_contents=[b""] * MOST_FIELDS)
    deep = pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor(name="x")])
    deep.inputs[0].contents.bytes_contents.extend([b""] * MOST_FIELDS)
    for asked in (many, deep):
        with pytest.raises(RequestError, match="too many fields"):
            check_fields(asked.SerializeToString(), asked.DESCRIPTOR, MOST_FIELDS)
    del many.raw_input_contents[1:], deep.inputs[0].contents.bytes_contents[1:]
    deep.inputs[0].contents.fp32_contents.extend([1.5] * 10 * MOST_FIELDS)
    deep.inputs[0].parameters["x"].double_param = 1.0
    for asked in (many, deep):
        check_fields(asked.SerializeToString(), asked.DESCRIPTOR, 14)


def test_packed_numbers_are_counted_before_they_are_parsed() -> None:
    for contents in ("int64_contents", "uint_contents", "bool_contents", "fp32_contents"):
        asked = pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor(name="x")])
        getattr(asked.inputs[0].contents, contents).extend([1] * 2000)
        content = asked.SerializeToString()
        check_fields(content, asked.DESCRIPTOR, 14, 2000)
        if contents == "fp32_contents":  # which takes no more in memory
            check_fields(content, asked.DESCRIPTOR, 14, 0)
            continue
        for most in (1999, 100):
            with pytest.raises(RequestError, match="too many numbers"):
                check_fields(content, asked.DESCRIPTOR, 14, most)
    asked = pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor(shape=[-1, 300] * 100)])
    check_fields(asked.SerializeToString(), asked.DESCRIPTOR, 14, 200)
    with pytest.raises(RequestError, match="too many numbers"):
        check_fields(asked.SerializeToString(), asked.DESCRIPTOR, 14, 199)


@given(garbage=st.binary(max_size=60))
def test_the_fields_of_garbage_are_counted_or_refused(garbage: bytes) -> None:
    with suppress(RequestError):
        check_fields(garbage, pb.ModelInferRequest.DESCRIPTOR, 100)


def test_methods_that_there_are_not_are_said(channel: grpc.Channel) -> None:
    for method in ("RepositoryIndex", "SystemSharedMemoryRegister"):
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"", timeout=PATIENCE)


@settings(max_examples=200)
@given(garbage=st.binary(max_size=60), cut=st.integers(0, 60))
def test_garbage_is_refused_and_the_next_call_is_answered(channel: grpc.Channel, garbage: bytes, cut: int) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    whole = message().SerializeToString()
    for body in (garbage, whole[:cut] + garbage):
        try:
            call(body, timeout=PATIENCE)
        except grpc.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND"), error  # noqa: PT017
    assert call(whole, timeout=PATIENCE)
