"""SQL over runs: ClickHouse's engine in this process reads the files of run directories in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.query_errors import explain
from rattle.analytics.query_safety import reading_statement
from rattle.analytics.query_views import link_files, view
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import TABLES

Output = Literal["pretty", "csv", "json"]

_ENGINE_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {"pretty": "PrettyCompactMonoBlock", "csv": "CSVWithNames", "json": "JSONEachRow"}
)
_SETTINGS: Final = {
    "date_time_input_format": "'best_effort'",  # reads ISO 8601
    "session_timezone": "'UTC'",
    "use_cache_for_count_from_files": "0",  # the files of a live run grow between two queries
    "format_csv_null_representation": "''",  # as CSV readers expect it
    "output_format_pretty_color": "0",
    "output_format_pretty_row_numbers": "0",
    "output_format_pretty_single_large_number_tip_threshold": "0",
    "output_format_pretty_max_value_width": "200",
}


def query(sql: str, runs: Sequence[RunDirectory], output: Output = "pretty") -> str:
    """Answer one SQL statement over the tables `runs`, `updates`, `episodes`, `steps` and `logs` of these runs.

    The answer is a text table, CSV with a heading, or one JSON object a line. The statement can only read, and only
    from the runs and other files on this machine. Runs may be in progress: their rows so far are seen. Raises
    AnalyticsError with one line that says what is wrong.
    """
    with _engine(runs) as (connection, files):
        statement = reading_statement(connection, sql, files)
        try:
            answer = str(connection.query(statement, _ENGINE_FORMATS[output]))
        except RuntimeError as error:
            raise explain(str(error), sql, files) from None
    return answer or ("(no rows)\n" if output == "pretty" else "")


def rows(sql: str, runs: Sequence[RunDirectory]) -> list[dict[str, Any]]:
    """Answer one SQL statement as `query` does, as a list of dictionaries; points in time are strings."""
    answer = query(sql, runs, "json")
    try:
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in answer.splitlines()]
    except msgspec.DecodeError:
        raise AnalyticsError("leave the FORMAT clause out of a query whose rows are wanted") from None


@contextmanager
def _engine(runs: Sequence[RunDirectory]) -> Iterator[tuple[Any, Mapping[str, Path]]]:
    """Open an engine that has the runs' tables; also give the real file behind each name that the engine knows."""
    chdb = require("chdb", "analytics", "SQL")
    with TemporaryDirectory(prefix="rattle-query-") as folder:
        files = link_files(Path(folder), runs)
        connection = chdb.connect(":memory:")
        try:
            for name, value in _SETTINGS.items():
                connection.query(f"SET {name} = {value}")
            for table in TABLES:
                connection.query(view(table, Path(folder)))
            connection.query("SET readonly = 2")  # 1 would also forbid SETTINGS in the user's statement
            yield connection, files
        finally:
            connection.close()
