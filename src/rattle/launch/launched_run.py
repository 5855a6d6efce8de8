"""One run of services: started, followed to its end, stopped and written down."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rattle.analytics.run_directory import RunDirectory
from rattle.events import About, Event, Level, LogEntry, bound, emit, of_launch, of_lockstep, of_runs, of_services
from rattle.launch.errors import LaunchError
from rattle.launch.notes import Note
from rattle.launch.piped import Parcel
from rattle.launch.plan import training_address
from rattle.launch.processes import Processes
from rattle.launch.run_status import ChaosSummary, RunStatus
from rattle.launch.service import Kind, LaunchedService, command
from rattle.launch.status_calls import StatusCalls
from rattle.launch.supervisor import Supervisor
from rattle.launch.ticking import Stillness, SyncStatus, Ticking
from rattle.launch.view import LaunchView, Picture
from rattle.runs.find_policy import policy_run_directory
from rattle.runs.progress import Status, Summary
from rattle.runs.run_clock import RunLimits
from rattle.runs.run_tables import now, open_broker_sink, read_run_row, write_run_row
from rattle.settings.experiment import ExperimentSettings
from rattle.stop_signals import stop_signals
from rattle.telemetry.run_log import open_run_log

WRITER = "up"
_POLL_SECONDS = 0.25
#: How soon Training is asked again while it is stopping, which it may do quickly.
_LAST_POLL_SECONDS = 0.005
#: Of the errors that services report, so many of the last are kept with their tracebacks.
_MOST_TRACEBACKS = 20


@dataclass(frozen=True)
class RunOutcome:
    """The result of a run."""

    stopped_by: signal.Signals | None  # which asked for its end
    killed_by: signal.Signals | None  # a second one, which is to end this process, too
    sync: SyncStatus | None  # what its Sync service said last
    tick_seconds: float  # from the first tick to the last
    restarts: int  # of services


class Launch:
    """One run of services, from its first process to its summary."""

    def __init__(
        self,
        settings: ExperimentSettings,
        directory: RunDirectory,
        services: Sequence[LaunchedService],
        limits: RunLimits,
        view: LaunchView,
        *,
        resumed_at: int | None = None,
        kill_every: float | None = None,
        patience: float | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        """`overrides` are settings of services that the run's own do not hold.

        `patience` is how many seconds may pass without a tick or an update before the run has failed.

        None: those of `topology.patience_seconds`.
        """
        self._settings = settings
        self._directory = directory
        self._limits = limits
        self._resumed_at = resumed_at
        self._kill_every = kill_every
        self._overrides = tuple(overrides)
        self._patience = settings.topology.patience_seconds if patience is None else patience
        self._began_as = read_run_row(directory)
        self._run_id = self._began_as["run_id"]
        self._supervisor = Supervisor(services)
        self._about = About(self._run_id, settings.experiment, quiet=True)  # the view shows it
        variables = {
            "RUN_ID": self._run_id,
            "RUN_DIR": str(directory.path.resolve()),
            "EXPERIMENT_NAME": settings.experiment,
        }
        self._processes = Processes(
            self._supervisor,
            self._command,
            directory.service_logs,
            self._note,
            variables=variables,
            parcel=Parcel(directory, self._run_id, settings),
        )
        self._standing = RunStatus(settings.training.policies, limits)
        self._ticking = Ticking()
        self._view = view
        self._stillness = Stillness(time.monotonic())
        self._tracebacks: deque[tuple[str, str]] = deque(maxlen=_MOST_TRACEBACKS)  # with what services said
        self._broken_off: str | None = None  # why the run is ended before its time
        self._stopped_by: signal.Signals | None = None
        self._asked_to_stop = asyncio.Event()
        self._killed_by: signal.Signals | None = None

    def run(self) -> RunOutcome:
        """Run the services to the end of the run, show the result and return it.

        Raises LaunchError where it has failed.
        """
        close_log = open_run_log(self._directory, WRITER, self._run_id, self._settings.experiment)
        end_publishing = self._settings.telemetry.publish_logs(self._directory.outbox)
        self._view.start(self._run_id, str(self._directory.path), self._resumed_at)
        summary: Summary | None = None
        try:
            asyncio.run(self._run_services())
            summary = self._conclude()
        finally:
            self._view.finish(summary)
            close_log()
            end_publishing()
        return RunOutcome(
            stopped_by=self._stopped_by,
            killed_by=self._killed_by,
            sync=self._ticking.status,
            tick_seconds=self._ticking.seconds,
            restarts=self._supervisor.restarts,
        )

    async def _run_services(self) -> None:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._stop, number)
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(self._follow())]
            if self._kill_every is not None:
                others.append(group.create_task(self._kill(self._kill_every)))
            await self._processes.run()
            for task in others:
                task.cancel()

    def _stop(self, number: signal.Signals) -> None:
        """Take a signal: the first asks services to stop, the second ends them and this process at once."""
        if self._stopped_by is not None:
            self._killed_by = number
            self._processes.do(self._supervisor.stop_at_once())
        self._stopped_by = self._stopped_by or number
        self._asked_to_stop.set()
        self._stop_services()

    def _stop_services(self) -> None:
        is_complete = self._ticking.finished and not self._broken_off
        self._processes.do(self._supervisor.stop(time.monotonic(), is_complete=is_complete))

    async def _follow(self) -> None:
        """Ask services where they stand, and show it, until nothing more is learnt, or no tick is to come; stop them.

        Training that is stopping answers when it has stored what it has learnt.
        """
        async with StatusCalls() as calls:
            while not (self._standing.ended or self._ticking.finished or self._broken_off or self._supervisor.stopping):
                await asyncio.gather(self._ask_trainings(calls), self._ask_sync(calls))
                self._broken_off = self._broken_off or self._why_impatient(time.monotonic())
                self._view.update(self._picture())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._asked_to_stop.wait(), _POLL_SECONDS)
            self._stop_services()
            while True:
                await self._ask_trainings(calls)
                self._view.update(self._picture())
                await asyncio.sleep(_LAST_POLL_SECONDS if self._ready("training", "address") else _POLL_SECONDS)

    async def _ask_trainings(self, calls: StatusCalls) -> None:
        addresses = self._ready("training", "address")
        answers = await asyncio.gather(
            *(calls.ask(training_address(self._settings, address)) for address in addresses.values())
        )
        for name, status in zip(addresses, answers, strict=True):
            if status is not None:
                self._standing.take(name, status, time.monotonic())

    async def _ask_sync(self, calls: StatusCalls) -> None:
        for url in self._ready("sync", "url").values():
            status = await calls.ask_sync(url)
            if status is not None:
                self._ticking.take(status, time.monotonic())

    def _ready(self, kind: Kind, key: str) -> dict[str, str]:
        """Return the addresses, by the key of the first line, of the services of a kind that can be asked.

        Training says to its end where it stands.
        """
        if self._supervisor.stopping and kind != "training":
            return {}
        return {
            name: watched.hello[key]
            for name, watched in self._supervisor.services.items()
            if watched.service.kind == kind and watched.phase == "ready" and watched.hello is not None
        }

    def _why_impatient(self, now: float) -> str | None:
        """Return why the run has failed if it has stood still for too long; say now and then that it stands still."""
        status = self._ticking.status
        steps = sum(policy.env_steps for policy in self._standing.statuses.values())
        if self._stillness.look((steps, None if status is None else status.tick), now):
            self._tell(of_launch.RunStandsStill(seconds=self._stillness.seconds(now), waited_for=self._waited_for()))
        if self._patience is None or self._stillness.seconds(now) < self._patience:
            return None
        after = "nothing has been learnt" if status is None else f"no tick has followed tick {status.tick}"
        return f"{after} for {self._patience:g} seconds: {self._waited_for()}"

    def _waited_for(self) -> str:
        """Return for whom a run that stands still waits, as far as that is known."""
        services = self._supervisor.services.items()
        absent = [f"{name} ({one.reason or one.phase})" for name, one in services if one.phase != "ready"]
        members = list((self._ticking.status or SyncStatus()).waiting_for)
        names = ", ".join(absent or members)
        return (
            f"{names} is waited for" if names else f"all services are ready: look into {self._directory.service_logs}"
        )

    async def _kill(self, every: float) -> None:
        """Kill a service now and then."""
        began = time.monotonic()
        while not self._supervisor.targets():
            await asyncio.sleep(_POLL_SECONDS)
        took = time.monotonic() - began
        if took > every:
            self._tell(of_launch.KillsTooOften(seconds=took, every=every))
        while True:
            await asyncio.sleep(every)
            if targets := self._supervisor.targets():
                self._processes.do(self._supervisor.kill(secrets.choice(targets)))

    def _picture(self) -> Picture:
        services = tuple(self._supervisor.services.values())
        kills = None if self._kill_every is None else self._supervisor.kills
        now = time.monotonic()
        return Picture(
            self._standing.progress(now),
            self._standing.statuses,
            services,
            self._supervisor.stopping,
            kills,
            self._ticking.now,
            self._stillness.seconds(now),
        )

    def _command(self, name: str) -> list[str]:
        """Return the arguments of a service: Training is told what this command changes of the limits."""
        changes = [*self._overrides]
        watched = self._supervisor.services[name]
        service = watched.service
        if service.kind == "training":
            left = self._standing.seconds_left(name, time.monotonic())
            limits = RunLimits(self._limits.steps, self._limits.seconds if left is None else left)
            own = self._settings.train
            changes += [f"train.steps={limits.steps}"] if limits.steps != own.steps else []
            changes += [f"train.seconds={limits.seconds}"] if limits.seconds != own.seconds else []
        return command(service, self._supervisor.hellos, changes, moves=watched.moves)

    def _tell(self, event: Event) -> None:
        """Write down, and show, an event of the run."""
        self._note(Note("run", event, event.level))

    def _note(self, note: Note) -> None:
        """Show what has happened, and write it down where the service has not done that itself."""
        if isinstance(note.event, of_services.Output):  # of a library, or of Python itself: no row has it
            self._log(note.event, note.level, {"of": note.name})
        elif note.said is None:
            self._log(note.event, note.level)
        if note.said is not None:
            self._remember(note.said)
            if self._supervisor.stopping:  # the end of one service is trouble for others
                return
            if isinstance(note.event, of_runs.EnvironmentFailed):
                self._broken_off = self._broken_off or note.event.error
                return
            if self._is_natural(note):
                return
        self._view.note(note)

    def _log(self, event: Event, level: Level | None = None, fields: Mapping[str, Any] | None = None) -> None:
        """Append an event to the table `logs`."""
        with bound(**(fields or {})):
            emit(event, level=level, about=self._about)

    def _remember(self, said: LogEntry) -> None:
        """Keep the traceback of an error that a service has told."""
        error, traceback = said.fields.get("error"), said.fields.get("traceback")
        if error and traceback:
            self._tracebacks.append((str(error), str(traceback)))

    def _traceback_of(self, error: str) -> dict[str, str]:
        """Return, for a row of `logs`, the traceback that a service has told of an error; nothing if there is none.

        Other services have the error from that one, and say where it came up before it.
        """
        return next(({"traceback": trace} for known, trace in self._tracebacks if known in error), {})

    def _is_natural(self, note: Note) -> bool:
        """Whether a service warns of what is as it should be.

        A Sync service waits while others are starting, and leads nobody when all ticks are done. Actors wait where
        Training has said that the run has failed.
        """
        services = self._supervisor.services
        if services[note.name].service.kind != "sync":
            return isinstance(note.event, of_lockstep.LockstepOver | of_runs.RunOver)
        just_now = time.monotonic() - self._settings.sync.silence_seconds
        if isinstance(note.event, of_lockstep.HistoriesDisagree):
            return False
        return any(watched.phase != "ready" or watched.since > just_now for watched in services.values())

    def _conclude(self) -> Summary | None:
        """Give the runs of all policies their last status, where Training could not; return the result of the first.

        Raises LaunchError where it has failed.
        """
        self._write_what_is_elsewhere()
        of_all = self._supervisor.failure or self._broken_off
        failure = of_all or self._standing.failure or self._why_in_vain()
        if failure:
            for directory in self._directories() if of_all else [self._directory]:
                self._write_status("failed", directory)
            traceback = self._traceback_of(failure)
            if failure != self._standing.failure:  # else Training has said so
                self._log(of_runs.RunFailed(error=failure), fields=traceback)
            raise LaunchError(f"{failure} (its traceback is in the table logs)" if traceback else failure)
        if self._ticking.finished:  # Training may have died before it was told
            for directory in self._directories():
                self._write_status("finished", directory)
            self._log(of_runs.RunFinished())
        elif read_run_row(self._directory)["status"] in ("running", "interrupted"):
            self._write_status("interrupted", self._directory)
            self._log(of_runs.RunInterrupted())
        return self._summary() if self._killed_by is None else None

    def _write_what_is_elsewhere(self) -> None:
        """Give the run its row here where Training has stored it on another machine, and say which."""
        policy_id, row = self._settings.training.policies[0], read_run_row(self._directory)
        said, prefix = self._standing.row(policy_id), self._settings.topology.prefix.training
        if not prefix or not said or row != self._began_as:  # which Training replaces where it has this folder
            return
        write_run_row(self._directory, {**row, **said, "ended": now()})
        training = next(one.service for one in self._supervisor.services.values() if one.service.kind == "training")
        path = self._standing.statuses[policy_id].run_dir
        command = shlex.join(training.prefix)
        self._tell(of_launch.RunElsewhere(service=training.name, command=command, path=path))

    def _why_in_vain(self) -> str | None:
        """Return why a run that has had its seconds has failed: it had stopped learning long before."""
        seconds = self._standing.seconds_in_vain(self._stillness, time.monotonic())
        return (
            None
            if seconds is None
            else f"nothing was learnt in the last {seconds:.0f} s: {self._directory.service_logs}"
        )

    def _directories(self) -> list[RunDirectory]:
        """Return where the policies' runs are that have begun."""
        others = [
            policy_run_directory(self._directory, policy_id) for policy_id in self._settings.training.policies[1:]
        ]
        return [self._directory, *(directory for directory in others if directory.is_run)]

    def _write_status(self, status: Status, directory: RunDirectory) -> None:
        row = {**read_run_row(directory), "status": status, "ended": now()}
        write_run_row(directory, row)
        if (sink := open_broker_sink(directory, row["run_id"], self._settings, WRITER)) is not None:
            sink.append("runs", [row])
            sink.close()

    def _summary(self) -> Summary:
        row = read_run_row(self._directory)
        shared = {name: row[name] for name in Summary.__dataclass_fields__ if name in row}
        shared |= {"run_dir": str(self._directory.path), "policy_version": row["updates"]}
        if self._kill_every is None:
            return Summary(**shared)
        return ChaosSummary(**shared, kills=self._supervisor.kills, restarts=self._supervisor.restarts)
