"""`rattle sync` as a user meets it: its first line, its routes, and mistakes in one line."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from rattle.cli import main
from tests.services.measured import check_described
from tests.services.sync.sync_process import SyncProcess

pytestmark = pytest.mark.timeout(120)  # what should be refused is served else

TRUST = ("--set", "security.trust_network=true")
PARTICIPANT = ("--participant", "127.0.0.1:9")
ANY_PORT = ("--port", "0", "--http-port", "0")


@pytest.fixture(scope="module")
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(60)
        yield made


@pytest.fixture(scope="module")
def pace(receiver: socket.socket) -> Iterator[SyncProcess]:
    told = f"127.0.0.1:{receiver.getsockname()[1]}"
    history = ("--history", "/away/history.jsonl")  # which pace leaves alone
    with SyncProcess("--participant", told, "--frequency", "100", "--ticks", "30", *history) as made:
        yield made


def test_without_a_mode_it_tells_the_time(pace: SyncProcess, receiver: socket.socket) -> None:
    assert list(pace.hello) == ["service", "url", "address", "mode"]
    assert (pace.hello["service"], pace.hello["mode"]) == ("sync", "pace")
    assert [json.loads(receiver.recv(2048))["sequence"] for _ in range(30)] == list(range(1, 31))
    assert pace.ask("/readyz") == (200, b'{"status":"ready"}')
    assert pace.number("rattle_sync_tick") == 30
    assert "rattle_sync_late_seconds" in check_described(pace.ask("/metrics")[1], "sync")
    status = pace.status()  # the service goes on when it has told all: somebody may ask
    assert (status["mode"], status["sequence"], status["finished"]) == ("pace", 30, True)


def test_connections_that_say_nothing_keep_nobody_away(pace: SyncProcess) -> None:
    host, _, port = pace.url.removeprefix("http://").rpartition(":")
    with ExitStack() as idle:
        for _ in range(3):
            for _ in range(200):  # the service takes 256 in all
                idle.enter_context(socket.create_connection((host, int(port)), timeout=60))
            assert pace.ask("/healthz")[0] == 200


def test_the_routes_are_few(pace: SyncProcess) -> None:
    assert pace.ask("/healthz") == (200, b'{"status":"ok"}')
    assert pace.ask("/healthz", "HEAD")[0] == 200
    code, body = pace.ask("/v2")
    problem = json.loads(body)
    assert (code, problem["code"]) == (404, "unknown_path")
    assert "/v1/status, /healthz, /readyz, /metrics" in problem["detail"]
    code, body = pace.ask("/v1/status", "POST")
    assert (code, json.loads(body)["allow"]) == (405, "GET")


def test_no_websocket_is_opened(pace: SyncProcess) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus) as refused:
        connect(pace.url.replace("http", "ws") + "/v1/status")
    assert refused.value.response.status_code == 404


def test_both_signals_stop_it_in_good_order() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with SyncProcess(*PARTICIPANT) as sync:
            assert sync.kill(number) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "sync.mode is pace, but nobody is to be told: add --participant HOST:PORT"),
        (("--participant", "main-0"), "sync.participants: 'main-0' is no HOST:PORT"),
        ((*PARTICIPANT, *PARTICIPANT), "sync.participants: 127.0.0.1:9 is there twice"),
        ((*PARTICIPANT, "--set", "sync.members=x"), "sync.members: a whole number is wanted"),
        (("--mode", "lockstep", *PARTICIPANT), "sync.participants: '127.0.0.1:9' is no name of a member"),
        (("--mode", "lockstep", *("--participant", "a") * 2), "sync.participants: a is there twice"),
        (("--mode", "lockstep", "--set", "sync.key_file=away"), "sync.key_file: there is no away; make one"),
        (("--mode", "lockstep", "--history", "away/h"), "--history away/h: No such file or directory"),
        (("--mode", "lockstep", "--host", "192.0.2.1", *TRUST), "cannot listen on UDP port 0 of 192.0.2.1"),
        (("--mode", "lockstep", "--set", "env.id=gym:CartPole-v1"), "sync.mode is lockstep, but env.id is not snake"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["sync", *ANY_PORT, *arguments])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1
    assert says in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [("--frequency", "0"), ("--members", "0"), ("--ticks", "0"), ("--mode", "none"), ("--port", "65536")]
)
def test_flags_have_ranges(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["sync", *arguments]).exit_code == 2


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        for one in (udp, tcp):
            one.bind(("127.0.0.1", 0))
        tcp.listen()
        for taken, flag, what in ((udp, "--port", "UDP port"), (tcp, "--http-port", "port")):
            port = taken.getsockname()[1]
            done = CliRunner().invoke(main, ["sync", *ANY_PORT, *PARTICIPANT, flag, str(port)])
            assert done.output.startswith(f"Error: cannot listen on {what} {port} of 127.0.0.1: Address already in use")


def test_an_experiment_says_the_mode(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("sync: {mode: lockstep, members: 3}\n")
    with SyncProcess(str(tmp_path / "experiment.yaml")) as sync:
        assert sync.hello["mode"] == "lockstep"
        assert "rattle_sync_members" in check_described(sync.ask("/metrics")[1], "sync")
        assert sync.status()["wanted"] == 3
