"""Fields of events are JSON of bounded size, without secrets, whatever was given."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.telemetry.values import MOST_BYTES, MOST_TEXT, error_fields, fitting, plain, without_secrets


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("not for you")


class Loop(dict[str, Any]):
    pass


LOOP = Loop()
LOOP["again"] = LOOP


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**70, str(2**70)),
        (np.float32(1.5), 1.5),
        (np.int64(7), 7),
        (Path("a/b"), "a/b"),
        (b"\xff\x00", "b'\\xff\\x00'"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        ({1: (2, {3})}, {"1": [2, [3]]}),
        (Hostile(), "<Hostile that cannot be shown>"),
        ([Hostile()], ["<Hostile that cannot be shown>"]),
        (None, None),
        (True, True),
    ],
)
def test_values_become_json(value: Any, shown: Any) -> None:
    assert plain(value) == shown


HUGE = {
    "text": "x" * 10**6,
    "list": ["x" * 10**5] * 10**4,
    "mapping": {str(n): n for n in range(10**5)},
    "loop": LOOP,
    "number": 10**9999,
    "keys": {"x" * 10**6: 1},
}


@pytest.mark.parametrize("kind", HUGE)
def test_what_is_huge_or_endless_is_cut(kind: str) -> None:
    fields = fitting({"value": plain(HUGE[kind])})
    assert len(msgspec.json.encode(fields)) <= MOST_BYTES


def test_a_number_that_was_not_looked_at_can_be_written_too() -> None:
    assert msgspec.json.encode(fitting({"value": 10**9999}))


def test_fields_that_are_too_long_together_keep_their_beginnings() -> None:
    fields = fitting({"error": "x" * 100, **{f"field{n}": "y" * MOST_TEXT for n in range(20)}})
    assert fields["error"] == "x" * 100
    assert fields["field19"].startswith("yyy")
    assert fields["cut"] > MOST_BYTES


def test_copies_do_not_change_with_what_they_are_copies_of() -> None:
    value = {"list": [1, 2]}
    copy = plain(value)
    value["list"].append(3)
    assert copy == {"list": [1, 2]}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=4),
    max_leaves=20,
)


@given(fields=st.dictionaries(st.text(st.characters(codec=None), max_size=20), values, max_size=5))
def test_any_fields_can_be_written(fields: dict[str, Any]) -> None:
    written = fitting(without_secrets({key: plain(value) for key, value in fields.items()}))
    assert isinstance(msgspec.json.decode(msgspec.json.encode(written)), dict)


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"DB_PASSWORD": 7531, "x": {"api_key": "hunter2"}},
        {"headers": [{"Authorization": "Bearer hunter2hunter2"}]},
        {"url": "amqp://me:hunter2@host:5672/v", "message": "cannot reach http://me:hunter2@host/x now"},
        {"message": "token=hunter2 and secret: hunter2, more"},
        {"message": "Authorization: Bearer hunter2hunter2"},
        {"headers": {"Set-Cookie": "id=hunter2"}},
    ],
)
def test_secrets_are_not_shown(fields: dict[str, Any]) -> None:
    shown = str(without_secrets(fields))
    assert "hunter2" not in shown
    assert "7531" not in shown


def test_what_is_no_secret_stays() -> None:
    fields = {"tokens": 5, "key_file": "keys/a", "message": "update 5 of 7: http://127.0.0.1:5000/x", "none": None}
    assert without_secrets(fields) == fields


def test_an_error_has_its_type_message_frames_cause_and_traceback() -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise KeyError("a") from ValueError("b" * 20_000)

    with pytest.raises(KeyError) as caught:
        fail(100)
    fields = error_fields(caught.value)
    about = fields["exception"]
    assert (about["type"], about["message"]) == ("KeyError", "'a'")
    assert about["cause"]["type"] == "ValueError"
    assert len(about["cause"]["message"]) <= MOST_TEXT
    assert len(about["frames"]) == 50
    assert about["frames"][-1]["function"] == "fail"
    assert about["frames"][-1]["file"] == __file__
    assert fields["traceback"].startswith("ValueError: bbb")
    assert fields["traceback"].endswith("KeyError: 'a'\n")
    assert len(fields["traceback"]) < 11_000
