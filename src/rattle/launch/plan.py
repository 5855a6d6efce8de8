"""The topology of an experiment as data: which services there are, how they are started, and whom they need first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from rattle.analytics.run_directory import RunDirectory
from rattle.launch.far_end import OWN, RUN
from rattle.launch.service import Hello, Kind, LaunchedService, Need, Port
from rattle.services.utils.sockets import address_of
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.services import ListeningSection

_LAST_PORT = 65535
_LOOPBACK = "127.0.0.1"


def plan(settings: ExperimentSettings, config: Path) -> tuple[LaunchedService, ...]:
    """Return the services of an experiment, those that others need first; they all read the settings in `config`.

    Raises SettingsError for a topology that does not fit the experiment.
    """
    check_topology(settings)
    environments, trainings = _environments(settings, config), _trainings(settings, config)
    inferences = _inferences(settings, config, environments, trainings)
    others = (*environments, *trainings, *inferences)
    services = _with_sync(settings, config, others)
    if settings.topology.prefix:
        services = tuple(_through_prefix(service, settings, config) for service in services)
    return _with_fixed_ports(services, settings) if settings.topology.ports == "fixed" else services


def _through_prefix(service: LaunchedService, settings: ExperimentSettings, config: Path) -> LaunchedService:
    """Return a service that those on other machines reach, and that is started through a command where there is one."""
    everywhere = ("--host", "0.0.0.0") if section_of(settings, service.kind).host == _LOOPBACK else ()  # noqa: S104
    prefix, places = settings.topology.prefix.of(service.kind), {str(config): f"{OWN}/{config.name}"}
    if not prefix:
        return replace(service, arguments=(*service.arguments, *everywhere))
    history = str(RunDirectory(config.parent).history)
    places |= {str(config.parent): RUN, history: f"{RUN}/{Path(history).name}"}
    return replace(
        service,
        arguments=(*(places.get(argument, argument) for argument in service.arguments), *everywhere),
        prefix=tuple(
            word.replace("{name}", service.name).replace("{number}", service.name.rpartition("-")[2]) for word in prefix
        ),
    )


def check_topology(settings: ExperimentSettings) -> None:
    """Raise SettingsError for a topology that does not fit the experiment."""
    policies, count, sync = settings.training.policies, settings.topology.training, settings.sync
    if count > len(policies):
        raise SettingsError(
            f"topology.training is {count}, but training.policies names {len(policies)}: a policy is trained by one "
            "service, so start no more of them than there are policies"
        )
    if sync.mode == "pace" and settings.env.url is not None and not sync.participants:
        raise SettingsError(
            f"sync.mode is pace, and {settings.env.url} is not started here: say in sync.participants at which "
            "HOST:PORT it hears ticks"
        )
    if sync.mode == "lockstep" and settings.env.url is not None:
        raise SettingsError(
            "sync.mode is lockstep, whose environments are started together with all who take part: leave env.url out"
        )
    room = settings.env_service.snakes
    if sync.mode == "lockstep" and room is not None and room < _snakes_of_an_env(settings):
        raise SettingsError(
            f"env_service.snakes is {room}, but up to {_snakes_of_an_env(settings)} snakes will join: in lockstep "
            "all of them need room, because the order of joining must not matter; leave it out"
        )
    if sync.mode == "lockstep" and "env" in policies:
        raise SettingsError(
            "training.policies: in lockstep the histories of worlds are called env-0, env-1, …, and snakes are named "
            "after their policy: give the policy another name than 'env'"
        )


def section_of(settings: ExperimentSettings, kind: Kind) -> ListeningSection:
    """Return the settings of a kind of service."""
    if kind == "env":
        return settings.env_service
    return {"sync": settings.sync, "training": settings.training, "inference": settings.inference}[kind]


def _env(hello: Hello) -> tuple[str, str]:
    return "--env", str(hello["url"])


def training_address(settings: ExperimentSettings, address: str) -> str:
    """Return how a Training service at HOST:PORT is asked: not with TLS just because there is an authority to trust."""
    security = settings.security
    return f"http://{address}" if security.authority is not None and security.certificate is None else address


def _training(settings: ExperimentSettings) -> Callable[[Hello], tuple[str, str]]:
    return lambda hello: ("--training", training_address(settings, str(hello["address"])))


def _sync(hello: Hello) -> tuple[str, str]:
    return "--set", f"sync.address={hello['address']}"


def _participant(hello: Hello) -> tuple[str, str]:
    """Return where an Env service hears ticks."""
    return "--participant", address_of(urlsplit(hello["url"]).hostname or "", hello["sync_port"])


def _environments(settings: ExperimentSettings, config: Path) -> list[LaunchedService]:
    if settings.env.url is not None:
        return []
    ports = [Port("--port", "url")]
    if settings.env_service.clock == "sync" and settings.sync.mode != "lockstep":
        ports.append(Port("--sync-port", "sync_port", is_udp=True, alone=True))
    count = settings.topology.env
    arguments = ("env", str(config), *_room_for_snakes(settings))
    return [LaunchedService("env", f"env-{number}", arguments, tuple(ports)) for number in range(count)]


def _room_for_snakes(settings: ExperimentSettings) -> tuple[str, ...]:
    """Return what tells an Env service how many snakes will come by the agent API, unless the experiment does."""
    if settings.inference.api != "agent" or settings.env_service.snakes is not None:
        return ()
    return ("--set", f"env_service.snakes={_snakes_of_an_env(settings)}")


def _snakes_of_an_env(settings: ExperimentSettings) -> int:
    return -(-settings.inference.snakes * len(settings.training.policies) // settings.topology.env)


def _trainings(settings: ExperimentSettings, config: Path) -> list[LaunchedService]:
    policies, count = settings.training.policies, settings.topology.training
    arguments = ("training", str(config), "--run-dir", str(config.parent))
    shares = [("--set", f"training.policies={json.dumps(policies[number::count])}") for number in range(count)]
    has_http = settings.training.http_port is not None
    ports = (Port("--port", "address"), *((Port("--http-port", "url"),) if has_http else ()))
    return [
        LaunchedService("training", f"training-{number}", (*arguments, *shares[number]), ports)
        for number in range(count)
    ]


def _inferences(
    settings: ExperimentSettings,
    config: Path,
    environments: Sequence[LaunchedService],
    trainings: Sequence[LaunchedService],
) -> list[LaunchedService]:
    ports = (Port("--port", "url"), Port("--grpc-port", "grpc"))
    arguments = ("inference", str(config), *(("--env", settings.env.url) if settings.env.url is not None else ()))
    needs = [Need(service.name, _env) for service in environments]
    needs += [Need(service.name, _training(settings)) for service in trainings]
    return [
        LaunchedService(
            "inference",
            f"inference-{number}",
            (*arguments, "--set", f"inference.index={number}"),
            ports,
            tuple(needs),
        )
        for number in range(settings.topology.inference)
    ]


def _with_sync(
    settings: ExperimentSettings, config: Path, services: Sequence[LaunchedService]
) -> tuple[LaunchedService, ...]:
    """Return the services with the Sync service that they need, or that needs them, before them, if there is one."""
    sync = LaunchedService(
        "sync", "sync-0", ("sync", str(config)), (Port("--port", "address", is_udp=True), Port("--http-port", "url"))
    )
    if settings.sync.mode == "pace":
        return (_pacing(settings, sync, services), *services)
    if settings.sync.mode == "lockstep":
        return _in_lockstep(settings, sync, services, RunDirectory(config.parent).history)
    return tuple(services)


def _pacing(
    settings: ExperimentSettings, sync: LaunchedService, services: Sequence[LaunchedService]
) -> LaunchedService:
    """Return the Sync service that sends the time to the Env services, and to participants that the settings name."""
    named = tuple(part for address in settings.sync.participants for part in ("--participant", address))
    needs = tuple(Need(service.name, _participant) for service in services if service.kind == "env")
    return replace(sync, arguments=(*sync.arguments, *named), needs=needs)


def _in_lockstep(
    settings: ExperimentSettings, sync: LaunchedService, services: Sequence[LaunchedService], history: Path
) -> tuple[LaunchedService, ...]:
    """Return the services with the Sync service that leads Env, Inference and the members that the settings name."""
    members = [service.name for service in services if service.kind in ("env", "inference")]
    wanted = list(dict.fromkeys([*members, *settings.sync.participants]))
    leading = (
        *sync.arguments,
        *("--history", str(history)),
        *("--set", f"sync.participants={json.dumps(wanted)}"),
    )
    return (
        replace(sync, arguments=leading),
        *(_as_member(service, sync.name) if service.name in members else service for service in services),
    )


def _as_member(service: LaunchedService, sync: str) -> LaunchedService:
    """Return a service that takes part in lockstep, under its own name."""
    named = (*service.arguments, "--set", f"sync.name={service.name}")
    return replace(service, arguments=named, needs=(*service.needs, Need(sync, _sync)))


def _with_fixed_ports(services: Sequence[LaunchedService], settings: ExperimentSettings) -> tuple[LaunchedService, ...]:
    """Give each service the ports of its section, and where those are taken by an earlier one the next ones upward."""
    wanted = {
        "sync": (settings.sync.port, settings.sync.http_port),
        "env": (settings.env_service.port, settings.env_service.sync_port),
        "training": (settings.training.port, settings.training.http_port or 0),
        "inference": (settings.inference.port, settings.inference.grpc_port),
    }
    taken: dict[bool, set[int]] = {False: set(), True: set()}  # UDP has ports of its own
    numbers: dict[str, list[int]] = {}
    # The first of each kind come first: the ports in the sections are theirs.
    for service in sorted(services, key=lambda service: int(service.name.rpartition("-")[2])):
        firsts = zip(service.ports, wanted[service.kind], strict=False)  # an Env service may have the first only
        numbers[service.name] = [_next_port(first, taken[port.is_udp]) for port, first in firsts]
    return tuple(_at(service, numbers[service.name]) for service in services)


def _at(service: LaunchedService, numbers: Sequence[int]) -> LaunchedService:
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
