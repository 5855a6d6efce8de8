"""Connections that say nothing make room for new ones, and an address leaves room for others."""

from __future__ import annotations

import pytest

from rattle.services.utils.peers import Connections


class Client:
    """A connection of an address, open until it is closed."""

    def __init__(self, connections: Connections, peer: str) -> None:
        self.peer = peer
        self.is_open = True
        self._connections = connections
        connections.enter(self)

    def make_room(self) -> None:
        assert self.is_open
        self.leave()

    def leave(self) -> None:
        self.is_open = False
        self._connections.hear(self)
        self._connections.leave(self.peer)

    def ask(self) -> bool:
        """Send a request, and say whether it is answered."""
        assert self.is_open
        self._connections.hear(self)
        return self._connections.have_room_for(self.peer)


def test_silent_connections_of_an_address_make_room_for_its_own_and_others_requests() -> None:
    connections = Connections(256)
    idle = [Client(connections, "one") for _ in range(2000)]
    assert [client.is_open for client in idle] == [False] * 1776 + [True] * 224
    assert Client(connections, "one").ask()
    assert all(Client(connections, "two").ask() for _ in range(28))
    assert connections.used == 224 + 28


def test_silent_connections_of_many_addresses_make_room_for_others() -> None:
    connections = Connections(256)
    for number in range(2000):
        Client(connections, f"one of many, {number % 20}")
    assert 240 < connections.used <= 256
    asking = [Client(connections, "two") for _ in range(3)]
    assert all(client.ask() for client in asking)


def test_connections_that_have_asked_are_not_closed_for_others() -> None:
    connections = Connections(64)
    held = [Client(connections, "one") for _ in range(56)]
    assert all(client.ask() for client in held)
    for _ in range(2):
        late = Client(connections, "one")
        assert not late.ask()
        late.leave()
    assert all(client.is_open and client.ask() for client in held)
    silent = [Client(connections, "one") for _ in range(20)]
    assert [client.is_open for client in silent] == [False] * 19 + [True]
    assert all(client.is_open for client in held)
    assert Client(connections, "two").ask()


@pytest.mark.parametrize("peers", [1, 8])
def test_honest_machines_lose_no_silent_connection_below_the_share(peers: int) -> None:
    connections = Connections(512)
    opened = [Client(connections, f"{number % peers}") for number in range(448)]
    assert all(client.is_open and client.ask() for client in opened)
