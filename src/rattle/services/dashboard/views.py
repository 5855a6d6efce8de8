"""What each page shows, as its address says it: everything that a reader chooses is here, so links restore it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Meta
from starlette.datastructures import QueryParams

from rattle.services.dashboard.source import DashboardError
from rattle.text import one_line

Percent = Annotated[int, Meta(ge=0, le=50)]
Number = Annotated[int, Meta(ge=0, lt=2**53)]
X = Literal["env_steps", "seconds"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A page with everything that was chosen on it."""

    path: ClassVar[str]

    def url(self, **changes: Any) -> str:
        """Return the address of this view, or of one that differs in these fields."""
        query = urlencode((msgspec.structs.replace(self, **changes) if changes else self).chosen(), doseq=True)
        return f"{self.path}?{query}" if query else self.path

    def chosen(self) -> dict[str, Any]:
        """Return the fields that are not what they are by default, as an address has them."""
        values = msgspec.structs.asdict(self)
        return {
            field.name: int(value) if isinstance(value := values[field.name], bool) else value
            for field in msgspec.structs.fields(self)
            if values[field.name] != field.default
        }

    @classmethod
    def read(cls, params: QueryParams) -> Self:
        """Read an address; raises DashboardError that names the part that is wrong. Unknown parts are left out."""
        found: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            if isinstance(field.default, tuple):
                found[field.name] = [value for value in params.getlist(field.name) if value]
            elif params.get(field.name):
                found[field.name] = params[field.name]
        try:
            return msgspec.convert(found, cls, strict=False)
        except msgspec.ValidationError as error:
            said, _, place = str(error).replace("`", "").partition(" - at $.")
            raise DashboardError(one_line(f"the address is wrong: {place}: {said}", 200)) from None


AnyView = TypeVar("AnyView", bound=View)


class RunsView(View, frozen=True, kw_only=True):
    """The table of runs."""

    path: ClassVar = "/"

    q: str = ""
    status: str = ""
    environment: str = ""
    algorithm: str = ""
    tag: str = ""
    where: str = ""  # settings, such as algorithm.learning_rate > 0.001
    archived: bool = False
    sort: str = "-started"
    column: tuple[str, ...] = ()  # settings next to the columns that are always there
    page: Annotated[int, Meta(ge=1, lt=2**31)] = 1


class CompareView(View, frozen=True, kw_only=True):
    """Some runs in one figure."""

    path: ClassVar = "/compare"

    run: tuple[str, ...] = ()
    y: str = "mean_return"
    x: X = "env_steps"
    group: tuple[str, ...] = ()  # settings; runs that agree in them are one line
    smooth: Percent = 3
    log_x: bool = False
    log_y: bool = False
    best: Literal["highest", "lowest"] = "highest"


class RunView(View, frozen=True, kw_only=True):
    """One run."""

    path: ClassVar = "/run"

    run: str = ""
    x: X = "env_steps"
    smooth: Percent = 3
    log_x: bool = False
    log_y: bool = False
    level: Literal["all", "troubles"] = "all"


class EpisodesView(View, frozen=True, kw_only=True):
    """The recorded episodes of a run."""

    path: ClassVar = "/episodes"

    run: str = ""
    sort: Literal["-policy_version", "policy_version", "-mean_return", "mean_return", "-ticks", "ticks"] = (
        "-policy_version"
    )


class ReplayPageView(View, frozen=True, kw_only=True):
    """One recorded episode at one tick."""

    path: ClassVar = "/replay"

    run: str = ""
    episode: str = "last"
    agent: Number = 0
    tick: Number = 0
    policy: str = ""  # that says how likely actions are: "" is the one that played, where it is at hand


class SqlView(View, frozen=True, kw_only=True):
    """An answer to a query."""

    path: ClassVar = "/sql"

    q: str = ""
    show: Literal["table", "line", "points", "bars"] = "table"
    x: str = ""
    y: tuple[str, ...] = ()
    by: str = ""  # a column whose values are lines of their own
