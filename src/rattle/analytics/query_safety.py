"""Only statements that read get to the SQL engine: it would write files even where it may change no table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.query_errors import explain

_READS: Final = ("select", "with", "show", "describe", "desc", "explain", "exists")
#: Sources of rows that reach neither the network nor other programs, and that make no file. All others are refused.
_SOURCES: Final = frozenset(
    (
        "file",
        "format",
        "fuzzjson",
        "generaterandom",
        "generate_series",
        "generateseries",
        "merge",
        "null",
        "numbers",
        "numbers_mt",
        "primes",
        "sqlstandardvalues",
        "values",
        "view",
        "viewexplain",
        "viewifpermitted",
        "zeros",
        "zeros_mt",
    )
)
#: The last two are settings: one writes what cannot be read into a file, the other renames what was read.
_WRITES: Final = re.compile(
    r"\b(INSERT\s+INTO|INTO\s+OUTFILE|input_format_record_errors_file_path|rename_files_after_processing)\b",
    re.IGNORECASE,
)
_SETTINGS: Final = re.compile(r"\bSETTINGS\b", re.IGNORECASE)
_STRING: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_QUOTED_CALL: Final = re.compile(r"`(\w+)`(?=\s*\()")
_QUOTED_NAME: Final = re.compile(r"`(?:[^`\\]|\\.|``)*`", re.DOTALL)
_CALL: Final = re.compile(r"(\w+)\s*\(")


class Engine(Protocol):
    """What answers SQL over runs, wherever they lie."""

    files: dict[str, Path]  # the real file behind each name that the engine knows

    def ask(self, statement: str, engine_format: str) -> bytes:
        """Return the answer to a statement; raises RuntimeError with the engine's message, AnalyticsError without."""

    def set(self, settings: Mapping[str, str]) -> None:
        """Have later statements run under these settings."""


def reading_statement(engine: Engine, sql: str, *, only_runs: bool = False) -> str:
    """Return a statement as the engine itself understands it, without comments: this text is what may be run.

    Raises AnalyticsError unless it is one statement that only reads, and reads neither from the network nor through
    another program; with `only_runs` it reads no other files, and changes no settings.
    """
    statement = _as_understood(engine, sql)
    bare = _QUOTED_NAME.sub(" ", _QUOTED_CALL.sub(r"\1", _STRING.sub("''", statement)))
    first = bare.replace("(", " ").split()[0]
    if first.lower() not in _READS:
        raise AnalyticsError(
            f"a query can only read: begin it with SELECT, WITH, SHOW, DESCRIBE or EXPLAIN, not '{first}'"
        )
    if writes := _WRITES.search(bare):
        raise AnalyticsError(f"a query can only read: leave out {' '.join(writes[1].split())}")
    if only_runs and _SETTINGS.search(bare):
        raise AnalyticsError("a query keeps the settings that it is given here: leave out SETTINGS")
    called = {name.lower(): name for name in _CALL.findall(bare)}
    allowed = _SOURCES - {"file"} if only_runs else _SOURCES
    if refused := sorted(called.keys() & (_all_sources(engine) - allowed)):
        what = "runs" if only_runs else "runs and files"
        raise AnalyticsError(f"a query reads {what} only: leave out {called[refused[0]]}()")
    return statement


def _as_understood(engine: Engine, sql: str) -> str:
    quoted = sql.replace("\\", "\\\\").replace("'", "\\'")
    try:
        return engine.ask(f"SELECT formatQuery('{quoted}')", "TSVRaw").decode()
    except RuntimeError as error:
        said = str(error)
    if "Multi-statements are not allowed" in said:
        raise AnalyticsError("give one SQL statement, not several; 'SHOW TABLES' is one")
    if "Empty query" in said or re.search(r"failed at position \d+ \(end of query\)", said):
        raise AnalyticsError("give one SQL statement, and a whole one; 'SHOW TABLES' is one")
    raise explain(re.sub(r": In scope SELECT formatQuery\(.*\)(?= \()", "", said, flags=re.DOTALL), sql, engine.files)


def _all_sources(engine: Engine) -> frozenset[str]:
    names = "arrayStringConcat(groupArray(lower(name)), ' ')"  # one row, which no limit cuts off
    return frozenset(engine.ask(f"SELECT {names} FROM system.table_functions", "TSVRaw").decode().split())  # noqa: S608
