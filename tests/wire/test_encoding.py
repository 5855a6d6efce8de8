"""Both encodings: round trips, what is no message, and which one answers."""

from __future__ import annotations

import datetime
import math
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rattle.wire import encoding
from rattle.wire.arrays import DTYPES, Array, ReusedArray, unpack
from rattle.wire.checksums import DamagedMessage
from rattle.wire.encoding import Encoding, check, has_checksum, msgpack, pack_checked
from rattle.wire.problems import RequestError, problem
from rattle.wire.vector import (
    ResetRequest,
    RestoreRequest,
    ServerSpec,
    SessionCreated,
    SessionRequest,
    SocketRequest,
    StepAnswer,
    StepRequest,
)

MESSAGES: list[Any] = [
    SessionRequest,
    ResetRequest,
    RestoreRequest,
    StepRequest[Array],
    StepRequest[list[int]],
    SocketRequest[Array],
    SocketRequest[list[int]],
    StepAnswer,
    SessionCreated,
    ServerSpec,
]
BOTH = [encoding.json, encoding.msgpack]
WHOLE = st.integers(0, 2**63 - 1)
SESSIONS = st.fixed_dictionaries(
    {"worlds": st.integers(1, 2**32 - 1)},
    optional={
        "seed": st.integers(0, 2**64 - 1),
        "first_world": st.integers(0, 2**32 - 1),
        "options": st.dictionaries(st.text(max_size=8), st.integers(-9, 9) | st.text(max_size=5)),
        "owner": st.text(max_size=256),
        "life": st.text(max_size=256),
    },
)


@given(SESSIONS, st.sampled_from(BOTH))
def test_a_request_comes_back(request_: dict[str, Any], spoken: Encoding) -> None:
    decoded = spoken.decode(spoken.encode(request_), SessionRequest)
    asked = {"seed": None, "first_world": 0, "options": {}, "owner": "", "life": "", "crc32c": msgspec.UNSET} | request_
    assert msgspec.structs.asdict(decoded) == asked


@given(
    WHOLE,
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False} if dtype == "float32" else None,
        )
    ),
)
def test_both_encodings_carry_the_same_array(step: int, array: np.ndarray[Any, Any]) -> None:
    message = {"step": step, "state": {"x": array}}
    restored = encoding.msgpack.decode(encoding.msgpack.encode(message), RestoreRequest)
    found = unpack(restored.state["x"], "state.x")
    assert restored.step == step
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert msgspec.json.decode(encoding.json.encode(message)) == {"step": step, "state": {"x": array.tolist()}}


@pytest.mark.parametrize("spoken", BOTH)
def test_what_is_no_part_of_a_message_is_not_sent(spoken: Encoding) -> None:
    with pytest.raises(NotImplementedError, match="complex has no place in a message"):
        spoken.encode({"x": 1j})


def test_numbers_that_json_cannot_say_are_null() -> None:
    assert encoding.json.encode({"x": np.array([np.nan, np.inf], np.float32)}) == b'{"x":[null,null]}'


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("spoken", BOTH)
@given(body=st.binary(max_size=200))
@example(body=b"")
@example(body=b"\xff")
@example(body=b"null")
@example(body=b"\xc0")
def test_random_bytes_are_a_message_or_refused(spoken: Encoding, message: type[Any], body: bytes) -> None:
    refused_or(spoken, body, message)


STEP = encoding.msgpack.encode({"step": 1, "action": np.array([0, 1, 2], np.uint8)})
VALID: list[tuple[Encoding, bytes, Any]] = [
    (encoding.json, b'{"step":1,"action":[0,1,2]}', StepRequest[list[int]]),
    (encoding.json, b'{"step":1,"action":[0,1,2]}', SocketRequest[list[int]]),
    (encoding.json, b'{"worlds":2,"seed":7,"first_world":1,"options":{"width":9}}', SessionRequest),
    (encoding.msgpack, STEP, StepRequest[Array]),
    (encoding.msgpack, STEP, SocketRequest[Array]),
    (
        encoding.msgpack,
        encoding.msgpack.encode({"step": 1, "state": {"a": np.zeros((2, 2), np.int64)}}),
        RestoreRequest,
    ),
    (encoding.msgpack, encoding.msgpack.encode({"worlds": 2, "options": {"a": [1, {"b": None}]}}), SessionRequest),
]


@given(st.sampled_from(VALID), st.data())
def test_mutated_messages_are_messages_or_refused(valid: tuple[Encoding, bytes, Any], data: st.DataObject) -> None:
    spoken, body, message = valid
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=5))
    refused_or(spoken, bytes(changed), message)


@pytest.mark.parametrize(("spoken", "body", "message"), VALID)
def test_truncated_messages_are_refused(spoken: Encoding, body: bytes, message: type[Any]) -> None:
    assert spoken.decode(body, message) is not None
    for length in range(len(body)):
        with pytest.raises(RequestError):
            spoken.decode(body[:length], message)


IN_OPTIONS = b"\x82\xa6worlds\x01\xa7options\x81\xa1a"
BOMBS = {
    "deep lists": IN_OPTIONS + b"\x91" * 1_000_000,
    "deep maps": IN_OPTIONS + b"\x81\xa1a" * 1_000_000,
    "a long list": IN_OPTIONS + b"\xdd\xff\xff\xff\xff",
    "a large map": IN_OPTIONS + b"\xdf\xff\xff\xff\xff",
    "long bytes": IN_OPTIONS + b"\xc6\xff\xff\xff\xff",
    "a long string": IN_OPTIONS + b"\xdb\xff\xff\xff\xff",
    "a long extension": IN_OPTIONS + b"\xc9\xff\xff\xff\xff\x01",
    "a map as a key": IN_OPTIONS + b"\x81\x81\x01\x01\x01",
    "a wrong time": IN_OPTIONS + b"\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff",
    "a large map of fields": b"\xdf\xff\xff\xff\xff",
    "bytes that are no text": b"\x81\xa1\xff\x01",
    "the byte that is never used": b"\xc1",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
def test_messagepack_bombs_are_refused(body: bytes) -> None:
    assert refused_or(encoding.msgpack, body, SessionRequest) is not None


@pytest.mark.parametrize(
    "body",
    [b"[" * 1_000_000, b'{"worlds":1,"options":{"a":' + b'{"a":' * 100_000, b'{"worlds":' + b"9" * 100_000 + b"}"],
)
def test_json_bombs_are_refused(body: bytes) -> None:
    assert refused_or(encoding.json, body, SessionRequest) is not None


def test_extensions_do_not_reach_messages_but_as_values_of_options() -> None:
    for value in (msgspec.msgpack.Ext(5, b"x"), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)):
        decoded = encoding.msgpack.decode(
            encoding.msgpack.encode({"worlds": 1, "options": {"a": value}}), SessionRequest
        )
        assert isinstance(decoded.options["a"], type(value))  # the environment's settings refuse it
        refused = refused_or(encoding.msgpack, encoding.msgpack.encode({"worlds": value}), SessionRequest)
        assert refused is not None
        assert refused.field == "worlds"


@pytest.mark.parametrize(
    ("body", "message", "code", "field"),
    [
        (b"{}", SessionRequest, "bad_value", "worlds"),
        (b'{"worlds":1,"wolrds":2}', SessionRequest, "bad_value", "wolrds"),
        (b'{"worlds":1.0}', SessionRequest, "bad_value", "worlds"),
        (b'{"worlds":true}', SessionRequest, "bad_value", "worlds"),
        (b'{"worlds":"1"}', SessionRequest, "bad_value", "worlds"),
        (b'{"worlds":4294967296}', SessionRequest, "bad_value", "worlds"),
        (b'{"worlds":1,"options":[]}', SessionRequest, "bad_value", "options"),
        (b'{"step":1,"action":[0,null]}', StepRequest[list[int]], "bad_value", "action"),
        (b'{"step":9223372036854775808,"action":[]}', StepRequest[list[int]], "bad_value", "step"),
        (b'{"step":1,"action":null}', SocketRequest[list[int]], "bad_value", "action"),
        (b"7", SessionRequest, "bad_request", None),
        (b'"x"', SessionRequest, "bad_request", None),
        (b"{\xff}", SessionRequest, "bad_request", None),
    ],
)
def test_the_field_that_is_wrong_is_named(body: bytes, message: type[Any], code: str, field: str | None) -> None:
    refused = refused_or(encoding.json, body, message)
    assert refused is not None
    assert (refused.code, refused.field) == (code, field)
    assert problem(refused).get("field") == field


@pytest.mark.parametrize(
    ("message", "asked", "field"),
    [
        ({"step": 1, "action": {"dtype": "uint8", "shape": [1]}}, StepRequest[Array], "action.data"),
        ({"step": 1, "action": {"dtype": "uint8", "shape": [1], "data": "QQ=="}}, StepRequest[Array], "action.data"),
        ({"step": 1, "action": {"dtype": "uint8", "shape": ["1"], "data": b"A"}}, StepRequest[Array], "action.shape"),
        ({"step": 1, "action": {"dtype": 8, "shape": [1], "data": b"A"}}, StepRequest[Array], "action.dtype"),
        ({"step": 1, "action": [1]}, StepRequest[Array], "action"),
        ({"worlds": 1, "options": {1: 2}}, SessionRequest, "options"),
        ({"step": 1, "state": {"a": 1}}, RestoreRequest, "state"),
    ],
)
def test_the_part_of_an_array_that_is_wrong_is_named(message: Any, asked: type[Any], field: str) -> None:
    refused = refused_or(encoding.msgpack, msgspec.msgpack.encode(message), asked)
    assert refused is not None
    assert (refused.code, refused.field) == ("bad_value", field)


@pytest.mark.parametrize(
    ("content_type", "has_body", "expected"),
    [
        (None, False, encoding.json),
        ("", False, encoding.json),
        ("application/json", True, encoding.json),
        ("Application/JSON; charset=utf-8", True, encoding.json),
        ("application/msgpack", True, encoding.msgpack),
        ("application/x-msgpack", True, encoding.msgpack),
        ("application/vnd.msgpack;x=y", False, encoding.msgpack),
        (None, True, None),
        ("text/json", True, None),
        ("application/x-www-form-urlencoded", True, None),
        ("application/jsonx", False, None),
    ],
)
def test_the_encoding_of_a_request(content_type: str | None, has_body: bool, expected: Encoding | None) -> None:
    if expected is not None:
        assert encoding.of_request(content_type, has_body=has_body) is expected
        return
    with pytest.raises(RequestError) as refused:
        encoding.of_request(content_type, has_body=has_body)
    assert (refused.value.code, refused.value.status) == ("unsupported_type", 415)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "request"),
        ("", "request"),
        ("*/*", "request"),
        ("application/*;q=0.1", "request"),
        ("application/json", "json"),
        ("APPLICATION/JSON; charset=utf-8", "json"),
        ("application/x-msgpack", "msgpack"),
        ("text/html, application/msgpack", "msgpack"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "request"),
        ("application/json, application/msgpack", "json"),
        ("application/msgpack, application/json", "msgpack"),
        ("application/json;q=0.5, application/msgpack", "msgpack"),
        ("application/json;q=0.5, application/msgpack;q=0.25", "json"),
        ("application/json;q=0, */*", "msgpack"),
        ("application/msgpack;q=0.0, */*;q=0.1", "json"),
        ("application/json;q=0", None),
        ("application/json;q=0, application/msgpack;q=0, */*", None),
        ("text/plain", None),
        ("*", None),
        (";;,,", None),
    ],
)
@pytest.mark.parametrize("request_", BOTH)
def test_the_encoding_of_an_answer(accept: str | None, expected: str | None, request_: Encoding) -> None:
    if expected is None:
        with pytest.raises(RequestError) as refused:
            encoding.of_answer(accept, request_)
        assert (refused.value.code, refused.value.status) == ("not_acceptable", 406)
    else:
        named = {"json": encoding.json, "msgpack": encoding.msgpack, "request": request_}[expected]
        assert encoding.of_answer(accept, request_) is named


@given(st.text(max_size=60), st.sampled_from(BOTH))
def test_any_header_is_understood_or_refused(text: str, request_: Encoding) -> None:
    for choose, code in (
        (lambda: encoding.of_answer(text, request_), "not_acceptable"),
        (lambda: encoding.of_request(text, has_body=True), "unsupported_type"),
    ):
        try:
            said = choose().media_type
        except RequestError as error:
            said = error.code
        assert said in (code, "application/json", "application/msgpack")


def refused_or(spoken: Encoding, body: bytes, message: type[Any]) -> RequestError | None:
    """Decode; any failure must be one that a client can be told."""
    refused = None
    try:
        spoken.decode(body, message)
    except RequestError as error:
        refused = error
    if refused is not None:
        assert refused.code in ("bad_request", "bad_value")
        assert (refused.field is None) == (refused.code == "bad_request")
        assert "`" not in (refused.field or "")
        msgspec.json.encode(problem(refused))
    return refused


def test_threads_may_meet_a_message_for_the_first_time_together() -> None:
    """The library crashes the process where two threads describe one type at once."""
    script = """
import sys, threading
from typing import Annotated
import msgspec
from rattle.wire import encoding

sys.setswitchinterval(1e-6)
for _ in range(300):
    fields = [(f"a{i}", Annotated[int, msgspec.Meta(ge=0)] | None, None) for i in range(20)]
    inner = msgspec.defstruct("Inner", fields)
    outer = msgspec.defstruct("Outer", [("inner", inner), *((f"b{i}", list[inner], []) for i in range(10))])
    together = threading.Barrier(4)

    def meet():
        together.wait()
        for spoken in (encoding.msgpack, encoding.json):
            spoken.decode(spoken.encode({"inner": {"a1": 1}}), outer)

    threads = [threading.Thread(target=meet) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_checked_message_is_a_message_that_ends_in_its_checksum() -> None:
    message = {"step": 3, "action": np.arange(4, dtype=np.uint8)}
    packed = pack_checked(message)
    decoded = msgspec.msgpack.decode(packed)
    assert list(decoded) == ["step", "action", "crc32c"]
    assert packed.endswith(decoded["crc32c"])
    assert {name: value for name, value in decoded.items() if name != "crc32c"} == msgspec.msgpack.decode(
        msgpack.encode(message)
    )
    assert has_checksum(packed)
    check(packed)
    assert not has_checksum(msgpack.encode(message))
    check(msgpack.encode(message))


def test_no_flipped_bit_of_a_checked_message_gives_another_message() -> None:
    packed = pack_checked({"step": 3, "action": np.arange(4, dtype=np.uint8), "snapshots": [1]})

    def read(message: bytes) -> StepRequest[Array]:
        check(message)
        return msgpack.decode(message, StepRequest[Array])

    assert read(packed).step == 3
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DamagedMessage, RequestError)):
            read(bytes(damaged))


@pytest.mark.parametrize("shape", [(70_000,), (50_000, 3), (3, 40_000), (2, 50_000, 2), (0, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_long_arrays_are_the_same_lists_in_json_as_short_ones(shape: tuple[int, ...], dtype: type) -> None:
    array = (np.arange(math.prod(shape)).reshape(shape) % 7 / 3).astype(dtype)
    said = msgspec.json.encode({"array": array.tolist()})
    assert encoding.json.encode({"array": array}) == said
    assert encoding.json.encode({"array": ReusedArray(array)}) == said
