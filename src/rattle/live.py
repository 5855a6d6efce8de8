"""Displays that are drawn over themselves."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Final

from rich import live

#: Ctrl-Z, and signals that end a process that does not handle them.
_LEAVING: Final = (signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP)


class TerminalLive(live.Live):
    """Rich's live display, which leaves the terminal with a cursor while the process is stopped, and when it is ended.

    A signal that others handle, or that is ignored, is left to them, unless their handler says by an attribute
    `ends_process` that it ends the process: that is done afterwards.
    """

    def start(self, refresh: bool = False) -> None:
        """Begin to draw; in the main thread, which signals arrive in, signals are heeded too."""
        super().start(refresh)
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread() and self.console.is_terminal:
            self._heed()

    def stop(self) -> None:
        """Draw no more."""
        super().stop()
        for number in _LEAVING:
            if signal.getsignal(number) == self._leave:
                signal.signal(number, self._before[number])

    def _heed(self) -> None:
        for number in _LEAVING:
            handler = signal.getsignal(number)
            if handler == signal.SIG_DFL or getattr(handler, "ends_process", False):
                self._before[number] = handler
                signal.signal(number, self._leave)

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        """Do what the signal does without this, with a cursor; continue without one when the process is continued."""
        self.console.show_cursor(True)
        signal.signal(number, self._before[number])
        signal.raise_signal(number)
        self.console.show_cursor(False)
        self._heed()
