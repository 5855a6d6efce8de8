"""A service as data: the process that it is, its ports, and whom it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["sync", "env", "training", "inference"]

#: What a service says in its first line.
Hello = Mapping[str, Any]


@dataclass(frozen=True)
class Port:
    """A port of a service: its flag, the key of the first line that says which it got, and the wanted number."""

    flag: str
    key: str
    number: int = 0  # 0: any free one
    is_udp: bool = False
    alone: bool = False  # what the first line says is a number, not an address that ends in one

    def read(self, hello: Hello) -> int:
        """Return the port that the service got; raises LookupError, TypeError or ValueError when that is not said."""
        said = hello[self.key]
        if self.alone and isinstance(said, int):
            return said
        if self.alone or not isinstance(said, str):
            raise TypeError(said)
        return int(said.rpartition(":")[2])


@dataclass(frozen=True)
class Need:
    """Another service that a service is told the address of: `tell` makes a flag and its value of a first line."""

    name: str
    tell: Callable[[Hello], tuple[str, str]]


@dataclass(frozen=True)
class LaunchedService:
    """One process: `arguments` are those of the `rattle` command, less its ports and the addresses of others."""

    kind: Kind
    name: str
    arguments: tuple[str, ...]
    ports: tuple[Port, ...]
    needs: tuple[Need, ...] = ()
    prefix: tuple[str, ...] = ()  # the command that it is started through, which may lead to another machine


def command(
    service: LaunchedService, hellos: Mapping[str, Hello], overrides: Sequence[str] = (), *, moves: bool = False
) -> list[str]:
    """Return the arguments to start a service with, at the port that it had before if it has run before.

    `hellos` are the first lines so far by service: everything that this one needs must be there. One that `moves` takes
    other ports than it had, where they were not given.
    """
    own = None if moves else hellos.get(service.name)
    ports = [(port.flag, str(port.read(own) if own else port.number)) for port in service.ports]
    others = [need.tell(hellos[need.name]) for need in service.needs]
    changes = [("--set", override) for override in overrides]
    return [*service.arguments, *(part for pair in (*ports, *others, *changes) for part in pair)]
