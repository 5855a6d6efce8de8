"""What users of the public client package do, as it comes: run with an address, it fails when an answer is wrong.

It runs in a process of its own, since the package registers the protocol's messages as the service does.
"""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

MODEL = "snakes"
CLIENTS = 16
REQUESTS = 25


class Token:
    """A plugin: puts the service's token into the headers, or the metadata, of all requests."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> None:
        request.headers["authorization"] = f"Bearer {self._token}"


def rows(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 4, (count, 9)).astype(np.uint8)


def given(package: Any, observation: np.ndarray[Any, Any], **how: Any) -> list[Any]:
    """Return the inputs of a request."""
    tensor = package.InferInput("observation", observation.shape, "UINT8")
    tensor.set_data_from_numpy(observation, **how)
    return [tensor]


def wanted(package: Any, *names: str) -> list[Any]:
    return [package.InferRequestedOutput(name) for name in names]


def refused(call: Callable[[], Any], status: str, message: str) -> None:
    with pytest.raises(InferenceServerException) as error:
        call()
    assert status in str(error.value.status()), error
    assert message in error.value.message(), error


def check_client(package: Any, client: Any, statuses: tuple[str, str]) -> None:
    """Ask all that a synchronous client can."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "7")
    assert not client.is_model_ready("others")

    observation = rows(6)
    free = client.infer(MODEL, given(package, observation))
    seed = free.get_response(**({"as_json": True} if package is tritonclient.grpc else {}))["parameters"]["seed"]
    seed = int(seed["int64_param"]) if isinstance(seed, dict) else seed
    again = client.infer(MODEL, given(package, observation), parameters={"seed": seed}, request_id="9")
    assert again.as_numpy("action").tolist() == free.as_numpy("action").tolist()
    assert again.as_numpy("action").dtype == np.int64

    names = ("logits", "value", "action", "log_prob")
    full = client.infer(MODEL, given(package, observation), "7", wanted(package, *names), parameters={"greedy": True})
    logits = full.as_numpy("logits")
    assert (logits.dtype, logits.shape) == (np.float32, (6, 3))
    assert full.as_numpy("action").tolist() == logits.argmax(axis=1).tolist()
    assert full.as_numpy("value").shape == full.as_numpy("log_prob").shape == (6,)

    seeds = package.InferInput("seed", [6], "INT64")
    seeds.set_data_from_numpy(np.full(6, seed, np.int64))
    first = client.infer(MODEL, [*given(package, observation), seeds], timeout=60_000_000)
    assert first.as_numpy("action")[0] == free.as_numpy("action")[0]

    not_found, invalid = statuses
    refused(lambda: client.infer("others", given(package, observation)), not_found, "model_name: there is no 'others'")
    refused(lambda: client.infer(MODEL, given(package, observation), "8"), not_found, "model_version: '8'")
    refused(
        lambda: client.infer(MODEL, given(package, observation + 4)),
        invalid,
        "observation: must hold cell codes from 0",
    )
    refused(
        lambda: client.infer(MODEL, given(package, observation[:, 1:])), invalid, "observation: must have the shape"
    )
    refused(lambda: client.infer(MODEL, given(package, observation), outputs=wanted(package, "x")), invalid, "outputs")
    assert client.infer(MODEL, given(package, observation), priority=1).as_numpy("action") is not None


def check_http(address: str, token: str) -> None:
    package = tritonclient.http
    with package.InferenceServerClient(address, concurrency=CLIENTS) as client:
        refused(client.get_server_metadata, "401", "a token is asked for")
        client.register_plugin(Token(token))
        check_client(package, client, ("404", "400"))
        assert client.get_server_metadata()["name"] == "rattle"
        assert client.get_model_metadata(MODEL)["inputs"][0]["shape"] == [-1, 9]
        observation = rows(6)
        expected = client.infer(MODEL, given(package, observation), parameters={"seed": 1}).as_numpy("action").tolist()
        for coding in ("gzip", "deflate"):
            packed = client.infer(
                MODEL,
                given(package, observation),
                parameters={"seed": 1},
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            assert packed.as_numpy("action").tolist() == expected
        plain = client.infer(
            MODEL,
            given(package, observation, binary_data=False),
            outputs=[package.InferRequestedOutput("action", binary_data=False)],
            parameters={"seed": 1},
        )
        assert plain.as_numpy("action").tolist() == expected
        many = [client.async_infer(MODEL, given(package, rows(3, n)), parameters={"seed": n}) for n in range(100)]
        found = [request.get_result().as_numpy("action").tolist() for request in many]
        for number, actions in enumerate(found):
            alone = client.infer(MODEL, given(package, rows(3, number)), parameters={"seed": number})
            assert actions == alone.as_numpy("action").tolist()


def check_grpc(address: str, token: str) -> None:
    package = tritonclient.grpc
    with package.InferenceServerClient(address) as client:
        refused(client.get_server_metadata, "UNAUTHENTICATED", "a token is asked for")
        client.register_plugin(Token(token))
        check_client(package, client, ("NOT_FOUND", "INVALID_ARGUMENT"))
        assert client.get_server_metadata().name == "rattle"
        assert list(client.get_model_metadata(MODEL).inputs[0].shape) == [-1, 9]
        for coding in ("gzip", "deflate"):
            client.infer(MODEL, given(package, rows(6)), compression_algorithm=coding, client_timeout=240)
        check_stream(client, address, token)


def check_stream(client: Any, address: str, token: str) -> None:
    """Ask on a stream, which needs the token as all calls do; a policy without memory takes sequences as they come."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as stranger:
        stranger.start_stream(lambda result, error: answers.put((result, error)))
        assert "a token is asked for" in answers.get(timeout=60)[1].message()
        stranger.stop_stream()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(100):
        tensors = given(tritonclient.grpc, rows(3, number))
        client.async_stream_infer(MODEL, tensors, parameters={"seed": number}, sequence_id=5, request_id=f"{number}")
    for number in range(100):
        result, error = answers.get(timeout=60)
        assert error is None, error
        assert result.get_response().id == f"{number}"
        alone = client.infer(MODEL, given(tritonclient.grpc, rows(3, number)), parameters={"seed": number})
        assert result.as_numpy("action").tolist() == alone.as_numpy("action").tolist()
    client.stop_stream()


async def check_together(package: Any, address: str, token: str) -> None:
    """Have many clients ask at the same time; each must get what it gets alone."""
    sync = tritonclient.http if package is tritonclient.http.aio else tritonclient.grpc
    async with package.InferenceServerClient(address) as client:
        client.register_plugin(Token(token))
        alone = []
        for number in range(CLIENTS):
            answer = await client.infer(MODEL, given(sync, rows(2, number)), parameters={"seed": number})
            alone.append(answer.as_numpy("action").tolist())

        async def ask(number: int) -> None:
            for _ in range(REQUESTS):
                answer = await client.infer(MODEL, given(sync, rows(2, number)), parameters={"seed": number})
                assert answer.as_numpy("action").tolist() == alone[number]

        await asyncio.gather(*map(ask, range(CLIENTS)))


def main(protocol: str, address: str, token: str) -> None:
    """Check one protocol."""
    if protocol == "http":
        check_http(address, token)
        asyncio.run(check_together(tritonclient.http.aio, address, token))
    else:
        check_grpc(address, token)
        asyncio.run(check_together(tritonclient.grpc.aio, address, token))


if __name__ == "__main__":
    main(*sys.argv[1:])
