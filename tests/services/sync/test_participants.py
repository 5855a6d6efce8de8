"""Who is told: what a name may be, and what becomes of those who cannot be told."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from rattle.services.sync.participants import Participant, participants
from rattle.services.utils.sockets import ServiceError
from tests.ports import free_port


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(60)
        yield made


def name_of(bound: socket.socket) -> str:
    return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize(
    "name", ["", "5556", ":5556", "host", "host:", "host:x", "host:5e3", "::1:5556", "[]:1", "host:\N{SUPERSCRIPT TWO}"]
)
def test_what_is_no_address_is_named(name: str) -> None:
    with pytest.raises(ServiceError, match=r"is no HOST:PORT, such as 127\.0\.0\.1:5556") as said:
        participants((name,))
    assert f"'{name}'" in str(said.value)


@pytest.mark.parametrize("port", ["0", "65536", "9" * 30])
def test_a_port_that_cannot_be_is_named(port: str) -> None:
    with pytest.raises(ServiceError, match=rf"the port of 'host:{port}' is not between 1 and 65535"):
        participants((f"host:{port}",))


def test_nobody_is_told_twice_and_somebody_is() -> None:
    with pytest.raises(ServiceError, match="a:1 is there twice"):
        participants(("a:1", "b:1", "a:1"))
    with pytest.raises(ServiceError, match="add --participant HOST:PORT"):
        participants(())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_participant_is_told_at_its_address(receiver: socket.socket, host: str) -> None:
    one = Participant(f"{host}:{receiver.getsockname()[1]}")
    one.find()
    for number in range(3):  # where a name has several addresses, the ones at which nobody listens are left
        one.send(bytes([number]), 0.0)
    assert receiver.recv(9) in (b"\0", b"\1")
    assert one.address == "127.0.0.1"
    assert one.problem is None
    one.close()


def test_of_several_addresses_the_one_where_somebody_listens_is_found(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [("127.0.0.1", free_port()), receiver.getsockname()]
    found = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", place) for place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    one = Participant("several.example:1")
    one.find()
    for number in range(5):
        one.send(bytes([number]), 0.0)
    assert [receiver.recv(9) for _ in range(3)] == [b"\2", b"\3", b"\4"]
    one.close()


def test_one_that_comes_back_misses_nothing_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    one = Participant(f"127.0.0.1:{port}")
    one.find()
    for number in range(5):
        one.send(bytes([number]), 0.0)
    assert one.problem == "nobody listens there"
    assert one.failed >= 3
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(("127.0.0.1", port))
        back.settimeout(60)
        one.send(b"first", 0.0)
        one.send(b"second", 0.0)
        assert (back.recv(9), back.recv(9)) == (b"first", b"second")
    assert one.problem is None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [f"127.0.0.1:{port} is not told: nobody listens there"]
    one.close()


def test_a_problem_that_stays_is_said_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    one = Participant("no-such-host.invalid:5556")
    one.find()
    for now in (0.0, 1.0, 59.0, 60.0, 61.0):
        one.send(b"", now)
    assert len(caplog.records) == 2
    assert "'no-such-host.invalid' cannot be found" in caplog.records[0].getMessage()
    assert (one.sent, one.failed, one.address) == (0, 5, None)


def test_a_participant_that_moves_is_followed_and_a_name_server_that_fails_is_not(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Participant("moves.example:1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old:
        old.bind(("127.0.0.1", 0))
        old.settimeout(60)
        for place in (old, receiver):
            found = (socket.AF_INET, socket.SOCK_DGRAM, 17, "", place.getsockname())
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: [found])
            one.find()
            one.send(b"here", 0.0)
            assert place.recv(9) == b"here"

    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    one.find()
    one.send(b"still", 0.0)
    assert receiver.recv(9) == b"still"
    one.close()


def test_an_address_that_cannot_be_used_is_a_problem_of_that_one_only() -> None:
    one = Participant("255.255.255.255:5556")  # which takes a permission that is not asked for
    one.find()
    one.send(b"", 0.0)
    assert one.problem == "Permission denied"
