"""Streams of requests over real gRPC: answers in order, errors beside them, and how streams end."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from rattle.services.inference.serving import grpc_streams
from rattle.services.utils.protos import open_inference_pb2 as pb
from rattle.services.utils.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.services.inference.serving.building import MEMORY, PATIENCE, Player, policy, rows
from tests.services.inference.serving.inference_process import InferenceProcess, serving, write

LIMIT = 2**26
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    path = tmp_path_factory.mktemp("policies") / "snakes.safetensors"
    write(path, policy(MEMORY))
    with serving(path, f"inference.max_body_bytes={LIMIT}") as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: InferenceProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def message(observation: Any, **parameters: Any) -> pb.ModelInferRequest:
    """Return a request of rows as bytes; parameters are numbers, texts and flags."""
    asked = pb.ModelInferRequest(model_name="snakes")
    asked.inputs.add(name="observation", datatype="UINT8", shape=observation.shape)
    asked.raw_input_contents.append(observation.tobytes())
    for name in ("logits", "next_state"):
        asked.outputs.add(name=name)
    for name, value in parameters.items():
        kind = {bool: "bool_param", str: "string_param", int: "int64_param"}[type(value)]
        asked.parameters[name].CopyFrom(pb.InferParameter(**{kind: value}))
    return asked


def step(of: int | str, tick: int, *, last: int = 10**9) -> pb.ModelInferRequest:
    return message(rows(1, tick), sequence_id=of, sequence_start=tick == 0, sequence_end=tick == last)


def test_sequences_in_one_stream_are_answered_in_order_without_waiting(stub: GRPCInferenceServiceStub) -> None:
    """As the public client's examples do it: everything is sent at once, the steps of several sequences in turn."""
    asked = [(name, tick) for tick in range(100) for name in (1, "second", 2**62)]
    answers = list(stub.ModelStreamInfer((step(*each, last=99) for each in asked), timeout=PATIENCE))
    players = {name: Player(policy(MEMORY)) for name, _ in asked}
    assert len(answers) == len(asked)
    for answer, (name, tick) in zip(answers, asked, strict=True):
        assert answer.error_message == ""
        assert list(answer.infer_response.raw_output_contents) == players[name].bits(rows(1, tick))


def test_a_refused_request_is_answered_with_a_message_and_the_stream_goes_on(stub: GRPCInferenceServiceStub) -> None:
    asked = [step(7, 0), message(rows(1), sequence_id="none"), message(rows(2), sequence_id=7), step(7, 1, last=1)]
    asked[1].id, asked[3].id = "second", "fourth"
    first, second, third, fourth = stub.ModelStreamInfer(iter(asked), timeout=PATIENCE)
    player = Player(policy(MEMORY))
    assert list(first.infer_response.raw_output_contents) == player.bits(rows(1, 0))
    assert second.error_message.startswith("sequence_id: sequence 'none' is not kept here: ")
    assert second.infer_response == pb.ModelInferResponse(id="second")
    assert third.error_message == "observation: a request of a sequence has one row, got 2"
    assert (fourth.error_message, fourth.infer_response.id) == ("", "fourth")
    assert list(fourth.infer_response.raw_output_contents) == player.bits(rows(1, 1))


def test_what_is_no_request_is_refused_and_the_stream_goes_on(channel: grpc.Channel) -> None:
    call = channel.stream_stream(STREAM, response_deserializer=pb.ModelStreamInferResponse.FromString)
    many = pb.ModelInferRequest(model_name="snakes", raw_input_contents=[b""] * 2**16)
    asked = (b"\xff", many.SerializeToString(), message(rows(1)).SerializeToString())
    garbage, large, right = call(iter(asked), timeout=PATIENCE)
    assert garbage.error_message == "the request is no ModelInferRequest"
    assert large.error_message == "the request has too many fields"
    assert right.infer_response.model_version == "7"


def test_a_stream_may_be_idle_before_and_between_its_requests(stub: GRPCInferenceServiceStub) -> None:
    """It holds up nobody: unary calls are answered meanwhile, and each request of it at once."""
    asked: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
    streams = [stub.ModelStreamInfer(iter(asked.get, None), timeout=PATIENCE)]
    for number in range(3):
        assert stub.ModelInfer(message(rows(1)), timeout=PATIENCE).model_version == "7"
        asked.put(step("slow", number))
        assert next(streams[0]).error_message == ""
    asked.put(None)
    assert list(streams[0]) == []


def test_a_sequence_goes_on_over_other_ways_to_ask(server: InferenceProcess, stub: GRPCInferenceServiceStub) -> None:
    player = Player(policy(MEMORY))
    [answer] = stub.ModelStreamInfer(iter([step("all", 0)]), timeout=PATIENCE)
    assert list(answer.infer_response.raw_output_contents) == player.bits(rows(1, 0))
    answered = stub.ModelInfer(step("all", 1), timeout=PATIENCE)
    assert list(answered.raw_output_contents) == player.bits(rows(1, 1))
    over_http = server.infer("snakes", rows(1, 2), sequence_id="all", sequence_end=True, greedy=True)
    logits = np.frombuffer(player.bits(rows(1, 2))[0], np.float32)
    assert over_http.json["outputs"][0]["data"] == [int(logits.argmax())]
    lost = server.infer("snakes", rows(1), sequence_id="all")
    assert (lost.status, lost.json["code"], lost.json["field"]) == (404, "unknown_sequence", "sequence_id")


def test_there_are_so_many_streams_at_a_time_as_their_largest_requests_may_take(
    stub: GRPCInferenceServiceStub,
) -> None:
    most = grpc_streams._ARRIVING_BYTES // LIMIT
    mine = most - most // 8  # the rest is for other addresses
    asked: list[queue.Queue[pb.ModelInferRequest | None]] = [queue.Queue() for _ in range(mine)]
    streams = [stub.ModelStreamInfer(iter(each.get, None), timeout=PATIENCE) for each in asked]
    for stream, each in zip(streams, asked, strict=True):
        each.put(message(rows(1)))
        next(stream)
    with pytest.raises(grpc.RpcError, match=f"{mine} of {most} streams of requests in use") as refused:
        next(stub.ModelStreamInfer(iter([message(rows(1))]), timeout=PATIENCE))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for each in asked:
        each.put(None)
    assert [list(stream) for stream in streams] == [[]] * mine
    next(stub.ModelStreamInfer(iter([message(rows(1))]), timeout=PATIENCE))


def test_a_stream_that_is_cancelled_leaves_the_others_alone(
    server: InferenceProcess, stub: GRPCInferenceServiceStub
) -> None:
    cancelled = stub.ModelStreamInfer((step("left", tick) for tick in range(10**9)), timeout=PATIENCE)
    next(cancelled)
    cancelled.cancel()
    answers = list(stub.ModelStreamInfer((step("stays", tick, last=9) for tick in range(10)), timeout=PATIENCE))
    assert [answer.error_message for answer in answers] == [""] * 10
    assert server.number('rattle_inference_sequences{model="snakes"}') >= 1


def test_streams_end_when_the_service_does_and_a_killed_one_has_lost_its_sequences(tmp_path: Path) -> None:
    path = tmp_path / "snakes.safetensors"
    write(path, policy(MEMORY))
    with serving(path) as server:
        asked: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
        with grpc.insecure_channel(server.grpc) as channel:
            stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(asked.get, None), timeout=PATIENCE)
            asked.put(step("mine", 0))
            assert next(stream).error_message == ""
            assert server.kill(signal.SIGTERM) == 0
            with pytest.raises(grpc.RpcError, match="the service is stopping") as ended:
                next(stream)
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            asked.put(None)
        server.start()
        assert server.infer("snakes", rows(1), sequence_id="mine", sequence_start=True).status == 200
        assert server.kill() == -signal.SIGKILL
        server.start()
        lost = server.infer("snakes", rows(1), sequence_id="mine")
        assert (lost.status, lost.json["code"]) == (404, "unknown_sequence")
        assert "the service was started again; restart it with sequence_start" in lost.json["error"]
        with grpc.insecure_channel(server.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                stub.ModelInfer(step("mine", 1), timeout=PATIENCE)
            [answer] = stub.ModelStreamInfer(iter([step("mine", 1)]), timeout=PATIENCE)
            assert answer.error_message == lost.json["error"]
        assert server.infer("snakes", rows(1), sequence_id="mine", sequence_start=True).status == 200
