"""A program of a user that logs, and ends in the way that is asked for."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from itertools import islice
from operator import length_hint

from rattle.services.utils.logger import setup

LINES = 500
_log = logging.getLogger("mine")


def tell() -> None:
    for number in range(LINES):
        _log.info("line %d", number, extra={"number": number})


def end() -> None:
    tell()


def close() -> None:
    tell()
    LOGS.close()


def terminate() -> None:
    tell()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def fork_anew() -> None:
    fork(anew=True)


def fork(*, anew: bool = False) -> None:
    for number in range(LINES // 2):
        _log.info("line %d", number, extra={"number": number})
    child = os.fork()
    if child == 0:
        if anew:
            setup("mine")
        _log.info("line %d", LINES - 1, extra={"number": LINES - 1})
        sys.exit()
    os.waitpid(child, 0)
    for number in range(LINES // 2, LINES - 1):
        _log.info("line %d", number, extra={"number": number})


def thread() -> None:
    def late() -> None:
        threading.main_thread().join()
        tell()

    threading.Thread(target=late).start()


class Last:
    """Logs when Python takes modules apart."""

    def __init__(self) -> None:
        self.log, self.lines = _log, LINES

    def __del__(self) -> None:
        for number in range(self.lines):
            self.log.info("line %d", number, extra={"number": number})


def shutdown() -> None:
    globals()["last"] = Last()


def interrupt() -> None:
    numbers = iter(range(LINES))

    def handle(_number: int, _frame: object) -> None:
        for number in islice(numbers, 1):  # in one step: another signal may interrupt this
            _log.info("line", extra={"number": number})

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    while length_hint(numbers):
        _log.debug("between")
    signal.setitimer(signal.ITIMER_REAL, 0)


def crash() -> None:
    warnings.warn("beware of password=hunter2", stacklevel=1)
    threading.Thread(target=lambda: 1 // 0, name="worker").start()
    raise RuntimeError("the wheels came off")


if __name__ == "__main__":
    LOGS = setup("mine")
    globals()[sys.argv[1]]()
