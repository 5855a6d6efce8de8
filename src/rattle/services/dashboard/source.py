"""What the pages read, wherever runs are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from rattle.errors import RattleError

if TYPE_CHECKING:  # a process for each query imports this
    from rattle.analytics.replay.episodes import Episode, EpisodeSummary
    from rattle.analytics.sketch import Series
    from rattle.analytics.updates import Curve
    from rattle.policies.file import StoredPolicy

#: Rows of an answer to a query that are shown.
MOST_ROWS: Final = 1000
#: How long a query may take, in seconds.
QUERY_SECONDS: Final = 30.0
#: Events of a run that are shown.
MOST_EVENTS: Final = 300


class DashboardError(RattleError):
    """A page cannot be shown."""

    status = 400


class NotThere(DashboardError):
    """What an address names is not there."""

    status = 404


class Busy(DashboardError):
    """The engine is at work for others."""

    status = 503


@dataclass(frozen=True)
class RunRow:
    """A row of the table `runs`, and its settings by dotted keys, as text."""

    row: Mapping[str, Any]
    settings: Mapping[str, str]

    @property
    def id(self) -> str:
        """The run's name."""
        return str(self.row["run_id"])

    @property
    def is_live(self) -> bool:
        """Whether a process is at work on it."""
        return bool(self.row["status"] == "running")

    @property
    def tags(self) -> Sequence[str]:
        """The tags that it was given."""
        return self.row.get("tags") or ()

    def value(self, column: str) -> Any:
        """Return a column of the table, or else a setting; None for what it lacks."""
        return self.row[column] if column in self.row else self.settings.get(column)


class Happened(NamedTuple):
    """An event of a run."""

    time: datetime
    level: str
    service: str
    event: str
    fields: Mapping[str, Any]

    @property
    def is_trouble(self) -> bool:
        """Whether somebody should look at it."""
        return self.level in ("WARNING", "ERROR", "CRITICAL")


@dataclass
class ServiceHealth:
    """How a service of a run has been."""

    service: str
    last: datetime
    state: str = "-"
    restarts: int = 0
    warnings: int = 0
    errors: int = 0


@dataclass(frozen=True)
class Events:
    """What has happened in a run."""

    newest: Sequence[Happened] = ()  # the newest first
    services: Sequence[ServiceHealth] = ()
    load: Mapping[str, Series] = field(default_factory=dict)  # over seconds since 1970, by service or host


class Column(msgspec.Struct, frozen=True):
    """A column of an answer; `type` is the engine's."""

    name: str
    type: str


class QueryAnswer(NamedTuple):
    """What a query has come to; rows beyond MOST_ROWS are cut off."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    is_cut: bool
    seconds: float


class RunSource(Protocol):
    """Where runs are read; methods may be called in several threads, and raise RattleError in one line."""

    title: str  # what is read, in words

    def check(self) -> None:
        """Raise RattleError while nothing can be read."""

    def close(self) -> None:
        """Let go of what is held open."""

    def runs(self) -> Sequence[RunRow]:
        """Return all runs, the newest first."""

    def run(self, run_id: str) -> RunRow:
        """Return one run; raises NotThere."""

    def updates(self, run_id: str) -> Series:
        """Return the numbers of a run's updates over `env_steps`."""

    def episodes(self, run_id: str) -> Series:
        """Return `return`, `length`, `truncated` and metrics of a run's episodes over `env_steps`."""

    def evaluations(self, run_id: str) -> Mapping[str, Curve]:
        """Return the numbers of a run's evaluations, as `rattle.analytics.updates.read_evaluations` does."""

    def events(self, run_id: str) -> Events:
        """Return what has happened in a run."""

    def recorded(self, run_id: str) -> Sequence[EpisodeSummary]:
        """Return the recorded episodes of a run, those of the newest policy last."""

    def episode(self, run_id: str, which: str) -> Episode:
        """Return a recorded episode by its name, or as `last` or `best`."""

    def policies(self, run_id: str) -> Mapping[str, StoredPolicy]:
        """Return the policies of a run that are at hand, by what they are called."""

    def ask(self, sql: str) -> QueryAnswer:
        """Answer one SQL statement over all runs, which can only read."""
