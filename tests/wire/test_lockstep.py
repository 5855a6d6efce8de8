from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.wire import lockstep
from rattle.wire.lockstep import (
    MAX_BYTES,
    MAX_HASHES,
    NUMBER_BYTES,
    SEAL_BYTES,
    Arrived,
    Codec,
    Datagram,
    Done,
    Join,
    Phase,
    Role,
    Tick,
)

KEY = b"sixteen bytes at least"
numbers = st.integers(0, 2**63 - 1)
names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
reasons = st.text(max_size=200)
phases = st.sampled_from(Phase)
hashes = st.dictionaries(names, st.binary(min_size=8, max_size=8), max_size=MAX_HASHES)
fields = {
    "done_tick": st.integers(0, 2**62),
    "name": names,
    "role": st.sampled_from(Role),
    "phase": phases,
    "done_phase": st.integers(0, 2),
    "done_flags": st.integers(0, 3),
    "flags": st.integers(0, 2**31),
    "idle": st.booleans(),
    "whole": st.booleans(),
    "heartbeat_ms": st.integers(1, 60_000),
    "absent": st.lists(names, max_size=16).map(tuple),
    "hashes": hashes,
    "reason": reasons,
}


def of(kind: type, name: str) -> st.SearchStrategy[Any]:
    return st.integers(0, 2**62) if kind is Join and name == "epoch" else fields.get(name, numbers)


kinds = st.sampled_from(Datagram.__args__)
datagrams = kinds.flatmap(lambda kind: st.builds(kind, *(of(kind, name) for name in kind.__struct_fields__)))


@given(datagrams, st.sampled_from([None, KEY]))
def test_what_is_written_is_read(datagram: Datagram, key: bytes | None) -> None:
    reader, data = Codec(key, is_service=True), Codec(key).encode(datagram)
    if len(data) <= MAX_BYTES:
        assert reader.decode(data) == datagram
        assert reader.dropped.total() == 0
    else:
        assert reader.decode(data) is None
        assert reader.dropped["malformed"] == 1


@given(st.binary(max_size=2000) | datagrams.map(Codec().encode))
def test_without_the_right_seal_nothing_is_read(data: bytes) -> None:
    codec = Codec(KEY)
    assert codec.decode(data) is None
    assert codec.dropped.total() == 1


@given(datagrams.filter(lambda datagram: not isinstance(datagram, Done | Tick)), st.data())
def test_a_sealed_datagram_that_is_changed_anywhere_is_dropped(datagram: Datagram, data: st.DataObject) -> None:
    codec = Codec(KEY, is_service=True)
    sealed = bytearray(Codec(KEY).encode(datagram))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    assert codec.decode(bytes(sealed)) is None
    assert codec.dropped == {"malformed": 0, "unauthenticated": 1}
    assert Codec(KEY + b"!").decode(codec.encode(datagram)) is None
    assert codec.decode(Codec(KEY).encode(datagram)) == datagram
    assert codec.decode(codec.encode(datagram)) is None  # its own, sent back


@given(st.binary(max_size=2000))
def test_garbage_is_dropped_and_counted(data: bytes) -> None:
    codec = Codec()
    assert (codec.decode(data) is None) == (codec.dropped["malformed"] == 1)


@pytest.mark.parametrize(
    "content",
    [
        [],
        [99, 1],
        [1],
        [1, -1, "a", 1, 0, 0, 0, 0, 0, False],
        [1, 2**63, "a", 1, 0, 0, 0, 0, 0, False],
        [1, 1, "a b", 1, 0, 0, 0, 0, 0, False],
        [1, 1, "a" * 65, 1, 0, 0, 0, 0, 0, False],
        [1, 1, "a", 3, 0, 0, 0, 0, 0, False],
        [7, 1, 1, 1, 1, 3, 1, False, {}],
        [7, 1, 1, 1, 1, 1, 1, False, {"a": b"seven.."}],
        [7, 1, 1, 1, 1, 1, 1, False, {str(number): b"12345678" for number in range(MAX_HASHES + 1)}],
        {"a": 1},
        "text",
    ],
)
def test_what_is_not_as_the_protocol_says_is_dropped(content: object) -> None:
    codec = Codec()
    assert codec.decode(msgspec.msgpack.encode(content)) is None
    assert codec.dropped["malformed"] == 1


def test_elements_that_are_added_later_are_ignored() -> None:
    written = msgspec.msgpack.decode(Codec().encode(Join(1, "a", Role.AGENT, 0, 0, 0, 0, 0, False)))
    assert Codec().decode(msgspec.msgpack.encode([*written, "of a later version"])) is not None


def test_a_member_that_does_not_say_so_has_not_done_every_tick() -> None:
    joined = Codec().decode(msgspec.msgpack.encode([1, 1, "a", 1, 0, 0, 0, 0, 0, False]))
    assert isinstance(joined, Join)
    assert not joined.whole


def test_the_bytes_are_those_of_the_page() -> None:
    done = Done(1, 2, 3, 4, Phase.STEP, 5, False, {"env": b"01234567"})
    assert msgspec.msgpack.decode(Codec().encode(done)) == [7, 1, 2, 3, 4, 2, 5, False, {"env": b"01234567"}]
    assert Codec().encode(done).hex() == "9907010203040205c281a3656e76c4083031323334353637"
    assert len(Codec(KEY).encode(done)) == len(Codec().encode(done)) + NUMBER_BYTES + SEAL_BYTES
    assert lockstep.MAX_BYTES == 1200


@given(st.lists(st.integers(1, 3000), max_size=200))
def test_a_number_is_new_once_and_while_it_is_among_the_newest(numbers: list[int]) -> None:
    arrived, came, newest = Arrived(), set[int](), 0
    for number in numbers:
        is_late = number <= newest - 1024
        assert arrived.is_new(2 * number + 1) == (number not in came and not is_late)
        came.add(number)
        newest = max(newest, number)


def test_numbers_that_are_left_out_by_the_million_cost_no_memory() -> None:
    arrived = Arrived()
    assert arrived.is_new(3)
    assert arrived.is_new(2**63 - 1)
    assert not arrived.is_new(2**63 - 1)
    assert not arrived.is_new(5)
    assert arrived.is_new(2**63 - 3)
    assert arrived.is_new(0)  # without a key
    assert arrived.is_new(0)
