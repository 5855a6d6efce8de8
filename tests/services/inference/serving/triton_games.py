"""Whole games of Snake, played by users of the public client package with a policy that remembers, in all ways to ask.

Run with a policy file and the addresses of a service that serves it, it fails when an action is another one than the
policy gives in this process. It runs in a process of its own, as triton_clients.py does.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tritonclient.grpc
import tritonclient.http

import rattle
import rattle.envs

GAMES = 2
#: Returns the action for an observation (1, cells); the flag says whether a game begins.
Ask = Callable[[np.ndarray[Any, Any], bool], int]


def given(package: Any, name: str, array: np.ndarray[Any, Any], **how: Any) -> Any:
    tensor = package.InferInput(name, array.shape, {"uint8": "UINT8", "float32": "FP32"}[str(array.dtype)])
    tensor.set_data_from_numpy(array, **how)
    return tensor


def sequence(package: Any, client: Any, model: str, name: int | str) -> Ask:
    """Have the service remember."""

    def ask(observation: np.ndarray[Any, Any], is_first: bool) -> int:
        answer = client.infer(
            model,
            [given(package, "observation", observation)],
            sequence_id=name,
            sequence_start=is_first,
            parameters={"greedy": True},
        )
        return int(answer.as_numpy("action")[0])

    return ask


def carried(package: Any, client: Any, model: str, **how: Any) -> Ask:
    """Send along what the policy remembers."""
    outputs = [package.InferRequestedOutput(name, **how) for name in ("action", "next_state")]
    state: list[Any] = []

    def ask(observation: np.ndarray[Any, Any], is_first: bool) -> int:
        remembered = [] if is_first else state
        inputs = [given(package, "observation", observation, **how), *remembered]
        answer = client.infer(model, inputs, outputs=outputs, parameters={"greedy": True})
        state[:] = [given(package, "state", answer.as_numpy("next_state"), **how)]
        return int(answer.as_numpy("action")[0])

    return ask


@contextmanager
def stream(client: Any, model: str) -> Iterator[Ask]:
    """Have the service remember, and ask it on a stream."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))

    def ask(observation: np.ndarray[Any, Any], is_first: bool) -> int:
        client.async_stream_infer(
            model,
            [given(tritonclient.grpc, "observation", observation)],
            sequence_id="on a stream",
            sequence_start=is_first,
            parameters={"greedy": True},
        )
        result, error = answers.get(timeout=60)
        assert error is None, error
        return int(result.as_numpy("action")[0])

    client.async_stream_infer(model, [], sequence_id="none", request_id="7")
    assert "sequence 'none' is not kept here" in answers.get(timeout=60)[1].message()
    yield ask
    client.stop_stream()


def check_games(policy: rattle.Policy, ask: Ask) -> list[int]:
    """Play whole games, and return how long they were."""
    world, lengths = gymnasium.make("rattle/Snake-v0"), []
    for game in range(GAMES):
        observation, _ = world.reset(seed=game)
        state, is_over, length = None, False, 0
        while not is_over:
            expected, state = policy.act(observation, greedy=True, state=state)
            action = ask(observation[None], length == 0)
            assert action == expected, (game, length)
            observation, _, terminated, truncated, _ = world.step(action)
            is_over, length = terminated or truncated, length + 1
        lengths.append(length)
    return lengths


def main(path: str, http: str, grpc: str) -> None:
    """Play by all ways."""
    policy, model = rattle.load_policy(path), Path(path).stem
    lengths = []
    with tritonclient.http.InferenceServerClient(http) as client:
        described = client.get_model_metadata(model)
        size = policy.memory_size
        assert {"name": "state", "datatype": "FP32", "shape": [-1, size]} in described["inputs"]
        assert {"name": "next_state", "datatype": "FP32", "shape": [-1, size]} in described["outputs"]
        assert "sequence" in client.get_server_metadata()["extensions"]
        lengths.append(check_games(policy, sequence(tritonclient.http, client, model, 17)))
        lengths.append(check_games(policy, carried(tritonclient.http, client, model)))
        lengths.append(check_games(policy, carried(tritonclient.http, client, model, binary_data=False)))
    with tritonclient.grpc.InferenceServerClient(grpc) as client:
        lengths.append(check_games(policy, sequence(tritonclient.grpc, client, model, "over gRPC")))
        lengths.append(check_games(policy, carried(tritonclient.grpc, client, model)))
        with stream(client, model) as ask:
            lengths.append(check_games(policy, ask))
    assert min(min(each) for each in lengths) > 10, lengths
    assert all(each == lengths[0] for each in lengths)


if __name__ == "__main__":
    main(*sys.argv[1:])
