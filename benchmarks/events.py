"""What an event costs whoever tells it, by where events go, beside the handlers of Python's `logging`."""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import os
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import report, table

from rattle.events import emit, of_runs
from rattle.services.utils.logger import setup
from rattle.telemetry.pipe import pipe

#: Events that are told one after the other, as in a busy moment, before the writer is given time.
BURST = 200

Tell = Callable[[int], object]


def microseconds(tell: Tell, bursts: int) -> tuple[float, float]:
    """Return the microseconds of the caller for an event, by the clock and of its processor: the medians of bursts."""
    clock, processor = [], []
    for _ in range(bursts):
        began, busy = time.perf_counter(), time.thread_time()
        for number in range(BURST):
            tell(number)
        clock.append((time.perf_counter() - began) / BURST)
        processor.append((time.thread_time() - busy) / BURST)
        pipe.flush(10.0)
    return statistics.median(clock) * 1e6, statistics.median(processor) * 1e6


def event(number: int) -> None:
    """Tell an event of the list."""
    emit(of_runs.RunResumed(update=number))


def message(number: int) -> None:
    """Log a message as libraries do."""
    logging.getLogger("mine").warning("the run goes on after update %d", number)


@contextmanager
def logs(folder: Path, **named: str) -> Iterator[None]:
    """Set up Rattle's logs, with a console that leads nowhere."""
    before, sys.stderr = sys.stderr, Path(os.devnull).open("w")  # noqa: SIM115
    made = setup("benchmark", environ={"XDG_STATE_HOME": str(folder), **named})
    try:
        yield
    finally:
        made.close()
        sys.stderr.close()
        sys.stderr = before


@contextmanager
def handled(handler: logging.Handler) -> Iterator[None]:
    """Have a handler of `logging` write to a file, or hand on."""
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def main() -> None:
    """Measure all ways in turn."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bursts", type=int, default=50, help=f"of {BURST} events each")
    bursts = options.parse_args().bursts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = str(folder / "rattle.jsonl")
        os.environ["XDG_STATE_HOME"] = name
        away = {"ENABLE_RABBITMQ": "true", "RABBITMQ_PORT": "1"}
        waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        ours: dict[str, dict[str, str]] = {
            "console": {"LOG_FORMAT": "json"},
            "file": {"LOG_FORMAT": "none", "LOG_FILE": file},
            "console, file and RabbitMQ's outbox": {"LOG_FORMAT": "json", "LOG_FILE": file, **away},
        }
        theirs = {
            "`logging.StreamHandler`": logging.StreamHandler(Path(os.devnull).open("w")),  # noqa: SIM115
            "`logging.handlers.RotatingFileHandler`": logging.handlers.RotatingFileHandler(
                folder / "a", maxBytes=2**26
            ),
            "`logging.handlers.QueueHandler`": logging.handlers.QueueHandler(waiting),
        }
        rows = [("an event, nothing set up", *microseconds(event, bursts))]
        for place, named in ours.items():
            with logs(folder, **named):
                rows += [(f"an event to {place}", *microseconds(event, bursts))]
                rows += [(f"a message of `logging` to {place}", *microseconds(message, bursts))]
        for place, handler in theirs.items():
            with handled(handler):
                rows.append((f"{place}, a message", *microseconds(message, bursts)))
    heading = ("way", "microseconds by the clock", "of the processor")
    lines = [(way, f"{clock:.1f}", f"{processor:.1f}") for way, clock, processor in rows]
    report(
        "events",
        "What an event costs whoever tells it",
        f"Medians of {bursts} bursts of {BURST} events one after the other, in the thread that tells them. Rattle's "
        "writer may begin its work in another thread meanwhile, and take its share of the interpreter.",
        table(heading, lines),
    )


if __name__ == "__main__":
    main()
