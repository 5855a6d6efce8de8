"""SQL over runs: ClickHouse's engine in this process reads the files of run directories in place."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from rattle.analytics import derived_views
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.query_errors import DamagedFile, explain
from rattle.analytics.query_safety import Engine, reading_statement
from rattle.analytics.query_views import leave_out, link_files, view
from rattle.analytics.run_directory import RunDirectory, Warn
from rattle.analytics.schema import TABLES, quoted
from rattle.analytics.stored_runs import WITH_FORMAT, StoredRuns
from rattle.analytics.writer import write_atomically
from rattle.text import one_line

if TYPE_CHECKING:
    import pyarrow

Output = Literal["pretty", "csv", "json"]
#: What may be asked: run directories, or runs of a store.
Runs = Sequence[RunDirectory] | StoredRuns

_ENGINE_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {"pretty": "PrettyCompactMonoBlock", "csv": "CSVWithNames", "json": "JSONEachRow"}
)
#: What `save` writes, by the ending of the file's name.
FILE_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".csv": "CSVWithNames",
        ".jsonl": "JSONEachRow",
        ".ndjson": "JSONEachRow",
        ".parquet": "Parquet",
        ".arrow": "Arrow",
        ".feather": "Arrow",
    }
)
#: Types of several values, by the beginnings of their names.
_COMPOSITE: Final = r"(?:Nullable\()?(?:Map|Array|Tuple|Nested|JSON|Object)\b"
#: Types of which each value has a type of its own, and what names it.
_MIXED: Final[Mapping[str, str]] = MappingProxyType({"Dynamic": "dynamicType", "Variant": "variantType"})
#: Formats of which columns are read by name.
_BY_NAME: Final = ("JSONEachRow", "Parquet", "Arrow")
#: Types that formats cannot write.
_CANNOT_WRITE: Final[Mapping[str, str]] = MappingProxyType(
    {"CSVWithNames": rf"{_COMPOSITE}|{'|'.join(_MIXED)}"}
    | dict.fromkeys(("Parquet", "Arrow", "ArrowStream"), rf".*\b(?:{'|'.join(_MIXED)})\b")
)
_SETTINGS: Final = {
    "date_time_input_format": "best_effort",  # reads ISO 8601
    "session_timezone": "UTC",
    "use_cache_for_count_from_files": "0",  # the files of a live run grow between two queries
    "format_csv_null_representation": "",  # as CSV readers expect it
    "allow_suspicious_types_in_group_by": "1",  # a setting in the column config has a type of its own
    "allow_suspicious_types_in_order_by": "1",
    "output_format_arrow_string_as_string": "1",
    "output_format_json_validate_utf8": "1",
    "output_format_parquet_string_as_string": "1",
    "output_format_pretty_color": "0",
    "output_format_pretty_row_numbers": "0",
    "output_format_pretty_single_large_number_tip_threshold": "0",
    "output_format_pretty_max_value_width": "200",
}

_UNPRINTABLE: Final = re.compile(r"[^\t\n -~\xa0-\U0010ffff]")
#: In the database that the engine begins with, every file of this machine is a table by its path.
_OWN_DATABASE: Final = ("CREATE DATABASE rattle ENGINE = Memory", "USE rattle", "DROP DATABASE default")


class Bounds(NamedTuple):
    """What a query may take that somebody else asks."""

    rows: int
    seconds: float
    memory_bytes: int


def query(sql: str, runs: Runs, output: Output = "pretty", warn: Warn | None = None) -> str:
    """Answer one SQL statement over the tables of these runs: `runs`, `updates`, `episodes` and so on.

    The answer is a text table, CSV with a heading, or one JSON object a line. The statement can only read, and only
    from the runs and other files on this machine. Runs may be in progress: their rows so far are seen. With `warn`, a
    file that is damaged or cannot be read is left out, and `warn` gets a line about it.

    Raises AnalyticsError with one line that says what is wrong.
    """
    errors = "strict" if "FORMAT" in sql.upper() else "replace"  # a format may be none of text; rows may hold any bytes
    try:
        answer = _answer(sql, runs, _ENGINE_FORMATS[output], warn).decode(errors=errors)
    except UnicodeDecodeError:
        raise AnalyticsError(
            "the answer is no text: leave FORMAT out of the query, and write a file, such as --output answer.parquet"
        ) from None
    if output == "pretty" and errors == "replace":
        answer = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", answer)  # rows may hold what steers a terminal
    return answer or ("(no rows)\n" if output == "pretty" else "")


def save(sql: str, runs: Runs, path: Path, warn: Warn | None = None) -> None:
    """Write the answer to a statement into a file, as CSV, JSON lines, Parquet or Arrow by the ending of its name.

    Raises AnalyticsError as `query` does, and for another ending.
    """
    if path.suffix.lower() not in FILE_FORMATS:
        raise AnalyticsError(f"cannot write {path}: the name of an answer ends in {', '.join(FILE_FORMATS)}")
    if WITH_FORMAT.search(sql):
        raise AnalyticsError(f"leave FORMAT out of the query: {path.name} says by its ending what is written")
    write_atomically(path, _answer(sql, runs, FILE_FORMATS[path.suffix.lower()], warn))


def arrow(sql: str, runs: Runs, warn: Warn | None = None) -> pyarrow.Table:
    """Answer one SQL statement as `query` does, as an Arrow table."""
    ipc = require("pyarrow.ipc", "analytics", "an Arrow table")
    answer = _answer(sql, runs, "ArrowStream", warn)
    try:
        return ipc.open_stream(answer).read_all()
    except ValueError as error:  # pyarrow.ArrowInvalid
        raise AnalyticsError(f"leave the FORMAT clause out of a query whose rows are wanted ({error})") from None


def bounded(sql: str, runs: Runs, bounds: Bounds, warn: Warn | None = None) -> bytes:
    """Answer one SQL statement as `query` does, as JSON: `meta` has names and types of columns, `data` has rows.

    Only so many rows are given; the statement reads nothing but the runs, and changes no settings.
    """
    return _answer(sql, runs, "JSONCompact", warn, bounds)


def _answer(sql: str, runs: Runs, engine_format: str, warn: Warn | None, bounds: Bounds | None = None) -> bytes:
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise AnalyticsError("the query holds bytes that are not UTF-8") from None
    with _engine(sql, runs, warn) as engine:
        statement = reading_statement(engine, sql, only_runs=bounds is not None)
        if bounds is not None:
            engine.set(_settings_of(bounds))
        if engine_format in {*_CANNOT_WRITE, *_BY_NAME}:
            statement = _writable(engine, statement, engine_format)
        while True:
            try:
                return _ask(engine, statement, engine_format)
            except RuntimeError as error:
                explained = explain(str(error), sql, engine.files)
            if not isinstance(explained, DamagedFile) or explained.link not in engine.files:
                raise explained
            leave_out(explained, warn)
            Path(explained.link).unlink()
            del engine.files[explained.link]
            engine.ask("SELECT 1", "TSVRaw")  # takes along what the failed answer has left in the engine's buffer


def _settings_of(bounds: Bounds) -> dict[str, str]:
    return {
        "limit": str(bounds.rows),
        "max_execution_time": str(bounds.seconds),
        "max_memory_usage": str(bounds.memory_bytes),
    }


def _writable(engine: Engine, statement: str, engine_format: str) -> str:
    """Return the statement with its values in types that a format can write, where it is one that has columns."""
    try:
        described = engine.ask(f"DESCRIBE ({statement})", "JSONEachRow")
    except RuntimeError:  # SHOW and others, whose columns are plain, and what is wrong: it will say so
        return statement
    columns = [msgspec.json.decode(line, type=_ResultColumn) for line in described.splitlines()]
    pattern = _CANNOT_WRITE.get(engine_format)
    plain = pattern is None or not any(re.match(pattern, column.type) for column in columns)
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and (engine_format in _BY_NAME or not plain):
        raise AnalyticsError(f"two columns of the answer are named '{one_line(twice)}': rename one with AS")
    if plain:
        return statement
    shown = ", ".join(f"{column.writable(engine_format)} AS {column.quoted}" for column in columns)
    return f"SELECT {shown} FROM ({statement})"  # noqa: S608 (names of the answer's own columns, quoted)


class _ResultColumn(msgspec.Struct):
    name: str
    type: str

    @property
    def quoted(self) -> str:
        """Return the name as SQL has it."""
        return "`" + self.name.replace("\\", "\\\\").replace("`", "\\`") + "`"

    def writable(self, engine_format: str) -> str:
        """Return the expression whose values a format can write: lists and maps become JSON, all others stay."""
        if not re.match(_CANNOT_WRITE[engine_format], self.type):
            return self.quoted
        as_json = f"toJSONString({self.quoted})"
        type_of = _MIXED.get(self.type.partition("(")[0])
        if type_of is None:
            return as_json
        is_composite = f"match(toString({type_of}({self.quoted})), {quoted('^' + _COMPOSITE)})"
        if engine_format == "CSVWithNames":  # which writes each value by its type
            return f"if({is_composite}, {as_json}::Dynamic, {self.quoted}::Dynamic)"
        return f"if({is_composite}, {as_json}, {self.quoted}::Nullable(String))"


def _ask(engine: Engine, statement: str, engine_format: str) -> bytes:
    """Run a statement in a thread: the engine listens to no signal, and Ctrl-C must not wait for it."""
    answer: Future[bytes] = Future()

    def run() -> None:
        try:
            answer.set_result(engine.ask(statement, engine_format))
        except BaseException as error:  # handed to who waits
            answer.set_exception(error)

    threading.Thread(target=run, name="query", daemon=True).start()
    return answer.result()


def rows(sql: str, runs: Runs) -> list[dict[str, Any]]:
    """Answer one SQL statement as `query` does, as a list of dictionaries; points in time are strings."""
    answer = query(sql, runs, "json")
    try:
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in answer.splitlines()]
    except msgspec.DecodeError:
        raise AnalyticsError("leave the FORMAT clause out of a query whose rows are wanted") from None


class _FilesEngine:
    """An engine in this process that reads files of runs in place, by links to them."""

    def __init__(self, connection: Any, files: dict[str, Path]) -> None:
        self.files = files
        self._connection = connection

    def ask(self, statement: str, engine_format: str) -> bytes:
        """Return the answer to a statement."""
        return bytes(self._connection.query(statement, engine_format).bytes() or b"")

    def set(self, settings: Mapping[str, str]) -> None:
        """Have later statements run under these settings."""
        for name, value in settings.items():
            self._connection.query(f"SET {name} = {quoted(value)}")


@contextmanager
def _engine(sql: str, runs: Runs, warn: Warn | None) -> Iterator[Engine]:
    """Open an engine that has the runs' tables."""
    if isinstance(runs, StoredRuns):
        runs.prepare(_SETTINGS)
        yield runs
        return
    with TemporaryDirectory(prefix="rattle-query-") as folder:
        files = link_files(Path(folder), runs, warn)
        try:
            connection = _open_engine(Path(folder), derived_views.views_in(sql))
        except RuntimeError as error:
            raise explain(str(error), "", files) from None
        try:
            yield _FilesEngine(connection, files)
        except KeyboardInterrupt:
            raise  # the engine is still busy, and closing would wait for it
        except BaseException:
            connection.close()
            raise
        else:
            connection.close()


def _open_engine(folder: Path, derived: Iterable[str]) -> Any:
    """Return a connection to an engine that has the tables, and some derived views, over the links in a folder.

    Raises RuntimeError.
    """
    connection = require("chdb", "analytics", "SQL").connect(":memory:")
    for name, value in _SETTINGS.items():
        connection.query(f"SET {name} = {quoted(value)}")
    for statement in _OWN_DATABASE:
        connection.query(statement)
    for table in TABLES:
        connection.query(view(table, folder))
    for name in derived:
        connection.query(derived_views.create_view(name))
    connection.query("SET readonly = 2")  # 1 would also forbid SETTINGS in the user's statement
    return connection
