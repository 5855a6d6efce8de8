"""What a store keeps: the tables of `rattle.analytics.schema` and the columns that only a store has, as DDL.

Rows that are stored twice count once: each table is ordered by what makes its rows unique, and the views that queries
see read the newest of equal rows. Rows that a later life of the run has played again do not count any more.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple

from rattle.analytics.derived_views import VIEWS
from rattle.analytics.schema import DERIVED_COLUMNS, INTERRUPTED, NULLABLE, RUNNING, RUNS, TABLES, Columns

#: What stands before the names of tables, next to which there is a view without it.
PREFIX: Final = "stored_"

#: Rows of lines at this level are kept for so long.
DEBUG_DAYS: Final = 14

#: A run that says that it is running, and of which nothing has come for so long, was killed.
SILENT_MINUTES: Final = 10

#: One row a life of a run: a start. What earlier lives made after `after_update` was played again, and does not count.
LIVES: Final = Columns(
    {
        "run_id": "String",
        "life": "UInt32",  # 0 is the first start
        "after_update": "UInt64",  # the policy version that the life began with
        "time": "DateTime64(6, 'UTC')",
    }
)

#: One row a run that people have said something of: columns of `runs` that anyone who trains does not write.
ANNOTATIONS: Final = Columns({"run_id": "String", **{name: RUNS[name] for name in ("tags", "note", "archived")}})

#: Columns of few different values, which are kept as numbers with a dictionary.
_FEW_VALUES: Final = frozenset(
    ("experiment", "status", "environment", "algorithm", "rattle_version", "level", "service", "event", "host")
)


class _Kind(NamedTuple):
    """How a table is kept: what makes its rows unique and orders them, what splits them, and columns of the store."""

    order: str
    partition: str
    own: Columns
    newest: str = ""  # of equal rows that with the highest of this counts, else that which was stored last
    primary: str = ""  # the part of the order that is held in memory
    more: str = ""  # indices
    ttl: str = ""


def _of_life(made_by: str) -> Columns:
    """Return the columns that say which life made a row, and when it was stored.

    `made_by` is the update it belongs to where no one says so.
    """
    life = {"life": "UInt32 DEFAULT 0", "made_by": f"UInt64 DEFAULT {made_by}"}
    return Columns({**life, "stored": "DateTime64(6, 'UTC') DEFAULT now64(6)"})


_MONTH: Final = "toYYYYMM(time)"
#: The time within the years that TTL can count, 1970 to 2106: those of a wrong clock may lie beyond, and wrap round.
_COUNTED: Final = "least(greatest(time, toDateTime64(0, 6, 'UTC')), toDateTime64('2106-01-01 00:00:00', 6, 'UTC'))"
#: Names a row of a run directory's log, which has no number.
DIRECTORY_LOG: Final = "cityHash64(time, level, service, event, host, pid, fields)"

KINDS: Final = MappingProxyType(
    {
        "runs": _Kind("run_id", "", Columns({"written": "DateTime64(6, 'UTC') DEFAULT now64(6)"}), "written"),
        "updates": _Kind("run_id, life, policy_version", _MONTH, _of_life("policy_version"), "stored"),
        "episodes": _Kind("run_id, life, episode_id", _MONTH, _of_life("policy_version + 1"), "stored"),
        "evaluations": _Kind("run_id, life, policy_version", _MONTH, _of_life("policy_version"), "stored"),
        "steps": _Kind(
            "run_id, life, world, world_episode, agent, tick",
            "toYYYYMM(stored)",
            _of_life("policy_version + 1"),
            "stored",
        ),
        "logs": _Kind(
            "run_id, time, writer, number",
            _MONTH,
            Columns({"writer": "String DEFAULT ''", "number": f"UInt64 DEFAULT {DIRECTORY_LOG}"}),
            primary="run_id, time",
            more="INDEX by_level level TYPE set(16) GRANULARITY 4, INDEX by_service service TYPE set(64) GRANULARITY 4",
            ttl=f"toDateTime({_COUNTED}) + INTERVAL {DEBUG_DAYS} DAY DELETE WHERE upper(level) = 'DEBUG'",
        ),
        "lives": _Kind("run_id, life", "", Columns({})),
        "annotations": _Kind("run_id", "", Columns({"written": "DateTime64(6, 'UTC') DEFAULT now64(6)"}), "written"),
    }
)

#: The tables that messages and run directories bring.
STORED: Final = MappingProxyType({**TABLES, "lives": LIVES, "annotations": ANNOTATIONS})

#: Tables whose rows a later life may have played again.
REPLAYED: Final = tuple(name for name, kind in KINDS.items() if "life" in kind.own)


_RECENTLY: Final = " AND ".join(f"now() {sign} INTERVAL {SILENT_MINUTES} MINUTE" for sign in "-+")
_SAY_RUNNING: Final = f"SELECT run_id FROM {PREFIX}runs FINAL WHERE status = '{RUNNING}'"
#: Runs that something has come of: updates by the clock of the store, the load of their processes by their own.
_HEARD_OF: Final = " UNION ALL ".join(
    f"SELECT run_id FROM {PREFIX}{table} AS heard WHERE heard.{time} BETWEEN {_RECENTLY} AND run_id IN ({_SAY_RUNNING})"
    for table, time in (("updates", "stored"), ("logs", "time"))
)


def create_table(table: str) -> str:
    """Return the statement that creates a table unless it is there."""
    kind = KINDS[table]
    parts = [f"`{name}` {how}" for name, how in stored_columns(table).items()]
    parts += [kind.more] if kind.more else []
    return " ".join(
        (
            f"CREATE TABLE IF NOT EXISTS {PREFIX}{table} ({', '.join(parts)})",
            f"ENGINE = ReplacingMergeTree({kind.newest})",
            f"PARTITION BY {kind.partition}" if kind.partition else "",
            f"PRIMARY KEY ({kind.primary})" if kind.primary else "",
            f"ORDER BY ({kind.order})",
            f"TTL {kind.ttl}" if kind.ttl else "",
            # What was inserted is on the disk when the store says so, and a batch that is sent again is known.
            "SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1",
        )
    )


def stored_columns(table: str) -> dict[str, str]:
    """Return the columns of a table as it is kept: each with type, default and codec."""
    columns = {**STORED[table], **KINDS[table].own}
    return {name: f"{_few(name, kind)}{_codec(name, kind)}" for name, kind in columns.items()}


def create_view(table: str) -> str:
    """Return the statement that makes, or changes, the view of a table: the columns that run directories have."""
    shown = {name: _shown(name, kind) for name, kind in STORED[table].items()} | {**DERIVED_COLUMNS.get(table, {})}
    source = f"{PREFIX}{table} AS stored FINAL"
    if table == "runs":
        is_silent = f"stored.written NOT BETWEEN {_RECENTLY} AND stored.run_id NOT IN ({_HEARD_OF})"
        shown["status"] = f"if(stored.status = '{RUNNING}' AND {is_silent}, '{INTERRUPTED}', {shown['status']})"
        shown |= {name: f"said.`{name}`" for name in ANNOTATIONS if name != "run_id"}
        source += f" LEFT JOIN (SELECT * FROM {PREFIX}annotations FINAL) AS said ON said.run_id = stored.run_id"
    columns = ", ".join(f"{how} AS `{name}`" for name, how in shown.items())
    if table in REPLAYED:
        later = "stored.run_id = outlived.run_id AND stored.life < outlived.life"
        counts = "outlived.life = 0 OR stored.made_by <= outlived.last_update"
        source += f" ASOF LEFT JOIN outlived ON {later} WHERE {counts}"
    if table == "evaluations":  # one may begin in one life and end in several
        source += " ORDER BY stored.life DESC LIMIT 1 BY stored.run_id, stored.policy_version"
    return f"CREATE OR REPLACE VIEW {table} AS SELECT {columns} FROM {source}"


#: For each life but the first: the last update that counts of the lives before it.
CREATE_OUTLIVED: Final = (
    "CREATE OR REPLACE VIEW outlived AS SELECT run_id, life, min(after_update) OVER (PARTITION BY run_id ORDER BY life "
    f"DESC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS last_update FROM {PREFIX}lives FINAL WHERE life > 0"
)


def _few(name: str, kind: str) -> str:
    return f"LowCardinality({kind})" if name in _FEW_VALUES else kind


def _shown(name: str, kind: str) -> str:
    return f"CAST(stored.`{name}` AS {kind})" if name in _FEW_VALUES else f"stored.`{name}`"


def _codec(name: str, kind: str) -> str:
    """Return how a column is compressed: neighbours in the order of the table are alike."""
    plain = NULLABLE.sub(r"\1", kind.partition(" DEFAULT")[0])
    if name in _FEW_VALUES or plain in ("Bool", "JSON"):
        return ""
    if plain.startswith("DateTime"):
        return " CODEC(DoubleDelta, ZSTD(1))"
    if plain in ("UInt32", "UInt64"):
        return " CODEC(Delta, ZSTD(1))"
    if plain == "Float64":
        return " CODEC(Gorilla, ZSTD(1))"
    return " CODEC(ZSTD(1))"


#: The lives of each run: those that the broker brought, else those that the log of its run directory tells.
CREATE_LIVES: Final = (
    f"{create_view('lives')} UNION ALL SELECT run_id, life, after_update, time "
    f"FROM ({VIEWS['lives']}) WHERE run_id NOT IN (SELECT run_id FROM {PREFIX}lives)"
)
#: The same with what each made, which nobody knows of a run directory, and how much of it counts.
CREATE_RUN_LIVES: Final = (
    f"CREATE OR REPLACE VIEW run_lives AS SELECT told.* REPLACE (if(told.run_id IN (SELECT run_id FROM {PREFIX}lives), "
    f"made.updates, NULL) AS updates_made) FROM ({VIEWS['run_lives']}) AS told LEFT JOIN (SELECT run_id, life, count() "
    f"AS updates FROM {PREFIX}updates FINAL GROUP BY run_id, life) AS made "
    "ON told.run_id = made.run_id AND told.life = made.life"
)
