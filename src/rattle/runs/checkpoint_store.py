"""Storing checkpoints in a thread of its own: training continues as soon as what a checkpoint holds has been copied."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from rattle.analytics.directory_sink import pack_tables
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.writer import drop_unfinished, storing, write_together
from rattle.policies.file import StoredPolicy, dump_policy
from rattle.runs.checkpoint import (
    Checkpoint,
    checkpoint_file,
    drop_checkpoints,
    dump_checkpoint,
    make_room,
    oldest_mark,
)
from rattle.runs.progress import Summary
from rattle.runs.run_tables import dump_run_row, run_row
from rattle.settings.experiment import ExperimentSettings


@dataclass(frozen=True)
class Snapshot:
    """All that one checkpoint stores, in copies: training changes none of it."""

    checkpoint: Checkpoint
    policy: Callable[[], bytes]  # makes the policy file, or has it
    best: StoredPolicy | None  # None where there is none, or it is stored already
    summary: Summary  # without the hash of the policy file
    sync_tables: Callable[[], None]


class CheckpointStore:
    """Stores one snapshot at a time; none waits.

    A snapshot that had to wait would be an old one when its turn came, so none should be begun before `is_idle`. The
    disk may take its time then: it delays the next checkpoint, and not what is learnt meanwhile.
    """

    def __init__(
        self,
        directory: RunDirectory,
        settings: ExperimentSettings,
        run_id: str,
        publish: Callable[[Mapping[str, Any]], None] = lambda _row: None,
    ) -> None:
        """Delete what processes that were killed have left half written: only one may write here at a time.

        `publish` gets the run's row of `runs` whenever it is stored.
        """
        with storing(directory.path):
            drop_unfinished(directory.checkpoints, "*")
            for path in (directory.policy, directory.best_policy, directory.run):
                drop_unfinished(directory.path, path.name)
        self._directory = directory
        self._settings = settings
        self._publish = publish
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._storing: Future[None] | None = None
        #: Called by the thread when it has stored something, or failed.
        self.on_idle: Callable[[], object] = lambda: None
        self.stored = Summary.of_nothing_yet(run_id, str(directory.path))  # what the newest stored checkpoint holds
        self.seconds = 0.0  # from the beginning of the last checkpoint until the disk had it
        self.cost = 0.0  # of these, seconds that the processor worked for it

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being stored; raises what stopped the last snapshot, as `wait` does."""
        if self._storing is not None and self._storing.done():
            self.wait()
        return self._storing is None

    def begin(self, take: Callable[[], Snapshot]) -> None:
        """Store what `take` returns, when the one before is stored; raises what stopped that one."""
        self.wait()
        began = time.perf_counter()
        snapshot = take()
        copied = time.perf_counter() - began
        self._storing = self._thread.submit(self._store, snapshot, copied)
        self._storing.add_done_callback(lambda _stored: self.on_idle())

    def wait(self) -> None:
        """Wait until everything is stored; raises AnalyticsError when the disk did not take it, and then no more."""
        storing, self._storing = self._storing, None
        if storing is not None:
            storing.result()

    def close(self) -> None:
        """Wait as `wait` does, and stop the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _store(self, snapshot: Snapshot, copied: float) -> None:
        began, worked = time.perf_counter(), time.thread_time()
        snapshot.sync_tables()  # before the checkpoint that counts on them
        directory, update = self._directory, snapshot.checkpoint.update
        policy = snapshot.policy()
        summary = replace(snapshot.summary, policy_sha256=hashlib.sha256(policy).hexdigest())
        numbers = snapshot.checkpoint.numbers
        row = run_row(self._settings, summary, numbers["started"], numbers["origin"])
        best = {} if snapshot.best is None else {directory.best_policy: dump_policy(snapshot.best)}
        with storing(directory.checkpoints):
            directory.checkpoints.mkdir(exist_ok=True)
        path = checkpoint_file(directory, update)
        make_room(path, summary.run_id)
        write_together(
            {
                path: dump_checkpoint(snapshot.checkpoint, summary.run_id, update),
                directory.policy: policy,
                **best,
                directory.run: dump_run_row(row),
            }
        )
        self._publish(row)
        drop_checkpoints(directory, summary.run_id, self._settings.train.keep_checkpoints)
        pack_tables(directory, oldest_mark(directory, summary.run_id))
        self.seconds = copied + time.perf_counter() - began
        self.cost = copied + time.thread_time() - worked
        self.stored = summary
