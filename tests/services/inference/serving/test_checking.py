"""What a request may ask, and which field is named when it may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rattle.policies.graph.spec import GraphSpec
from rattle.services.inference.serving.checking import Sampling, check, describe_inputs, describe_outputs
from rattle.services.inference.serving.messages import InferRequest
from rattle.services.inference.serving.tensors import InputTensor, TensorDescription
from rattle.wire.problems import RequestError
from tests.services.inference.serving.building import CODES, FLOATS, MAX_ROWS, request, rows, tensor

SEEDS = np.array([5, 6], np.int64)
NOT_A_NUMBER = np.array([[0, 1, 2, 3], [0, np.nan, 2, 3]], np.float32)


def inputs(*tensors: InputTensor) -> InferRequest:
    return InferRequest("main", "", tensors, (), {})


def reshaped(*shape: int) -> InputTensor:
    return tensor("observation", rows(2))._replace(shape=shape)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (inputs(), "observation: is missing"),
        (inputs(tensor("obs", rows(2))), "inputs: 'obs' is none; there are observation and seed"),
        (inputs(tensor("observation", rows(2)), tensor("observation", rows(2))), "inputs: a name occurs twice"),
        (inputs(*[tensor("observation", rows(2))] * 17), "inputs: a request has at most 16 inputs, got 17"),
        (request(rows(2), **{f"p{number}": 1 for number in range(17)}), "parameters: a request has at most 16, got 17"),
        (inputs(tensor("observation", rows(2, spec=FLOATS))), "observation: must be UINT8, got 'FP32'"),
        (inputs(reshaped(18)), r"observation: must have the shape \[1, 9\], got \[18\]"),
        (inputs(reshaped(2, 3, 3)), r"must have the shape \[1, 9\], got \[2, 3, 3\]"),
        (inputs(reshaped(2, 8)), r"must have the shape \[2, 9\], got \[2, 8\]"),
        (inputs(reshaped(3, 9)), r"\[3, 9\] takes 27 numbers, got 18"),
        (inputs(reshaped(-2, 9)), "a request has 1 to 64 rows, got -2"),
        (inputs(reshaped(0, 9)), "a request has 1 to 64 rows, got 0"),
        (inputs(reshaped(2**62, 9)), "a request has 1 to 64 rows, got 4611686018427387904"),
        (request(np.array([[0] * 9, [0] * 8 + [4]], np.uint8)), "must hold cell codes from 0 to 3, and .1, 8. is 4"),
        (request(rows(2), outputs=["reward"]), "outputs: 'reward' is none; there are action, log_prob, logits, value"),
        (request(rows(2), outputs=["action", "action"]), "outputs: a name occurs twice"),
        (request(rows(2), greddy=True), "parameters: 'greddy' is none: did you mean greedy?"),
        (request(rows(2), greedy=1), "greedy: must be true or false, got 1"),
        (request(rows(2), seed=-1), r"seed: must be a whole number from 0 to 2\*\*63 - 1, got -1"),
        (request(rows(2), seed=2**63), "seed: must be a whole number"),
        (request(rows(2), seed=1.0), "seed: must be a whole number"),
        (request(rows(2), seed=True), "seed: must be a whole number"),
        (request(rows(2), timeout="1s"), "timeout: must be a whole number of microseconds, got '1s'"),
        (request(rows(2), seeds=SEEDS, seed=1), "seed: is given as an input and as a parameter"),
        (request(rows(2), seeds=SEEDS[:1]), r"seed: must have the shape \[2\], got \[1\]"),
        (request(rows(2), seeds=SEEDS.astype(np.uint8)), "seed: must be INT64, got 'UINT8'"),
        (request(rows(2), seeds=-SEEDS), r"seed: must be from 0 to 2\*\*63 - 1, got -6"),
    ],
)
def test_what_is_wrong_is_named(asked: InferRequest, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        check(asked, CODES, MAX_ROWS)
    assert refused.value.code == "bad_value"
    assert str(refused.value).startswith(f"{refused.value.field}: ")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(NOT_A_NUMBER), "observation: must hold finite numbers, and .1, 1. is nan"),
        (request(np.array([[np.inf, 0, 0, 0]], np.float32)), "must hold finite numbers, and .0, 0. is inf"),
        (request(rows(1, spec=FLOATS), outputs=["value"]), "outputs: this policy has no value head"),
        (inputs(tensor("observation", rows(1))), "observation: must be FP32, got 'UINT8'"),
    ],
)
def test_what_is_wrong_for_floats_is_named(asked: InferRequest, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check(asked, FLOATS, MAX_ROWS)


def test_messages_do_not_repeat_much_of_a_request() -> None:
    with pytest.raises(RequestError) as refused:
        check(inputs(tensor("x" * 10_000, rows(1))), CODES, MAX_ROWS)
    assert len(str(refused.value)) < 250


def test_numbers_are_read_only_when_all_else_is_right() -> None:
    def read(dtype: np.dtype[Any], size: int) -> Any:
        raise AssertionError("read")

    for field in ({"datatype": "FP64"}, {"shape": [2, 8]}, {"shape": [2**62, 9]}):
        with pytest.raises(RequestError):
            check(inputs(tensor("observation", rows(2))._replace(read=read, **field)), CODES, MAX_ROWS)


@pytest.mark.parametrize(
    ("asked", "drawing"),
    [
        (request(rows(2), seed=3), Sampling((3,), greedy=False)),
        (request(rows(2), seed=2**63 - 1), Sampling((2**63 - 1,), greedy=False)),
        (request(rows(2), seeds=SEEDS), Sampling([5, 6], greedy=False)),
        (request(rows(2), greedy=True), Sampling((0,), greedy=True)),
        (request(rows(2), greedy=True, seed=3), Sampling((0,), greedy=True)),
        (request(rows(2), outputs=["log_prob"], seed=3), Sampling((3,), greedy=False)),
        (request(rows(2), outputs=["logits", "value"]), None),
    ],
)
def test_draws_are_made_as_asked(asked: InferRequest, drawing: Sampling | None) -> None:
    found = check(asked, CODES, MAX_ROWS)
    assert (found.drawing, found.fresh_seed) == (drawing, None)


def test_without_a_seed_there_is_another_one_each_time() -> None:
    found = [check(request(rows(2)), CODES, MAX_ROWS) for _ in range(20)]
    assert len({asked.fresh_seed for asked in found}) == 20
    for asked in found:
        assert asked.fresh_seed is not None
        assert 0 <= asked.fresh_seed < 2**53
        assert asked.drawing == Sampling((asked.fresh_seed,), greedy=False)


@pytest.mark.parametrize(("timeout", "seconds"), [(0, None), (1, 1e-6), (2_000_000, 2.0)])
def test_a_timeout_is_in_microseconds_and_none_where_it_is_0(timeout: int, seconds: float | None) -> None:
    assert check(request(rows(2), timeout=timeout), CODES, MAX_ROWS).seconds == seconds


def test_policies_describe_what_they_take_and_give() -> None:
    assert describe_inputs(CODES) == [TensorDescription("observation", "UINT8", (-1, 9))]
    assert describe_inputs(FLOATS) == [TensorDescription("observation", "FP32", (-1, 4))]
    assert [output.name for output in describe_outputs(FLOATS)] == ["action", "log_prob", "logits"]
    assert describe_outputs(CODES)[2:] == [
        TensorDescription("logits", "FP32", (-1, 3)),
        TensorDescription("value", "FP32", (-1,)),
    ]


def test_a_policy_with_memory_takes_what_its_rows_remember() -> None:
    memory = GraphSpec(
        observation=CODES.observation, action=CODES.action, value_head=True, parameters=(), state_size=3, graph=b"eA=="
    )
    assert [(one.name, one.shape) for one in describe_inputs(memory)][1:] == [("state", (-1, 3))]
    assert describe_outputs(memory)[-1].name == "next_state"
    given = request(rows(2))
    assert check(given, memory, MAX_ROWS).state is None
    state = np.arange(6, dtype=np.float32).reshape(2, 3)
    remembered = tensor("state", state)
    found = check(given._replace(inputs=[*given.inputs, remembered]), memory, MAX_ROWS).state
    assert found is not None
    assert (found == state).all()
    for wrong in (state[:1], state[:, :2], np.full((2, 3), np.nan, np.float32)):
        bad = tensor("state", wrong)
        with pytest.raises(RequestError, match=r"^state: must"):
            check(given._replace(inputs=[*given.inputs, bad]), memory, MAX_ROWS)
    with pytest.raises(RequestError, match="'state' is none; there are observation and seed"):
        check(given._replace(inputs=[*given.inputs, remembered]), CODES, MAX_ROWS)


def test_a_policy_that_sees_its_own_past_is_told_the_reward_beside_the_state() -> None:
    past = CODES.model_copy(update={"inputs": ("last_action", "last_reward")})
    assert [(one.name, one.shape) for one in describe_inputs(past)][1:] == [("state", (-1, 3)), ("reward", (-1,))]
    given, state = request(rows(2)), np.array([[0, 4, 1], [0, 0, 0]], np.float32)
    remembered, reward = tensor("state", state), tensor("reward", np.array([-1, 5], np.float32))
    found = check(given._replace(inputs=[*given.inputs, remembered, reward]), past, MAX_ROWS)
    np.testing.assert_array_equal(found.state, state)
    np.testing.assert_array_equal(found.reward, [-1, 5])
    assert check(given, past, MAX_ROWS).reward is None
    for wrong in (np.ones(3, np.float32), np.array([1, np.inf], np.float32)):
        with pytest.raises(RequestError, match=r"^reward: must"):
            check(given._replace(inputs=[*given.inputs, remembered, tensor("reward", wrong)]), past, MAX_ROWS)
    blind = CODES.model_copy(update={"inputs": ("last_action",)})
    with pytest.raises(RequestError, match="'reward' is none; there are observation, state and seed"):
        check(given._replace(inputs=[*given.inputs, reward]), blind, MAX_ROWS)


def test_a_state_that_holds_the_action_needs_one() -> None:
    past = CODES.model_copy(update={"inputs": ("last_action",)})
    asked = request(rows(2))._replace(outputs=["next_state"])
    assert check(asked, past, MAX_ROWS).drawing is not None
    in_sequence = request(rows(1), outputs=["value"], sequence_id=3, sequence_start=True)
    assert check(in_sequence, past, MAX_ROWS).drawing is not None
    assert check(asked, CODES.model_copy(update={"inputs": ("last_reward",)}), MAX_ROWS).drawing is None
