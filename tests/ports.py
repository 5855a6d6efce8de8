"""Ports for tests that listen at one later, or again."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LOWEST = 10_100  # browsers open no page at port 10080


def _ports_of_this_worker() -> Iterator[int]:
    """Yield ports for ever that no other worker of pytest yields, in an order that other runs of the tests do not have.

    They are below those that the system gives to whoever asks for any, as long as it leaves some.
    """
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    beyond = int(given.read_text().split()[0]) if given.exists() else 32_768
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    ports = range(_LOWEST, beyond if beyond > _LOWEST + 1000 else 65_536)[int(worker[2:]) :: int(workers)]
    number = random.randrange(len(ports))  # noqa: S311 (which ports, the test may choose)
    while True:
        yield ports[number % len(ports)]
        number += 1


_PORTS = _ports_of_this_worker()


def free_port() -> int:
    """Return a port of this machine, of TCP and of UDP, at which nobody listens, and nobody will until it is used.

    A port that the system gave and that was closed again may be given to another test's process before it is used.
    """
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
                datagrams.bind(("127.0.0.1", port))
            return port
    raise AssertionError
