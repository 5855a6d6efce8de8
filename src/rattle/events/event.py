"""What an event is, and how one is told: `emit` hands it to the logs of this process, and to standard `logging`."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from rattle.text import one_line

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

#: Longer sentences are cut.
_LONGEST_SENTENCE = 2000

_log = logging.getLogger("rattle")

#: Levels as numbers of `logging`.
NUMBERS: dict[Level, int] = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has happened: a subclass has typed fields, a level, and a sentence with the fields in it.

    The name is that of the class, in lower case with underscores. The docstring is what docs/events.md says of it.
    """

    name: ClassVar[str] = "event"
    level: ClassVar[Level] = "INFO"
    sentence: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, without those that are None."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}

    def _text(self) -> str:
        """Return the sentence with the fields in it."""
        return self.sentence.format_map(msgspec.structs.asdict(self))

    def __str__(self) -> str:
        return one_line(self._text(), _LONGEST_SENTENCE)


class About(msgspec.Struct, frozen=True):
    """Which run an event is about, where it is not the run of the whole process; `quiet`: somebody shows it already."""

    run_id: str | None = None
    experiment: str | None = None
    quiet: bool = False


class Tap(Protocol):
    """Takes all events, whatever the levels of `logging` are."""

    def __call__(self, number: int, event: Event, error: BaseException | None, about: About | None) -> None:
        """Take an event, with the number of its level; never waits, never raises."""


#: Those of this process.
taps: list[Tap] = []
#: Handlers of `logging` that hand on what no event is, and need not be told of events: they are taps.
deaf_handlers: list[logging.Handler] = []


def emit(
    event: Event, *, level: Level | None = None, error: BaseException | None = None, about: About | None = None
) -> None:
    """Tell an event, at its own level or another; of an `error` its type, message and frames are told with it.

    It never waits.
    """
    number = NUMBERS[level or event.level]
    for take in taps:
        take(number, event, error, about)
    if (about is None or not about.quiet) and _log.isEnabledFor(number) and _has_listeners():
        code, line = (caller := sys._getframe(1)).f_code, caller.f_lineno
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        _log.handle(_log.makeRecord(_log.name, number, code.co_filename, line, event, (), exc_info, code.co_name))


def _has_listeners() -> bool:
    """Whether somebody else listens to `logging`; without any handler it writes warnings to standard error."""
    others = logging.root.handlers
    return bool(_log.handlers) or others != deaf_handlers or not others


class Context(msgspec.Struct):
    """What all rows of this process's logs say: the service, and the run that it works for."""

    service: str = "python"
    experiment: str = ""
    run_id: str = ""


#: That of this process.
context = Context()

_bound: ContextVar[dict[str, Any]] = ContextVar("rattle_events", default={})  # noqa: B039 - it is replaced, not changed


def bind(**fields: Any) -> None:
    """Have all events, and log messages, of this thread or task from now on carry some fields, such as `agent`."""
    _bound.set({**_bound.get(), **fields})


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Have the events of the block carry some fields."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def bound_fields() -> dict[str, Any]:
    """Return what `bind` has bound in this thread or task."""
    return _bound.get()
