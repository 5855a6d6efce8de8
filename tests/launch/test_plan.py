"""The topology as data: which services, with which arguments, at which ports, after whom."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rattle.cli import main
from rattle.launch.plan import plan
from rattle.launch.service import Hello, LaunchedService, command
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings

CONFIG = Path("runs/one/config.yaml")

HELLOS: Mapping[str, Hello] = {
    "sync-0": {"address": "127.0.0.1:1", "url": "http://127.0.0.1:2"},
    "env-0": {"url": "http://127.0.0.1:3", "sync_port": 4},
    "training-0": {"address": "127.0.0.1:5"},
    "inference-0": {"url": "http://127.0.0.1:6", "grpc": "127.0.0.1:7"},
}


def settings(*overrides: str) -> ExperimentSettings:
    return load_settings(None, overrides)


def planned(*overrides: str) -> dict[str, LaunchedService]:
    return {service.name: service for service in plan(settings(*overrides), CONFIG)}


def test_one_of_each_by_default() -> None:
    services = planned()
    assert list(services) == ["env-0", "training-0", "inference-0"]
    assert command(services["env-0"], {}) == ["env", str(CONFIG), "--port", "0"]
    training = command(services["training-0"], {})
    assert training[:4] == ["training", str(CONFIG), "--run-dir", "runs/one"]
    assert training[-2:] == ["--port", "0"]
    hellos = {"env-0": {"url": "http://127.0.0.1:5"}, "training-0": {"address": "127.0.0.1:6"}}
    inference = command(services["inference-0"], hellos)
    assert inference[:4] == ["inference", str(CONFIG), "--set", "inference.index=0"]
    assert inference[4:8] == ["--port", "0", "--grpc-port", "0"]
    assert inference[8:] == ["--env", "http://127.0.0.1:5", "--training", "127.0.0.1:6"]


def test_inference_waits_for_the_addresses_that_it_is_told() -> None:
    services = planned("topology.env=2", "training.policies=[a,b]", "topology.training=2", "topology.inference=2")
    assert [tuple(need.name for need in service.needs) for service in services.values()] == [
        *[()] * 4,
        *[("env-0", "env-1", "training-0", "training-1")] * 2,
    ]
    urls = {f"env-{number}": {"url": f"http://e:{number}"} for number in range(2)}
    addresses = {f"training-{number}": {"address": f"t:{number}"} for number in range(2)}
    told = command(services["inference-1"], {**addresses, **urls})
    assert told[told.index("--env") :] == [
        *("--env", "http://e:0", "--env", "http://e:1"),
        *("--training", "t:0", "--training", "t:1"),
    ]


def test_a_service_comes_back_to_its_ports() -> None:
    services = planned()
    hellos = {
        "env-0": {"url": "http://127.0.0.1:5"},
        "training-0": {"address": "[::1]:6"},
        "inference-0": {"url": "http://[::1]:7", "grpc": "[::1]:8"},
    }
    ports = [command(service, hellos)[command(service, hellos).index("--port") + 1] for service in services.values()]
    assert ports == ["5", "6", "7"]
    inference = command(services["inference-0"], hellos)
    assert inference[inference.index("--grpc-port") + 1] == "8"


def test_what_changes_comes_last_and_so_wins() -> None:
    assert command(planned()["training-0"], {}, ["train.steps=7"])[-2:] == ["--set", "train.steps=7"]


def test_a_server_elsewhere_is_played_in_and_none_is_started() -> None:
    services = planned("env.url=http://far:5000")
    assert list(services) == ["training-0", "inference-0"]
    assert [need.name for need in services["inference-0"].needs] == ["training-0"]
    told = command(services["inference-0"], {"training-0": {"address": "t:1"}})
    assert told[told.index("--env") + 1] == "http://far:5000"


@given(policies=st.integers(1, 64), services=st.integers(1, 64))
def test_every_policy_is_trained_by_one_service(policies: int, services: int) -> None:
    names = [f"p{number}" for number in range(policies)]
    overrides = (f"training.policies={json.dumps(names)}", f"topology.training={services}")
    if services > policies:
        with pytest.raises(
            SettingsError, match=r"topology\.training is \d+, but training\.policies names \d+: "
        ) as bad:
            planned(*overrides)
        assert "\n" not in str(bad.value)
        return
    trainings = [service for service in planned(*overrides).values() if service.kind == "training"]
    shares = [
        json.loads(argument.removeprefix("training.policies="))
        for service in trainings
        for argument in service.arguments
        if argument.startswith("training.policies=")
    ]
    assert len(shares) == services
    for number, share in enumerate(shares):
        assert share == [name for index, name in enumerate(names) if index % services == number]


@given(
    counts=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    ports=st.lists(st.integers(1, 65_500), min_size=5, max_size=5, unique=True),
)
def test_fixed_ports_are_those_of_the_sections_and_the_next_upward(
    counts: tuple[int, int, int], ports: list[int]
) -> None:
    env, training, inference = counts
    keys = ("env_service.port", "training.port", "training.http_port", "inference.port", "inference.grpc_port")
    services = planned(
        *(f"{key}={port}" for key, port in zip(keys, ports, strict=True)),
        f"topology.env={env}",
        f"topology.training={training}",
        f"topology.inference={inference}",
        f"training.policies={json.dumps([f'p{number}' for number in range(training)])}",
        "topology.ports=fixed",
    )
    numbers = {service.name: [port.number for port in service.ports] for service in services.values()}
    assert [*numbers["env-0"], *numbers["training-0"], *numbers["inference-0"]] == ports
    given_out = [number for group in numbers.values() for number in group]
    assert len(set(given_out)) == len(given_out)
    for kind, count in (("env", env), ("training", training), ("inference", inference)):
        own = [numbers[f"{kind}-{number}"][0] for number in range(count)]
        assert all(one < other for one, other in pairwise(own))


def test_fixed_ports_that_are_too_few_are_refused() -> None:
    with pytest.raises(SettingsError, match="too few ports from 65535 upward"):
        planned("topology.ports=fixed", "env_service.port=65535", "topology.env=2")


def test_any_free_port_stays_so_where_the_others_are_fixed() -> None:
    services = planned("topology.ports=fixed", "env_service.port=0", "topology.env=2")
    assert [services[f"env-{number}"].ports[0].number for number in range(2)] == [0, 0]


@pytest.mark.parametrize("mode", ["none", "pace", "lockstep"])
def test_the_commands_have_the_flags_that_they_are_given(mode: str) -> None:
    for service in planned(f"sync={mode}").values():
        arguments = command(service, HELLOS, ["train.steps=7"])
        known = CliRunner().invoke(main, [arguments[0], "--help"]).output
        assert all(f"{flag} " in known for flag in arguments if flag.startswith("--")), service.name


def test_env_services_have_room_for_the_snakes_that_will_come() -> None:
    by_agent = ("inference.api=agent", "inference.snakes=7", "topology.env=2")
    assert command(planned(*by_agent)["env-1"], {})[2:4] == ["--set", "env_service.snakes=4"]
    assert "env_service.snakes=4" not in command(planned(*by_agent, "env_service.snakes=9")["env-1"], {})
    two = planned(*by_agent, "training.policies=[main, red]")
    assert command(two["env-0"], {})[2:4] == ["--set", "env_service.snakes=7"]


def told(service: LaunchedService) -> list[str]:
    """Return what a service is told with --set."""
    arguments = command(service, HELLOS)
    return [value for flag, value in pairwise(arguments) if flag == "--set"]


def test_in_lockstep_the_sync_service_is_first_and_waits_for_exactly_the_others() -> None:
    services = planned("sync=lockstep", "topology.env=2", "topology.inference=3")
    assert next(iter(services)) == "sync-0"
    sync = services["sync-0"]
    assert sync.needs == ()
    assert command(sync, {}) == [
        *("sync", str(CONFIG), "--history", "runs/one/history.jsonl"),
        *("--set", 'sync.participants=["env-0", "env-1", "inference-0", "inference-1", "inference-2"]'),
        *("--port", "0", "--http-port", "0"),
    ]
    needed = {name: {need.name for need in service.needs} for name, service in services.items()}
    assert needed["env-1"] == {"sync-0"}
    assert needed["training-0"] == set()
    assert needed["inference-2"] == {"sync-0", "env-0", "env-1", "training-0"}


def test_in_lockstep_members_are_told_their_names_and_where_the_sync_service_is() -> None:
    services = planned("sync=lockstep")
    for name in ("env-0", "inference-0"):
        assert {"sync.address=127.0.0.1:1", f"sync.name={name}"} <= set(told(services[name]))
    assert told(services["training-0"]) == ['training.policies=["main"]']
    assert "--sync-port" not in command(services["env-0"], HELLOS)


def test_in_lockstep_others_may_be_waited_for_besides() -> None:
    sync = planned("sync={mode: lockstep, participants: [robot, env-0]}")["sync-0"]
    assert told(sync) == ['sync.participants=["env-0", "inference-0", "robot"]']


def test_in_lockstep_snakes_are_spread_over_the_worlds() -> None:
    services = planned("sync=lockstep", "topology.env=2", "inference.snakes=7")
    assert "env_service.snakes=4" in told(services["env-1"])


@pytest.mark.parametrize(
    ("mode", "more", "words"),
    [
        ("lockstep", "env.url=http://far:5000", "leave env.url out"),
        ("lockstep", "training.policies=[main, env]", "give the policy another name than 'env'"),
        ("pace", "env.url=http://far:5000", "say in sync.participants at which HOST:PORT it hears ticks"),
    ],
)
def test_what_does_not_go_with_a_sync_service_is_refused_in_a_line(mode: str, more: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as bad:
        planned(f"sync={mode}", more)
    assert "\n" not in str(bad.value)


def test_in_pace_the_sync_service_is_told_where_the_env_services_hear_ticks() -> None:
    services = planned("sync={mode: pace, participants: ['far:9']}")
    sync = services["sync-0"]
    assert [need.name for need in sync.needs] == ["env-0"]
    arguments = command(sync, HELLOS)
    heard = [value for flag, value in pairwise(arguments) if flag == "--participant"]
    assert sorted(heard) == ["127.0.0.1:4", "far:9"]
    assert "--history" not in arguments
    assert all("sync-0" not in [need.name for need in service.needs] for service in services.values())


def test_in_pace_an_env_service_comes_back_to_its_udp_port() -> None:
    env = planned("sync=pace")["env-0"]
    ports = [command(env, hellos)[-4:] for hellos in ({}, HELLOS)]
    assert ports == [["--port", "0", "--sync-port", "0"], ["--port", "3", "--sync-port", "4"]]


def test_in_pace_an_ipv6_address_stays_one() -> None:
    hellos = {**HELLOS, "env-0": {"url": "http://[::1]:3", "sync_port": 4}}
    assert "[::1]:4" in command(planned("sync=pace")["sync-0"], hellos)


def test_in_pace_a_server_elsewhere_is_ticked_where_the_settings_say() -> None:
    sync = planned("sync={mode: pace, participants: ['far:9']}", "env.url=http://far:5000")["sync-0"]
    assert command(sync, {})[2:4] == ["--participant", "far:9"]


def test_fixed_ports_of_udp_are_apart_from_those_of_tcp() -> None:
    services = planned("sync=pace", "topology={ports: fixed, env: 2}", "sync.port=5000", "env_service.sync_port=5000")
    numbers = {service.name: [port.number for port in service.ports] for service in services.values()}
    assert numbers["sync-0"] == [5000, 8005]
    assert (numbers["env-0"], numbers["env-1"]) == ([5000, 5001], [5001, 5002])


def test_services_that_a_command_starts_are_told_of_no_file_of_this_machine() -> None:
    services = planned(
        "sync=lockstep",
        "topology.prefix.training=srun -N1 --comment 'a b' -J {name} -w node{number}",
        "topology.prefix.sync=[ssh, box]",
        "env_service.host=localhost",
    )
    assert services["training-0"].prefix == ("srun", "-N1", "--comment", "a b", "-J", "training-0", "-w", "node0")
    assert services["sync-0"].prefix == ("ssh", "box")
    training = command(services["training-0"], HELLOS)
    assert training[:4] == ["training", "@own@/config.yaml", "--run-dir", "@run@"]
    sync = command(services["sync-0"], HELLOS)
    assert sync[:4] == ["sync", "@own@/config.yaml", "--history", "@run@/history.jsonl"]
    for words in (training, sync):
        assert not any(str(CONFIG.parent) in word for word in words)
        assert words[words.index("--host") + 1] == "0.0.0.0"  # noqa: S104
    inference = command(services["inference-0"], HELLOS)
    assert services["inference-0"].prefix == ()
    assert inference[:2] == ["inference", str(CONFIG)]
    assert inference[inference.index("--host") + 1] == "0.0.0.0", "others reach it as well"  # noqa: S104
    assert "--host" not in command(services["env-0"], HELLOS), "it was told where"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("topology.prefix.env='ssh \"box'", "topology.prefix.env: is no command: no closing quotation"),
        ("topology.prefix.envs=ssh box", "unknown key 'topology.prefix.envs', did you mean 'env'?"),
        ("topology.prefix.env=[[ssh]]", "topology.prefix.env"),
        ("topology.prefix=ssh box", "topology.prefix"),
    ],
)
def test_a_command_that_cannot_be_read_is_named(setting: str, says: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)):
        settings(setting)
