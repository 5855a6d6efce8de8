"""Only statements that read get to the SQL engine: it would write files even where it may change no table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.query_errors import explain
from rattle.analytics.schema import quoted

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
#: Statements over runs, as the engine writes them. Others show what else it has.
_OVER_RUNS: Final = re.compile(r"SELECT|WITH|EXPLAIN|DESCRIBE|EXISTS (TABLE|VIEW)|SHOW TABLES(?! (FROM|WHERE)\b)")
#: Functions that read what a statement has not in its tables; `arrayMap(file, paths)` calls one by its mere name.
_READERS: Final = re.compile(r"file|dict(get|has|isin)\w*|joinget\w*|hascolumnintable|catboostevaluate", re.IGNORECASE)
#: Words, as the engine writes them, after which a name is that of a column, an alias or a table, unless ( follows it.
_NAMERS: Final = ("AS", "BY", "FROM", "JOIN", "WITH")
#: These are there for each user, though an engine may not list them.
_SYSTEM: Final = frozenset(("system", "information_schema", "INFORMATION_SCHEMA"))
#: Strings, quoted names, words, and each other sign.
_PART: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|\w+|\S", re.DOTALL)


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
    another program; with `only_runs` it reads no files and no other database, and changes no settings.
    """
    statement = _as_understood(engine, sql)
    parts = _PART.findall(statement)
    bare = " ".join("''" if part[0] in "'`" else part for part in parts if part != "(")
    first = bare.split()[0]
    if first.lower() not in _READS:
        raise AnalyticsError(
            f"a query can only read: begin it with SELECT, WITH, SHOW, DESCRIBE or EXPLAIN, not '{first}'"
        )
    if writes := _WRITES.search(bare):
        raise AnalyticsError(f"a query can only read: leave out {' '.join(writes[1].split())}")
    if only_runs and _SETTINGS.search(bare):
        raise AnalyticsError("a query keeps the settings that it is given here: leave out SETTINGS")
    if only_runs and not _OVER_RUNS.match(bare):
        raise AnalyticsError("a query reads runs only: it may be SHOW TABLES, or begin with SELECT, WITH or DESCRIBE")
    if refused := _read_elsewhere(engine, parts, only_runs=only_runs):
        what = "runs" if only_runs else "runs and files"
        raise AnalyticsError(f"a query may read only {what}: leave out {refused[0]}")
    return statement


def _read_elsewhere(engine: Engine, parts: Sequence[str], *, only_runs: bool) -> list[str]:
    """Return what a statement names that reads more than it may."""
    names = [re.sub(r"\\(.)", r"\1", part[1:-1]) if part[0] == "`" else part for part in parts]
    named = list(zip(["", *parts[:-1]], names, [*parts[1:], ""], strict=True))
    sources = {name.lower() for name in _names(engine, "table_functions")}
    refused = sources - _SOURCES | {"merge"} if only_runs else sources - _SOURCES
    found = {f"{name}()" for _, name, after in named if after == "(" and name.lower() in refused}
    if only_runs:
        databases = _names(engine, "databases WHERE name != currentDatabase()") | _SYSTEM
        begun = [(name, after) for before, name, after in named if before not in (".", "^")]
        called = [name for before, name, after in named if after == "(" or before not in (".", "^", *_NAMERS)]
        found |= {f"{name}()" for name in called if _READERS.fullmatch(name)}
        found |= {f"the database '{name}'" for name, after in begun if after == "." and name in databases}
    return sorted(found)


def _as_understood(engine: Engine, sql: str) -> str:
    try:
        return engine.ask(f"SELECT formatQuery({quoted(sql)})", "TSVRaw").decode()
    except UnicodeDecodeError:
        raise AnalyticsError("the query holds bytes that are not UTF-8: write them as unhex('FF')") from None
    except RuntimeError as error:
        said = str(error)
    if "Multi-statements are not allowed" in said:
        raise AnalyticsError("give one SQL statement, not several; 'SHOW TABLES' is one")
    if "Empty query" in said or re.search(r"failed at position \d+ \(end of query\)", said):
        raise AnalyticsError("give one SQL statement, and a whole one; 'SHOW TABLES' is one")
    raise explain(re.sub(r": In scope SELECT formatQuery\(.*\)(?= \()", "", said, flags=re.DOTALL), sql, engine.files)


def _names(engine: Engine, table: str) -> frozenset[str]:
    rows = engine.ask(f"SELECT groupArray(name) FROM system.{table}", "JSONCompactEachRow")  # noqa: S608
    return frozenset(msgspec.json.decode(rows, type=list[list[str]])[0])  # one row, which no limit cuts off
