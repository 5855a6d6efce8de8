"""Real processes: started, killed, started again, stopped in order; none outlives the one that started it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from signal import SIGKILL
from subprocess import PIPE, STDOUT

import pytest

from rattle.events import of_launch
from rattle.launch import supervisor as supervisor_module
from rattle.launch.notes import Note
from rattle.launch.plan import plan
from rattle.launch.processes import RATTLE, Processes
from rattle.launch.service import command
from rattle.launch.supervisor import Supervisor
from rattle.services.utils.sockets import PortTaken, listen
from rattle.settings.sources import load_settings
from tests.ports import free_port

HERE = Path(__file__).parent
FAKE = (sys.executable, str(HERE / "fake_service.py"))
PATIENCE = 60.0


class Fleet:
    """Services in the place of an experiment's, and what has been heard of them."""

    def __init__(
        self, folder: Path, program: Sequence[str] = FAKE, settings: Sequence[str] = (), **ways: list[str]
    ) -> None:
        (folder / "behaviour.json").write_text(json.dumps(ways))
        self.folder = folder
        self.services = {
            service.name: service for service in plan(load_settings(None, settings), folder / "config.yaml")
        }
        self.core = Supervisor(self.services.values())
        self.heard: list[Note] = []
        self._news = asyncio.Event()
        self.processes = Processes(self.core, self._command, folder / "service-logs", self._hear, program)

    def _command(self, name: str) -> list[str]:
        return command(self.services[name], self.core.hellos, moves=self.core.services[name].moves)

    def _hear(self, note: Note) -> None:
        self.heard.append(note)
        self._news.set()

    def pid(self, name: str) -> int:
        pid = self.core.services[name].pid
        assert pid is not None
        return pid

    def events(self, name: str) -> list[str]:
        return [note.event.name for note in self.heard if note.name == name]

    def stop(self) -> None:
        self.processes.do(self.core.stop(time.monotonic()))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def all_ready(self) -> None:
        await self.until(lambda: all(watched.phase == "ready" for watched in self.core.services.values()))

    def notes(self) -> list[str]:
        return (self.folder / "notes.txt").read_text().splitlines()


def play(fleet: Fleet, story: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run the services while a story happens to them."""

    async def both() -> None:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(fleet.processes.run())
            if story is not None:
                await story()

    asyncio.run(both())


def test_what_dies_comes_back_at_its_port_and_all_stop_in_order(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def story() -> None:
        await fleet.all_ready()
        hellos = fleet.core.hellos
        for name in fleet.services:
            before = fleet.pid(name)
            os.kill(before, SIGKILL)
            await fleet.until(lambda name=name: "service_died" in fleet.events(name))  # type: ignore[misc]
            await fleet.all_ready()
            assert fleet.pid(name) != before
        assert fleet.core.hellos == hellos
        fleet.stop()

    play(fleet, story)
    life = ["service_started", "service_ready", "service_died", "service_restarted", "service_ready"]
    assert all(fleet.events(name) == life for name in fleet.services)
    assert fleet.core.restarts == 3
    stopped = [line for line in fleet.notes() if line.endswith("stopped")]
    assert stopped[0] == "training stopped"
    assert sorted(stopped[1:]) == ["env stopped", "inference stopped"]


async def kill_and_take_port(fleet: Fleet, name: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Kill a service, and listen at its port before it is back; return the socket that does."""
    watched = fleet.core.services[name]
    assert watched.hello is not None
    port = watched.service.ports[0].read(watched.hello)
    while True:
        restarts = watched.restarts
        os.kill(fleet.pid(name), SIGKILL)
        while watched.restarts == restarts or watched.phase != "ready":
            try:
                return listen("127.0.0.1", port, kind)
            except PortTaken:  # by the one that was killed, for a little while, or by the next
                await asyncio.sleep(0.001)


def test_a_service_whose_port_is_taken_moves_and_those_that_need_it_learn_where(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def story() -> None:
        await fleet.all_ready()
        before, inference = fleet.core.hellos, fleet.pid("inference-0")
        with await kill_and_take_port(fleet, "training-0"):
            await fleet.until(lambda: "service_moved" in fleet.events("training-0"))
            await fleet.until(lambda: "service_died" in fleet.events("inference-0"))
            await fleet.all_ready()
            after = fleet.core.hellos
            assert after["training-0"]["address"] != before["training-0"]["address"]
            assert after["env-0"] == before["env-0"]
            assert after["inference-0"] == before["inference-0"]  # nobody took its port
            assert fleet.pid("inference-0") != inference
            told = [line for line in fleet.notes() if line.startswith("inference started")][-1]
            assert f"--training {after['training-0']['address']}" in told
            os.kill(fleet.pid("training-0"), SIGKILL)  # once more, with the port free: it stays
            restarts = fleet.core.services["training-0"].restarts
            await fleet.until(lambda: fleet.core.services["training-0"].restarts > restarts)
            await fleet.all_ready()
        assert fleet.core.hellos == after
        fleet.stop()

    play(fleet, story)
    moved = next(note for note in fleet.heard if note.event.name == "service_moved")
    assert moved.sentence.startswith("training-0: another program took its port: it is at 127.0.0.1:")


def test_a_service_waits_for_a_port_that_was_given(tmp_path: Path) -> None:
    port = free_port()
    free = ("training.port=0", "inference.port=0", "inference.grpc_port=0")
    fleet = Fleet(tmp_path, settings=("topology.ports=fixed", f"env_service.port={port}", *free))

    async def story() -> None:
        await fleet.all_ready()
        with await kill_and_take_port(fleet, "env-0"):
            await fleet.until(lambda: "service_waits" in fleet.events("env-0"))
            restarts = fleet.core.services["env-0"].restarts
            await fleet.until(lambda: fleet.core.services["env-0"].restarts >= restarts + 2)
        await fleet.all_ready()
        fleet.stop()

    play(fleet, story)
    (taken,) = [note for note in fleet.heard if note.event.name == "service_waits"]
    assert taken.sentence == (
        f"env-0: cannot start again before its port is free: cannot listen on port {port} of 127.0.0.1: "
        "Address already in use; choose another"
    )
    assert fleet.core.services["inference-0"].restarts == 0


def test_settings_in_environment_variables_are_not_applied_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATTLE_ENV__WIDTH", "20")
    fleet = Fleet(tmp_path)

    async def story() -> None:
        await fleet.all_ready()
        fleet.stop()

    play(fleet, story)
    assert [hello["variables"] for hello in fleet.core.hellos.values()] == [[], [], []]


def test_a_log_steers_no_terminal(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, env=["steer", "flee"])

    async def story() -> None:
        await fleet.until(lambda: "service_died" in fleet.events("env-0"))
        fleet.stop()

    play(fleet, story)
    log = (tmp_path / "service-logs" / "env-0.log").read_text()
    assert "é\t?[2J ?2J ?? \ufffd2J \ufffd \ufffd" in log
    assert all(letter.isprintable() or letter in "\t\n" for letter in log)


def test_warnings_are_shown_in_a_line_each_and_all_of_it_is_in_the_log(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, env=["warn"])

    async def story() -> None:
        await fleet.all_ready()
        await fleet.until(lambda: fleet.events("env-0").count("output") == 2)
        fleet.stop()

    play(fleet, story)
    warnings = [str(note.event) for note in fleet.heard if note.said is not None]
    assert warnings == ["no answer: trying again", "OSError: gone"]
    log = (tmp_path / "service-logs" / "env-0.log").read_text()
    assert '"url"' in log
    assert "Traceback" in log


@pytest.mark.parametrize(
    ("way", "reason", "tries"),
    [
        ("refuse", "env.width: must be larger", 1),
        ("crash", "RuntimeError: the wheels came off", supervisor_module.MOST_FIRST_DEATHS),
        ("mumble", "its first line does not say where it listens: 'here I am'", supervisor_module.MOST_FIRST_DEATHS),
    ],
)
def test_a_service_that_cannot_start_is_given_up_in_a_line(tmp_path: Path, way: str, reason: str, tries: int) -> None:
    fleet = Fleet(tmp_path, env=[way])
    play(fleet)
    assert fleet.core.failure == f"env-0 cannot start: {reason}"
    assert sum(line.startswith("env started") for line in fleet.notes()) == tries
    assert not any(watched.alive for watched in fleet.core.services.values())


def test_a_program_that_is_not_there_is_a_reason_too(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, program=(str(tmp_path / "gone"),))
    play(fleet)
    assert fleet.core.failure is not None
    assert fleet.core.failure.endswith(
        f"cannot start: it cannot be started: {tmp_path}/gone: No such file or directory"
    )


def test_a_service_that_ends_by_itself_is_started_again_ever_later(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, inference=["flee"])

    async def story() -> None:
        await fleet.until(lambda: fleet.events("inference-0").count("service_restarted") == 3)
        fleet.stop()

    play(fleet, story)
    died = next(note.event for note in fleet.heard if isinstance(note.event, of_launch.ServiceDied))
    assert died.reason == "ended with exit status 3"


def test_a_service_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "CHECKPOINT_SECONDS", 0.3)
    monkeypatch.setattr(supervisor_module, "STOP_SECONDS", 0.3)
    fleet = Fleet(tmp_path, training=["deaf"], env=["deaf"])

    async def story() -> None:
        await fleet.all_ready()
        fleet.stop()

    play(fleet, story)
    assert [line for line in fleet.notes() if line.endswith("stopped")] == ["inference stopped"]


def test_a_stop_while_services_are_starting_reaches_them_too(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, env=["silent"], training=["silent"])

    async def story() -> None:
        await fleet.until(lambda: "service_started" in fleet.events("env-0"))
        fleet.stop()

    play(fleet, story)
    assert fleet.core.done


def test_a_service_that_writes_without_end_is_read_without_end(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, env=["flood"])

    async def story() -> None:
        await fleet.all_ready()
        while "env flooded" not in fleet.notes():
            await asyncio.sleep(0.05)
        fleet.stop()

    play(fleet, story)
    assert (tmp_path / "service-logs" / "env-0.log").stat().st_size > 2**22


def test_a_failure_in_the_launcher_leaves_no_process(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def story() -> None:
        await fleet.all_ready()
        raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup):
        play(fleet, story)
    for name in fleet.services:
        wait_for_end(fleet.pid(name))


def wait_for_end(pid: int) -> None:
    """Return when a process has ended; a zombie has."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} lives on")


@pytest.mark.parametrize("moment", ["service_started", "service_ready"])
def test_kill_9_of_the_launcher_leaves_no_process(tmp_path: Path, moment: str) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tests.launch.launch_environments", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parents[1],
    )
    assert launcher.stdout is not None
    pids, seen = set[int](), 0
    while seen < 2:
        event, pid = launcher.stdout.readline().split()
        pids |= {int(pid)} if event == "service_started" else set()
        seen += event == moment
    launcher.kill()
    launcher.communicate()
    assert len(pids) == 2
    for pid in pids:
        wait_for_end(pid)


def test_files_in_the_working_directory_do_not_stand_for_modules_of_the_service(tmp_path: Path) -> None:
    for module in ("queue", "statistics", "uvloop", "yaml"):
        (tmp_path / f"{module}.py").write_text(f"raise SystemExit('{module}.py of the working directory was run')\n")

    command = [*RATTLE, "env", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        first = service.stdout.readline()
        service.stdin.close()  # the leash

    assert json.loads(first)["service"] == "rattle env"
