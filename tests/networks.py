"""Hosts with networks of their own, and a router between them whose kernel drops datagrams (needs root, ip and nft)."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

#: Only UDP is dropped. What TCP loses the kernel itself sends again, a fifth of a second later at the earliest: that
#: would take long, and try the kernel rather than Rattle.
_RULES = """
table inet rattle
delete table inet rattle
table inet rattle {{
  counter datagrams {{ }}
  counter lost {{ }}
  counter cut {{ }}
  counter segments {{ }}
  set cut_off {{ type ipv4_addr; }}
  chain forward {{
    type filter hook forward priority 0;
    meta l4proto tcp counter name "segments"
    meta l4proto udp counter name "datagrams"
    ip saddr @cut_off meta l4proto udp counter name "cut" drop
    ip daddr @cut_off meta l4proto udp counter name "cut" drop
    meta l4proto udp numgen random mod 100 < {percent} counter name "lost" drop
  }}
}}
"""
_PATIENCE_SECONDS = 30.0


class NoNetworkError(Exception):
    """Networks cannot be made here; says why."""


class Network:
    """Network namespaces, each joined by a link to a router in one more; only these have anything of it.

    Names are never used twice, so that test runs side by side do not meet.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        """Make it; raises NoNetworkError where this machine does not let it be made, and leaves nothing behind."""
        _check_machine()
        self._numbers = {host: number for number, host in enumerate(hosts, 1)}
        self._run = f"rattle-{os.getpid()}-{secrets.token_hex(3)}"
        self._made: list[str] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def address(self, host: str) -> str:
        """Return the address at which the others reach a host."""
        return f"10.77.{self._numbers[host]}.2"

    def namespace(self, host: str) -> str:
        """Return the name of a host's network namespace."""
        return f"{self._run}-{host}"

    def within(self, host: str) -> tuple[str, ...]:
        """Return what runs a command in a host's network, when it is put before it."""
        return ("ip", "netns", "exec", self.namespace(host))

    def lose(self, percent: int) -> None:
        """Have the router drop so many of a hundred datagrams by chance, and count from 0."""
        _run(*self.within("router"), "nft", "-f", "-", stdin=_RULES.format(percent=percent))

    @contextmanager
    def cut_off(self, host: str) -> Iterator[None]:
        """Have the router drop all datagrams from and to a host until the block ends."""
        element = ("element", "inet", "rattle", "cut_off", f"{{ {self.address(host)} }}")
        _run(*self.within("router"), "nft", "add", *element)
        try:
            yield
        finally:
            _run(*self.within("router"), "nft", "delete", *element)

    def counted(self) -> dict[str, int]:
        """Return what the router has counted: segments of TCP, datagrams, and of these those lost and cut."""
        listed = json.loads(_run(*self.within("router"), "nft", "-j", "list", "counters"))["nftables"]
        counters = [entry["counter"] for entry in listed if "counter" in entry]
        return {counter["name"]: int(counter["packets"]) for counter in counters}

    def close(self) -> None:
        """End what still runs in it, and remove all of it."""
        while self._made:
            name = self._made[-1]
            _end_all_in(name)
            _run("ip", "netns", "delete", name)
            self._made.pop()

    def _make(self) -> None:
        self._add("router")
        for host, number in self._numbers.items():
            self._add(host)
            own, router, link = self.namespace(host), self.namespace("router"), f"to-{number}"
            # Both ends are made where they belong: the machine's own network does not see them.
            _run("ip", "-n", own, "link", "add", "uplink", "type", "veth", "peer", link, "netns", router)
            self._set_up("router", link, f"10.77.{number}.1/24")
            self._set_up(host, "uplink", f"{self.address(host)}/24")
            _run("ip", "-n", own, "route", "add", "default", "via", f"10.77.{number}.1")
        _run(*self.within("router"), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.lose(0)

    def _add(self, host: str) -> None:
        _run("ip", "netns", "add", self.namespace(host))
        self._made.append(self.namespace(host))
        _run("ip", "-n", self.namespace(host), "link", "set", "lo", "up")

    def _set_up(self, host: str, link: str, address: str) -> None:
        _run("ip", "-n", self.namespace(host), "address", "add", address, "dev", link)
        _run("ip", "-n", self.namespace(host), "link", "set", link, "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise NoNetworkError("only root can make network namespaces")
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            raise NoNetworkError(f"there is no '{program}' here: install {package}")


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise NoNetworkError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    return done.stdout


def _end_all_in(name: str) -> None:
    """End the processes of a namespace, which would keep it alive: a test that failed may have left some."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (pids := _run("ip", "netns", "pids", name).split()) and time.monotonic() < until:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)
