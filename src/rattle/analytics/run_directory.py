"""Where a run keeps what, how a run is found by name, and the locks that keep two processes out of one run.

<run directory>/
    config.yaml                     the effective configuration
    run.json                        this run's row of the table `runs`
    environment.json                what the environment is: its spaces, its agents, its metrics
    logs|updates|episodes|evaluations/WRITER.jsonl   append-only tables, a file a writing process
    steps/WRITER-NNNNNN.parquet     recorded episodes, each file complete when it appears
    checkpoints/update-NNNNNNNNNN.safetensors
    policy.safetensors              the newest checkpointed policy
    policy-first.safetensors        the policy that the run began with, if its weights were not drawn
    policy-best.safetensors         the policy with the highest mean return so far, in evaluations or in training
    service-logs/SERVICE.log        what the processes of `rattle up` wrote to stdout and stderr
    outbox/WRITER/                  rows that wait for the broker, where the run has one
    history.jsonl                   hashes of what happened in every tick of a lockstep run
    annotations.json                tags and a note, from `rattle runs tag` and `rattle runs note`
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from rattle.analytics import schema
from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.writer import storing
from rattle.events import emit, of_runs
from rattle.text import one_line

#: Takes a line about what is left out of an answer.
Warn = Callable[[str], None]

RUNS_ROOT = Path("runs")
#: The folders of a run's tables; the table `runs` is run.json.
TABLES = tuple(name for name in schema.TABLES if name != "runs")
LATEST = "latest"

#: Patterns of what else a run writes into its directory, next to its tables and config.yaml.
_PARTS = (
    "run.json",
    "environment.json",
    "annotations.json",
    "checkpoints",
    "policy*.safetensors",
    "history*.jsonl",
    "service-logs",
    "outbox",
    "life",
    "tensorboard",
    "wandb",
)
#: Patterns of what lies there too: pictures of commands that were asked about the run, and files of killed processes.
_BESIDE = ("learning_curve.png", "replay.gif", ".[0-9]*.*", ".token")
_MOST_SECONDS_OF_A_CHANGE = 5.0


class RunDirectory:
    """The paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.run = path / "run.json"
        self.environment = path / "environment.json"
        self.policy = path / "policy.safetensors"
        self.first_policy = path / "policy-first.safetensors"
        self.best_policy = path / "policy-best.safetensors"
        self.checkpoints = path / "checkpoints"
        self.outbox = path / "outbox"
        self.service_logs = path / "service-logs"
        self.history = path / "history.jsonl"
        self.annotations = path / "annotations.json"
        self.token = path / ".token"
        self._lock = path / ".lock"
        self._launch_lock = path / ".launch.lock"
        self._annotations_lock = path / ".annotations.lock"

    def __str__(self) -> str:
        return str(self.path)

    def table(self, name: str) -> Path:
        """Return the folder that holds the files of a table."""
        return self.path / name

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here, as far as this user may see; no name that a system can have raises."""
        try:
            return self.config.is_file()
        except (OSError, ValueError):  # no permission; a name too long, or with a null byte
            return False

    def remains(self) -> list[str]:
        """Return the names of what lies here under the names of a run's files, which a new run would overwrite."""
        found = self._matching(self.config.name, *_PARTS, *TABLES)
        return sorted(path.name + "/" * path.is_dir() for path in found if not _is_empty_folder(path))

    def parts(self) -> list[Path]:
        """List what lies here of what a run, and commands that are asked about it, write; config.yaml comes last."""
        found = self._matching(*_PARTS, *_BESIDE, *TABLES)
        return [*sorted(found), *([self.config] if self.config.exists() else [])]

    def _matching(self, *patterns: str) -> set[Path]:
        return {path for pattern in patterns for path in self.path.glob(pattern)}

    @property
    def locks(self) -> tuple[Path, ...]:
        """Return the files whose locks say that somebody writes here."""
        return self._lock, self._launch_lock, self._annotations_lock

    @property
    def in_use(self) -> bool:
        """Whether a living process, this one included, holds a lock of this run.

        A lock that this user may not look at counts as held: someone else's run may well be in progress.
        """
        return is_held(self._lock) or is_held(self._launch_lock)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here; raises AnalyticsError when one already does.

        The operating system drops the lock with the process, however it dies.
        """
        with self._hold(self._lock):
            yield

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Keep other launchers from running services here; a service that writes locks the directory for itself.

        Raises AnalyticsError when there is one already, or when a process writes here.
        """
        with self._hold(self._launch_lock):
            with self.locked():
                pass
            yield

    @contextmanager
    def annotating(self) -> Iterator[None]:
        """Keep other processes from changing what people say of this run; waits for one that does so just now."""
        with self._hold(self._annotations_lock, patience=_MOST_SECONDS_OF_A_CHANGE):
            yield

    @contextmanager
    def _hold(self, lock: Path, patience: float = 0.05) -> Iterator[None]:
        with storing(lock):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            until = time.monotonic() + patience  # `in_use` holds it for microseconds, which must not stop a run
            while not _lock(descriptor, fcntl.LOCK_EX):
                time.sleep(0.05)
                if time.monotonic() > until and not _lock(descriptor, fcntl.LOCK_EX):
                    raise AnalyticsError(
                        f"run directory {self.path} is in use by another process: "
                        "wait for it, stop it, or choose another"
                    )
            yield
        finally:
            os.close(descriptor)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock on a file; one that this user may not look at counts as held."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def list_runs(root: Path = RUNS_ROOT, warn: Warn = lambda _line: None) -> list[RunDirectory]:
    """List the runs below `root`, or `root` itself when it is a run, oldest first by name.

    `warn` gets a line for each folder that this user may not look into.
    """
    if RunDirectory(root).is_run:
        return [RunDirectory(root)]
    if not root.is_dir():
        return []
    with reading(root):
        folders = sorted(root.iterdir())
    for folder in folders:
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
            warn(one_line(f"{folder} is left out: you may not read it"))
    return [run for run in map(RunDirectory, folders) if run.is_run]


def find_run(name: str, root: Path = RUNS_ROOT) -> RunDirectory:
    """Find a run by the path of its directory, by its run_id, by a unique beginning of that, or as "latest"."""
    for path in (Path(name), root / name):
        if RunDirectory(path).is_run:
            return RunDirectory(path)
    runs = list_runs(root)
    if name == LATEST:
        if runs:
            return max(runs, key=_started)
        raise AnalyticsError(f"there is no run in {root}/ yet: start one with 'rattle train'")
    if exact := distinct([run for run in runs if _run_id(run) == name]):
        return _only(exact, f"{len(exact)} directories hold the run '{name}'", "give the path of one")
    matching = distinct([run for run in runs if run.path.name.startswith(name) or _run_id(run).startswith(name)])
    if matching:
        return _only(matching, f"'{name}' is the beginning of {len(matching)} runs in {root}/", "type more of the name")
    raise AnalyticsError(
        f"no run '{one_line(name, 200)}': give a run directory, a run_id from 'rattle runs', or '{LATEST}'"
    )


def without_copies(runs: Iterable[RunDirectory], warn: Warn | None = None) -> list[RunDirectory]:
    """Return each run once; `warn`, or else the log, gets a line for each copy that is left out.

    Names and links of the same directory are one run and need no line. Of copies, which are other directories with the
    same run_id, the one that is called by its run_id counts, else the first.
    """
    chosen: dict[str, RunDirectory] = {}
    for run in distinct(runs):
        run_id = _run_id(run) or run.path.resolve().name
        first = chosen.setdefault(run_id, run)
        if first is run:
            continue
        if run.path.resolve().name == run_id:
            chosen[run_id], first, run = run, run, first
        left_out = of_runs.RunLeftOut(path=str(run.path), other=str(first.path), copy_of=run_id)
        if warn is None:
            emit(left_out)
        else:
            warn(str(left_out))
    return list(chosen.values())


def distinct(runs: Iterable[RunDirectory]) -> list[RunDirectory]:
    """Return one of the runs for each real directory, the first."""
    found: dict[Path, RunDirectory] = {}
    for run in runs:
        found.setdefault(run.path.resolve(), run)
    return list(found.values())


def _only(runs: Sequence[RunDirectory], problem: str, advice: str) -> RunDirectory:
    if len(runs) == 1:
        return runs[0]
    some = ", ".join(str(run.path) for run in runs[:3])
    raise AnalyticsError(one_line(f"{problem} ({some}{', …' if len(runs) > 3 else ''}): {advice}"))


def _run_id(run: RunDirectory) -> str:
    """Return the run_id that a run says it has, which its directory need not be called by; "" when it says none."""
    return str(_row(run).run_id or "")


def _started(run: RunDirectory) -> tuple[str, bool, str]:
    """Return what orders runs by when they were started, which copying and editing leave as it is.

    A run comes after its copies: it is called by its run_id.
    """
    row, name = _row(run), run.path.name
    return str(row.started or ""), name == row.run_id, name


class _Row(msgspec.Struct):
    """What tells runs apart, of a run's row; the rest is large."""

    run_id: Any = None
    started: Any = None


def _row(run: RunDirectory) -> _Row:
    try:
        return msgspec.json.decode(run.run.read_bytes(), type=_Row)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return _Row()
