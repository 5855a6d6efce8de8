"""Bodies of HTTP requests: what they may be, and that nothing else gets through or breaks anything."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.inference.serving import rest_bodies
from rattle.services.inference.serving.checking import check, most_numbers
from rattle.services.inference.serving.messages import InferResponse
from rattle.services.inference.serving.rest_bodies import AnswerFormat, read_request, write_response
from rattle.services.inference.serving.tensors import OutputTensor
from rattle.wire.problems import RequestError
from tests.services.inference.serving.building import CODES, FLOATS, MAX_ROWS, rows

SEEDS = np.array([3, 2**62], np.int64)


def described(**more: Any) -> dict[str, Any]:
    """Return an input of two rows without its numbers."""
    return {"name": "observation", "shape": [2, 9], "datatype": "UINT8", **more}


def binary(size: int, **more: Any) -> dict[str, Any]:
    return described(parameters={"binary_data_size": size}, **more)


def as_json(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def read(body: bytes, json_length: str | None = None) -> Any:
    """Return what a policy of codes is asked by a body."""
    request, form = read_request(body, json_length, "main", "", most_numbers(CODES, MAX_ROWS))
    return check(request, CODES, MAX_ROWS), form


@pytest.mark.parametrize("data", [rows(2).tolist(), rows(2).ravel().tolist()], ids=["nested", "flat"])
def test_numbers_may_be_nested_in_json_or_not(data: list[Any]) -> None:
    asked, form = read(as_json(described(data=data), id="7", parameters={"greedy": True}))
    np.testing.assert_array_equal(asked.observation, rows(2))
    assert form == AnswerFormat("7", {}, False)
    assert asked.drawing.greedy


@pytest.mark.parametrize(
    "parameters",
    [{"content_type": "np"}, {"content_type": None}, {"content_type": "np", "headers": {"a": [1]}, "any": 1.5}],
    ids=str,
)
def test_parameters_of_other_servers_are_left_to_them(parameters: dict[str, Any]) -> None:
    """MLServer's clients say how a tensor was encoded."""
    for own in (described(data=rows(2).tolist()), binary(18)):
        tensor = own | {"parameters": parameters | own.get("parameters", {})}
        head = as_json(tensor, parameters=parameters, outputs=[{"name": "action", "parameters": parameters}])
        tail, length = (b"", None) if "data" in own else (rows(2).tobytes(), str(len(head)))
        asked, form = read(head + tail, length)
        np.testing.assert_array_equal(asked.observation, rows(2))
        assert list(form.is_binary) == ["action"]


def test_tensors_follow_the_json_in_order() -> None:
    seeds = {"name": "seed", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}
    for inputs, tail in (
        ([binary(18), seeds], rows(2).tobytes() + SEEDS.tobytes()),
        ([seeds, binary(18)], SEEDS.tobytes() + rows(2).tobytes()),
        ([binary(18), {**seeds, "parameters": {}, "data": SEEDS.tolist()}], rows(2).tobytes()),
    ):
        head = as_json(*inputs)
        asked, _ = read(head + tail, str(len(head)))
        np.testing.assert_array_equal(asked.observation, rows(2))
        assert list(asked.drawing.seeds) == SEEDS.tolist()


def test_floats_are_read_at_any_place_of_a_body() -> None:
    observation = rows(3, spec=FLOATS)
    for padding in range(8):
        head = (
            as_json(
                {"name": "observation", "shape": [3, 4], "datatype": "FP32", "parameters": {"binary_data_size": 48}}
            )
            + b" " * padding
        )
        request, _ = read_request(head + observation.tobytes(), str(len(head)), "main", "", 0)
        np.testing.assert_array_equal(check(request, FLOATS, MAX_ROWS).observation, observation)


FLAT = rows(2).ravel().tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not valid application/json"),
        (b"{", "the body is not valid application/json"),
        (b"[]", "the body: expected `object`, got `array`"),
        (b"{}", "inputs: is missing"),
        (b'{"inputs": [{"name": "observation"}]}', "is missing"),
        (as_json(described(data=FLAT), id=7), "id: expected `str`, got `int`"),
        (as_json(described(data=FLAT), parameters={"seed": [1]}), "seed: must be a whole number"),
        (as_json(described()), "observation: has neither data nor the parameter binary_data_size"),
        (as_json(described(data=[])), "observation: .* takes 18 numbers, got 0"),
        (as_json(described(data=FLAT[1:])), "observation: .* takes 18 numbers, got 17"),
        (as_json(described(data=[256, *FLAT[1:]])), r"observation: data: Expected `int` <= 255 - at `\$\[0\]`"),
        (as_json(described(data=[-1, *FLAT[1:]])), "observation: data: Expected `int` >= 0"),
        (as_json(described(data=[1.5, *FLAT[1:]])), "observation: data: Expected `int`, got `float`"),
        (as_json(described(data=["1", *FLAT[1:]])), "observation: data: Expected `int`, got `str`"),
        (as_json(described(data=[True, *FLAT[1:]])), "observation: data: Expected `int`, got `bool`"),
        (as_json(described(data=5)), "observation: data: Expected `array`, got `int`"),
        (as_json(described(data=[FLAT[:9], FLAT[:8]])), "observation: data: rows must be equally long"),
        (as_json(described(data=[FLAT])), r"observation: data has the shape \[1, 18\] and says \[2, 9\]"),
        (as_json(described(data=[[[1]]])), "observation: data: Expected `int`, got `array`"),
        (as_json(described(data=FLAT, datatype="BYTES")), "observation: must be UINT8, got 'BYTES'"),
        (as_json(described(data=FLAT, shape="2x9")), "inputs: expected `array`, got `str`"),
        (
            as_json(described(data=FLAT, parameters={"binary_data_size": 18})),
            "has data, and also the parameter",
        ),
        (as_json(described(data=FLAT, parameters={"shared_memory_region": "x"})), "shared memory is not supported"),
        (as_json(described(parameters={"binary_data_size": -1})), "binary_data_size must be a number of bytes, got -1"),
        (as_json(described(parameters={"binary_data_size": True})), "must be a number of bytes, got True"),
        (as_json(described(data=FLAT), parameters={"binary_data_output": 1}), "binary_data_output: must be true or"),
        (as_json(described(data=FLAT), outputs=[{"name": "action", "parameters": {"binary_data": 1}}]), "binary_data:"),
        (
            as_json(described(data=FLAT), outputs=[{"name": "action", "parameters": {"classification": 2}}]),
            "action: 'classification' is not supported",
        ),
        (as_json(binary(18)) + rows(2).tobytes(), "the body is not valid application/json"),  # where is its end?
    ],
)
def test_what_is_wrong_is_named(body: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(body)


def large(data: bytes, more: bytes = b"") -> bytes:
    """Return a body of 2 rows that is longer than any other of two rows."""
    return b'{"inputs":[{"name":"observation","datatype":"UINT8","shape":[2,9],"data":' + data + b"}]" + more + b"}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (large(b"[" + b"[0]," * 300_000 + b"[0]]"), "at most 640 numbers"),
        (large(b"[" + b"0," * 100_000 + b"0]"), "at most 640 numbers"),
        (
            large(b"[0]", b',"parameters":{' + b'"p":1,' * 12_000 + b'"q":1' + b"}"),
            "fields",
        ),
        (large(b"[0]", b',"parameters":{"p":[' + b"[]," * 50_000 + b"0]}"), "at most 640 numbers"),
        (large(b'[0]},{"name":"x","datatype":"UINT8","shape":[' + b"1," * 50_000 + b'1],"data":[]'), "at most 640"),
        (b'{"inputs":[' + b'{"name":"x","shape":[],"datatype":"x"},' * 9_000 + b"{}]}", "fields"),
    ],
)
def test_what_no_shape_allows_is_refused_before_it_is_decoded(
    body: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_bodies, "encoding", None)
    with pytest.raises(RequestError, match=message) as refused:
        read(body)
    assert refused.value.code == "too_large"


def test_numbers_that_their_shape_does_not_allow_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_bodies, "_DECODERS", None)
    with pytest.raises(RequestError, match=r"observation: \[2, 9\] takes 18 numbers, got 501"):
        read(large(b"[" + b"[0]," * 500 + b"[0]]"))


@pytest.mark.parametrize("blank", [b"", b" \n"])
def test_large_lists_are_read_in_pieces_that_hold_the_same(blank: bytes) -> None:
    numbers = np.arange(40_000).reshape(-1, 10)
    for data in (numbers, numbers.ravel(), numbers[:7], numbers[0]):
        content = json.dumps(data.tolist()).encode().replace(b",", blank + b"," + blank)
        tensor = rest_bodies._Input("x", list(data.shape), "INT64", data=msgspec.Raw(content))
        read = rest_bodies._read_lists(tensor, np.dtype(np.int64), data.size)
        np.testing.assert_array_equal(read, data.ravel())
        end = b"]" if data.ndim == 2 else b","
        pieces = list(rest_bodies._pieces(content, end))
        assert max(map(len, pieces)) < rest_bodies._PIECE_BYTES + 200
        assert sum(map(len, pieces)) >= len(content)


HEAD = as_json(binary(18))


@pytest.mark.parametrize(
    ("tail", "length", "message"),
    [
        (b"x" * 18, "-1", "Inference-Header-Content-Length: must be a number of bytes"),
        (b"x" * 18, "1e2", "Inference-Header-Content-Length: must be a number of bytes"),
        (b"x" * 18, "\N{SUPERSCRIPT TWO}", "Inference-Header-Content-Length: must be a number of bytes"),
        (b"x" * 18, "9" * 5000, "Inference-Header-Content-Length: must be a number of bytes"),
        (b"x" * 18, str(len(HEAD) + 19), "Inference-Header-Content-Length: must be a number of bytes of the body"),
        (b"x" * 18, str(len(HEAD) - 1), "not valid application/json"),
        (b"x" * 18, str(len(HEAD) + 1), "not valid application/json"),
        (b"x" * 19, str(len(HEAD)), "19 bytes follow the JSON, the inputs have 18"),
        (b"x" * 17, str(len(HEAD)), "17 bytes follow the JSON, the inputs have 18"),
        (b"", None, "0 bytes follow the JSON, the inputs have 18"),
        (b"", "0", "not valid application/json"),
    ],
)
def test_lengths_that_do_not_fit_are_named(tail: bytes, length: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(HEAD + tail, length)


def test_bytes_that_are_no_whole_numbers_are_named() -> None:
    head = as_json({"name": "observation", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 15}})
    request, _ = read_request(head + b"x" * 15, str(len(head)), "main", "", 0)
    with pytest.raises(RequestError, match="observation: FP32 takes 4 bytes a number, got 15 bytes"):
        check(request, FLOATS, MAX_ROWS)


@given(body=st.binary(max_size=200), length=st.none() | st.integers(0, 250).map(str) | st.text(max_size=5))
def test_garbage_is_refused_and_breaks_nothing(body: bytes, length: str | None) -> None:
    with pytest.raises(RequestError):
        read(body, length)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_BROKEN = st.dictionaries(
    st.sampled_from(["name", "shape", "datatype", "parameters", "data", "binary_data_size"]), _VALUES, max_size=3
)


@given(
    tensor=_BROKEN,
    outer=st.dictionaries(st.sampled_from(["inputs", "outputs", "parameters", "id"]), _VALUES, max_size=2),
    tail=st.binary(max_size=40),
    data=st.data(),
)
def test_bodies_that_are_nearly_right_are_read_or_refused(
    tensor: dict[str, Any], outer: dict[str, Any], tail: bytes, data: st.DataObject
) -> None:
    head = json.dumps({"inputs": [{**binary(18), **tensor}], **outer}).encode()
    length = data.draw(st.sampled_from([len(head), len(head) - 1, len(head) + 1]))
    with suppress(RequestError):
        asked, _ = read(head + tail, str(length))
        assert asked.observation.shape == (2, 9)
        assert asked.observation.max() < 4


ANSWER = InferResponse(
    "main",
    "7",
    [OutputTensor("action", np.array([2, 0])), OutputTensor("logits", np.array([[0.5, 1], [2, 3]], np.float32))],
    {"seed": 5},
)


def test_answers_are_json_where_nothing_else_is_asked() -> None:
    body, length = write_response(ANSWER, AnswerFormat("x", {}, False))
    assert length is None
    assert json.loads(body) == {
        "model_name": "main",
        "model_version": "7",
        "id": "x",
        "parameters": {"seed": 5},
        "outputs": [
            {"name": "action", "datatype": "INT64", "shape": [2], "data": [2, 0]},
            {"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 1, 2, 3]},
        ],
    }


@pytest.mark.parametrize(("is_binary", "otherwise"), [({"action": True}, False), ({"logits": False}, True)])
def test_each_tensor_travels_as_it_was_asked_to(is_binary: dict[str, bool], otherwise: bool) -> None:
    body, length = write_response(ANSWER, AnswerFormat("", is_binary, otherwise))
    assert length is not None
    head = json.loads(body[:length])
    assert "id" not in head
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert head["outputs"][1]["data"] == [0.5, 1, 2, 3]
    assert body[length:] == np.array([2, 0], "<i8").tobytes()


def test_forms_are_read_from_the_request() -> None:
    outputs = [{"name": "action", "parameters": {"binary_data": False}}, {"name": "logits"}]
    _, form = read(as_json(described(data=FLAT), outputs=outputs, parameters={"binary_data_output": True}))
    assert form == AnswerFormat("", {"action": False, "logits": True}, True)
