"""The topology of an experiment as data: which services there are, how they are started, and whom they need first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rattle.trainer.errors import SettingsError
from rattle.trainer.settings import ExperimentSettings

Kind = Literal["env", "training", "inference"]

#: What a service says in its first line.
Hello = Mapping[str, Any]

_LAST_PORT = 65535


@dataclass(frozen=True)
class Port:
    """A port of a service: its flag, the key of the first line that says which it got, and the wanted number."""

    flag: str
    key: str
    number: int = 0  # 0: any free one

    def read(self, hello: Hello) -> int:
        """Return the port that the service got; raises LookupError, TypeError or ValueError when that is not said."""
        address = hello[self.key]
        if not isinstance(address, str):
            raise TypeError(address)
        return int(address.rpartition(":")[2])


@dataclass(frozen=True)
class Service:
    """One process: `arguments` are those of the `rattle` command, less its ports and the addresses of others."""

    kind: Kind
    name: str
    arguments: tuple[str, ...]
    ports: tuple[Port, ...]
    needs: tuple[str, ...] = ()  # names of services whose addresses it is told


def plan(settings: ExperimentSettings, config: Path) -> tuple[Service, ...]:
    """Return the services of an experiment, those that others need first; they all read the settings in `config`.

    Raises SettingsError for a topology that does not fit the experiment.
    """
    environments, trainings = _environments(settings, config), _trainings(settings, config)
    services = (*environments, *trainings, *_inferences(settings, config, (*environments, *trainings)))
    return _with_fixed_ports(services, settings) if settings.topology.ports == "fixed" else services


def command(service: Service, hellos: Mapping[str, Hello], overrides: Sequence[str] = ()) -> list[str]:
    """Return the arguments to start a service with, at the port that it had before if it has run before.

    `hellos` are the first lines so far by service: everything that this one needs must be there.
    """
    own = hellos.get(service.name)
    ports = [(port.flag, str(port.read(own) if own else port.number)) for port in service.ports]
    others = [_address_of(hellos[name]) for name in service.needs]
    changes = [("--set", override) for override in overrides]
    return [*service.arguments, *(part for pair in (*ports, *others, *changes) for part in pair)]


def _address_of(hello: Hello) -> tuple[str, str]:
    """Return the flag that tells an Inference service where another service is."""
    return ("--training", hello["address"]) if "address" in hello else ("--env", hello["url"])


def _environments(settings: ExperimentSettings, config: Path) -> list[Service]:
    if settings.env.url is not None:
        return []
    ports = (Port("--port", "url"),)
    count = settings.topology.env
    arguments = ("env", str(config), *_room_for_snakes(settings))
    return [Service("env", f"env-{number}", arguments, ports) for number in range(count)]


def _room_for_snakes(settings: ExperimentSettings) -> tuple[str, ...]:
    """Return what tells an Env service how many snakes will come by the agent API, unless the experiment does."""
    if settings.inference.api != "agent" or settings.env_service.snakes is not None:
        return ()
    each = -(-settings.inference.snakes * len(settings.training.policies) // settings.topology.env)
    return ("--set", f"env_service.snakes={each}")


def _trainings(settings: ExperimentSettings, config: Path) -> list[Service]:
    policies, count = settings.training.policies, settings.topology.training
    if count > len(policies):
        raise SettingsError(
            f"topology.training is {count}, but training.policies names {len(policies)}: a policy is trained by one "
            "service, so start no more of them than there are policies"
        )
    arguments = ("training", str(config), "--run-dir", str(config.parent))
    shares = [("--set", f"training.policies={json.dumps(policies[number::count])}") for number in range(count)]
    return [
        Service("training", f"training-{number}", (*arguments, *shares[number]), (Port("--port", "address"),))
        for number in range(count)
    ]


def _inferences(settings: ExperimentSettings, config: Path, needed: Sequence[Service]) -> list[Service]:
    ports = (Port("--port", "url"), Port("--grpc-port", "grpc"))
    arguments = ("inference", str(config), *(("--env", settings.env.url) if settings.env.url is not None else ()))
    return [
        Service(
            "inference",
            f"inference-{number}",
            (*arguments, "--set", f"inference.index={number}"),
            ports,
            tuple(service.name for service in needed),
        )
        for number in range(settings.topology.inference)
    ]


def _with_fixed_ports(services: Sequence[Service], settings: ExperimentSettings) -> tuple[Service, ...]:
    """Give each service the ports of its section, and where those are taken by an earlier one the next ones upward."""
    wanted = {
        "env": (settings.env_service.port,),
        "training": (settings.training.port,),
        "inference": (settings.inference.port, settings.inference.grpc_port),
    }
    taken: set[int] = set()
    numbers: dict[str, list[int]] = {}
    # The first of each kind come first: the ports in the sections are theirs.
    for service in sorted(services, key=lambda service: int(service.name.rpartition("-")[2])):
        numbers[service.name] = [_next_port(first, taken) for first in wanted[service.kind]]
    return tuple(_at(service, numbers[service.name]) for service in services)


def _at(service: Service, numbers: Sequence[int]) -> Service:
    ports = zip(service.ports, numbers, strict=True)
    return replace(service, ports=tuple(replace(port, number=number) for port, number in ports))


def _next_port(first: int, taken: set[int]) -> int:
    if first == 0:
        return 0
    free = next((number for number in range(first, _LAST_PORT + 1) if number not in taken), None)
    if free is None:
        raise SettingsError(f"topology.ports is fixed, but there are too few ports from {first} upward: choose lower")
    taken.add(free)
    return free
