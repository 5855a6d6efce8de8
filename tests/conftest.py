"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Undo signals that a shell or nohup has had this process ignore: programs under test would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
