"""A policy that is served without playing: a run's or a file's, and what it is replaced with while it is served."""

from __future__ import annotations

import threading
from collections.abc import Callable
from os import stat_result
from pathlib import Path

from rattle.events import emit, of_services
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, load_policy
from rattle.runs.find_policy import find_policy

#: How often the file is looked at, in seconds.
_LOOK_SECONDS = 0.5


class WatchedPolicy:
    """Publishes a run's policy, or a policy file's, and its new versions when the file is replaced.

    A run's policy is named as the run, a file's as the file without its ending. Raises RattleError when there is no
    such run or file.
    """

    def __init__(self, name: str, publish: Callable[[str, StoredPolicy], None]) -> None:
        found = find_policy(name)
        self.model = found.path.resolve().parent.name if found.own else found.path.stem
        self._path = found.path
        self._seen = _mark(found.path)
        self._policy = found.policy
        self._publish = publish
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="policy-file", daemon=True)

    def start(self) -> None:
        """Publish the policy, and watch the file."""
        self._publish(self.model, self._policy)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            mark = _mark(self._path)
            if mark not in (None, self._seen):
                self._seen = mark  # of before it is read: what is written meanwhile will be seen next
                self._read()

    def _read(self) -> None:
        try:
            self._publish(self.model, load_policy(self._path.read_bytes()))
        except (OSError, PolicyError) as error:
            emit(of_services.PolicyFileReplaced(path=str(self._path), error=str(error)))


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced or written; None where there is none at the moment."""
    try:
        found: stat_result = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
