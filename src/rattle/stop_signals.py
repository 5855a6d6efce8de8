"""The signals that ask a process to end in good order."""

from __future__ import annotations

import signal

#: Asks Training to end in good order, too, and says that its run is complete: the last tick is over.
RUN_IS_COMPLETE = signal.SIGUSR1


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return Ctrl-C, SIGTERM and a terminal's hang-up, without those that this process was started to ignore.

    `nohup` has the hang-up ignored, and a shell script has Ctrl-C ignored by what it starts in the background.
    """
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return tuple(number for number in asked if signal.getsignal(number) != signal.SIG_IGN)
