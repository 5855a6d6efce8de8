"""The views that queries see, over links to the files of the runs that were asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import msgspec

from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.run_directory import TABLES as FOLDERS
from rattle.analytics.run_directory import RunDirectory, Warn, without_copies
from rattle.analytics.runs import row
from rattle.analytics.schema import DERIVED_COLUMNS, TABLES, quoted
from rattle.analytics.writer import end_of_last_line, storing

_JSON_LINES = ".jsonl"
_PARQUET = ".parquet"


def link_files(folder: Path, runs: Sequence[RunDirectory], warn: Warn | None = None) -> dict[str, Path]:
    """Fill a folder with links to the runs' files and return which file is behind each link.

    The links' names hold no quotes and no wildcards, whatever the runs are called. What may end in half a line,
    because its run is in progress or was killed, is copied up to its last whole line: the engine would stumble. The
    rows of `runs` are written out: one says `interrupted` where its file still says `running`. With `warn`, a file that
    cannot be read is left out, and `warn` is told; otherwise it raises AnalyticsError. A run counts once, whatever its
    names and copies.
    """
    runs = without_copies(runs, warn)
    links: dict[str, Path] = {}
    for table in TABLES:
        (folder / table).mkdir()
    (folder / "runs" / "runs.jsonl").write_bytes(msgspec.json.Encoder().encode_lines([row(run) for run in runs]))
    for run in runs:
        for table in FOLDERS:
            try:
                paths = _files(run.table(table), _suffix(table))
            except AnalyticsError as error:
                leave_out(error, warn)
                continue
            for path in paths:
                link = folder / table / f"{len(links)}{path.suffix}"
                try:
                    _link(path, link, in_use=run.in_use)
                except AnalyticsError as error:
                    leave_out(error, warn)
                else:
                    links[str(link)] = path
    return links


def leave_out(error: AnalyticsError, warn: Warn | None) -> None:
    """Tell `warn` that a file is left out for this error; raise it where there is nobody to tell."""
    if warn is None:
        raise error
    warn(f"{error}: it is left out")


def _link(path: Path, link: Path, *, in_use: bool) -> None:
    with reading(path):
        path.open("rb").close()
        half_a_line = path.suffix == _JSON_LINES and (in_use or end_of_last_line(path) < path.stat().st_size)
    if not half_a_line:
        link.symlink_to(path.resolve())
        return
    with storing(link):
        copyfile(path, link)
        os.truncate(link, end_of_last_line(link))


def view(table: str, folder: Path) -> str:
    """Return the statement that makes the view of a table over the links in a folder."""
    columns = "*" + "".join(f", {how} AS {name}" for name, how in DERIVED_COLUMNS.get(table, {}).items())
    return f"CREATE VIEW {table} AS SELECT {columns} FROM {_source(table, folder / table)}"  # noqa: S608 (own, quoted)


def _source(table: str, folder: Path) -> str:
    suffix = _suffix(table)
    engine_format = "Parquet" if suffix == _PARQUET else "JSONEachRow"
    structure = ", ".join(f"`{name}` {kind}" for name, kind in TABLES[table].items())
    return f"file({quoted(f'{folder}/*{suffix}')}, {engine_format}, {quoted(structure)})"


def _suffix(table: str) -> str:
    return _PARQUET if table == "steps" else _JSON_LINES


def _files(folder: Path, suffix: str) -> list[Path]:
    with reading(folder):
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if path.suffix == suffix and not path.name.startswith("."))
