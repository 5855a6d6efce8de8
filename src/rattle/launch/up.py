"""Starting an experiment's services, following them to the end of the run and stopping them: what `rattle up` does."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory, find_run
from rattle.analytics.writer import TableWriter
from rattle.launch.errors import LaunchError
from rattle.launch.plan import Service, command, plan
from rattle.launch.processes import Processes
from rattle.launch.standing import ChaosSummary, Standing
from rattle.launch.status_calls import StatusCalls
from rattle.launch.supervisor import Note, Supervisor
from rattle.launch.view import Picture, choose_view
from rattle.services.utils.sockets import listen
from rattle.trainer.clock import Limits
from rattle.trainer.new_runs import make_folder, name_run, store_beginning
from rattle.trainer.progress import Status, Summary
from rattle.trainer.run_tables import log_row, now, read_run_row, write_run_row
from rattle.trainer.served import with_served_environment
from rattle.trainer.settings import ExperimentSettings
from rattle.trainer.settings_sources import check_settings, read_yaml

WRITER = "up"
_POLL_SECONDS = 0.25


def up(settings: ExperimentSettings, run_dir: Path | None, *, kill_every: float | None, as_json: bool) -> None:
    """Start a run in `run_dir`, or below runs/, and have services train it until a limit or a signal.

    Raises RattleError with one line when it cannot start, when a service cannot be kept running, or when training
    fails.
    """
    settings = with_served_environment(settings)
    directory, run_id = name_run(settings, run_dir)
    services = plan(settings, directory.config)
    _check_ports(services, settings)
    make_folder(directory)
    with directory.launching():
        store_beginning(directory, run_id, settings)
        limits = Limits(settings.train.steps, settings.train.seconds)
        _Launch(settings, directory, services, limits, None, kill_every, as_json=as_json).run()


def resume(name: str, steps: int | None, seconds: float | None, *, kill_every: float | None, as_json: bool) -> None:
    """Go on with a run from its newest checkpoint; `steps` and `seconds` replace the run's own limits."""
    directory = find_run(name)
    with directory.launching():
        settings = check_settings(read_yaml(directory.config), str(directory.config))
        services = plan(settings, directory.config)
        _check_ports(services, settings)
        resumed_at = read_run_row(directory)["updates"]
        limits = Limits(steps or settings.train.steps, seconds or settings.train.seconds)
        _Launch(settings, directory, services, limits, resumed_at, kill_every, as_json=as_json).run()


def _check_ports(services: Sequence[Service], settings: ExperimentSettings) -> None:
    """Raise ServiceError for a fixed port that is taken."""
    hosts = {
        "sync": settings.sync.host,
        "env": settings.env_service.host,
        "training": settings.training.host,
        "inference": settings.inference.host,
    }
    for service in services:
        for port in service.ports:
            if port.number:
                kind = socket.SOCK_DGRAM if port.is_udp else socket.SOCK_STREAM
                listen(hosts[service.kind], port.number, kind).close()


class _Launch:
    """One `rattle up`, from its first process to its summary."""

    def __init__(
        self,
        settings: ExperimentSettings,
        directory: RunDirectory,
        services: Sequence[Service],
        limits: Limits,
        resumed_at: int | None,
        kill_every: float | None,
        *,
        as_json: bool,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._limits = limits
        self._resumed_at = resumed_at
        self._kill_every = kill_every
        self._run_id = read_run_row(directory)["run_id"]
        self._supervisor = Supervisor(services)
        self._processes = Processes(self._supervisor, self._command, directory.service_logs, self._note)
        self._standing = Standing(settings.training.policies, limits)
        self._view = choose_view(as_json=as_json)
        self._asked_to_stop = False
        self._killed_by: signal.Signals | None = None

    def run(self) -> None:
        """Run the services to the end of the run, and show what came of it."""
        self._logs = TableWriter(self._directory.table("logs"), WRITER)
        self._view.start(self._run_id, str(self._directory.path), self._resumed_at)
        summary: Summary | None = None
        try:
            asyncio.run(self._run_services())
            summary = self._conclude()
        finally:
            self._view.finish(summary)
            with suppress(AnalyticsError):
                self._logs.close()
        if self._killed_by is not None:
            signal.signal(self._killed_by, signal.SIG_DFL)
            os.kill(os.getpid(), self._killed_by)

    async def _run_services(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._follow())]
            if self._kill_every is not None:
                beside.append(group.create_task(self._kill(self._kill_every)))
            await self._processes.run()
            for task in beside:
                task.cancel()

    def _stop(self, number: signal.Signals) -> None:
        """Take a signal: the first asks services to stop, the second ends them and this process at once."""
        if self._asked_to_stop:
            self._killed_by = number
            self._processes.do(self._supervisor.stop_at_once())
        self._asked_to_stop = True
        self._processes.do(self._supervisor.stop(time.monotonic()))

    async def _follow(self) -> None:
        """Ask Training services where they stand, and show it, until nothing more is learnt."""
        async with StatusCalls() as calls:
            while not self._standing.ended:
                addresses = self._trainings()
                answers = await asyncio.gather(*map(calls.ask, addresses.values()))
                for name, status in zip(addresses, answers, strict=True):
                    if status is not None:
                        self._standing.take(name, status, time.monotonic())
                self._view.update(self._picture())
                await asyncio.sleep(_POLL_SECONDS)
        self._processes.do(self._supervisor.stop(time.monotonic()))

    def _trainings(self) -> dict[str, str]:
        """Return the addresses of the Training services that can be asked."""
        if self._supervisor.stopping:
            return {}
        return {
            name: watched.address
            for name, watched in self._supervisor.services.items()
            if watched.service.kind == "training" and watched.phase == "ready"
        }

    async def _kill(self, every: float) -> None:
        """Kill a service now and then."""
        while True:
            await asyncio.sleep(every)
            if targets := self._supervisor.targets():
                self._processes.do(self._supervisor.kill(secrets.choice(targets)))

    def _picture(self) -> Picture:
        services = tuple(self._supervisor.services.values())
        kills = None if self._kill_every is None else self._supervisor.kills
        progress = self._standing.progress(time.monotonic())
        return Picture(progress, self._standing.statuses, services, self._supervisor.stopping, kills)

    def _command(self, name: str) -> list[str]:
        """Return the arguments of a service: Training is told what this command changes of the limits."""
        changes = []
        service = self._supervisor.services[name].service
        if service.kind == "training":
            left = self._standing.seconds_left(name, time.monotonic())
            limits = Limits(self._limits.steps, self._limits.seconds if left is None else left)
            own = self._settings.train
            changes += [f"train.steps={limits.steps}"] if limits.steps != own.steps else []
            changes += [f"train.seconds={limits.seconds}"] if limits.seconds != own.seconds else []
        return command(service, self._supervisor.hellos, changes)

    def _note(self, note: Note) -> None:
        """Show what has happened to a service; warnings of its own are in its log already."""
        if note.event != "service_warning":
            fields = {"service": note.name, **note.fields}
            row = log_row(self._run_id, self._settings.name, WRITER, note.event, note.level, fields)
            with suppress(AnalyticsError):  # a full disk is Training's to report
                self._logs.write([row])
                self._logs.flush()
        self._view.note(note)

    def _conclude(self) -> Summary | None:
        """Give the run its last status, where Training could not, and return what came of it.

        Raises LaunchError where it has failed.
        """
        failure = self._supervisor.failure or self._standing.failure
        row = read_run_row(self._directory)
        if failure or row["status"] == "running":
            status: Status = "failed" if failure else "interrupted"
            write_run_row(self._directory, {**row, "status": status, "ended": now()})
        if failure:
            raise LaunchError(failure)
        return self._summary() if self._killed_by is None else None

    def _summary(self) -> Summary:
        row = read_run_row(self._directory)
        shared = {name: row[name] for name in Summary.__dataclass_fields__ if name in row}
        shared |= {"run_dir": str(self._directory.path), "policy_version": row["updates"]}
        if self._kill_every is None:
            return Summary(**shared)
        return ChaosSummary(**shared, kills=self._supervisor.kills, restarts=self._supervisor.restarts)
