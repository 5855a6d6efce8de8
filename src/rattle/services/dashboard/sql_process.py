"""SQL over run directories in a process of its own: the engine can be stopped only with its process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from rattle.analytics.errors import AnalyticsError
from rattle.services.dashboard.answers import MOST_BYTES, answer_of
from rattle.services.dashboard.source import MOST_ROWS, QUERY_SECONDS, Busy, QueryAnswer

#: Processes at a time, and how long another query waits for one, in seconds.
_PROCESSES: Final = 2
_PATIENCE_SECONDS: Final = 10.0
#: What the process may take longer than its query, in seconds: it starts, and opens the runs.
_START_SECONDS: Final = 20.0
_MEMORY_BYTES: Final = 2**31

_turns = threading.BoundedSemaphore(_PROCESSES)


def ask(sql: str, root: Path) -> QueryAnswer:
    """Answer one statement over the runs in `root`; raises AnalyticsError in one line, and Busy."""
    if not _turns.acquire(timeout=_PATIENCE_SECONDS):
        raise Busy(f"{_PROCESSES} other queries are running: ask again when one of them has ended")
    began = time.perf_counter()
    try:
        content = _run(json.dumps([sql, str(root)]).encode())
    finally:
        _turns.release()
    return answer_of(content, time.perf_counter() - began)


def _run(question: bytes) -> bytes:
    """Return what the process writes; it is killed when it takes too long."""
    command = [sys.executable, "-P", "-m", __name__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:  # noqa: S603 (this module)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(QUERY_SECONDS + _START_SECONDS, stop)
        timer.start()
        try:
            answer, said = process.communicate(question)
        finally:
            timer.cancel()
            process.kill()
    if late.is_set():
        raise AnalyticsError(f"the query took longer than {QUERY_SECONDS:.0f} seconds: ask for less")
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        raise AnalyticsError(lines[-1] if lines else f"the engine has ended with {process.returncode}: ask for less")
    return answer


def _main() -> int:
    """Read a question from standard input and write its answer, or what is wrong with it in one line."""
    from rattle.analytics.query import Bounds, bounded
    from rattle.analytics.run_directory import list_runs, without_copies
    from rattle.errors import RattleError

    sql, root = json.loads(sys.stdin.buffer.read())
    bounds = Bounds(MOST_ROWS + 1, QUERY_SECONDS, _MEMORY_BYTES)

    def leave_out(line: str) -> None:
        pass  # the list of runs shows which are damaged

    try:
        answer = bounded(sql, without_copies(list_runs(Path(root), leave_out), leave_out), bounds, leave_out)
        if len(answer) > MOST_BYTES:
            answer_of(answer, 0.0)  # which says so, before so much goes through a pipe
    except RattleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
