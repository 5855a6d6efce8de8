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
from rattle.analytics.table_parts import PACKED, TEXT, table_files
from rattle.analytics.writer import end_of_last_line, storing


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
                links |= _link_table(run, table, folder / table, len(links), warn)
            except AnalyticsError as error:
                leave_out(error, warn)
    return links


def _link_table(run: RunDirectory, table: str, folder: Path, first: int, warn: Warn | None) -> dict[str, Path]:
    """Fill a folder with links, numbered from `first`, to a run's files of a table; raises AnalyticsError.

    A run in progress may close a part of a table meanwhile; then all is linked again, so that no row is left out.
    """
    suffixes = (PACKED,) if table == "steps" else (TEXT, PACKED)
    for is_last in (False, False, False, True):
        links: dict[str, Path] = {}
        paths, failed = table_files(run.table(table), suffixes), list[AnalyticsError]()
        for path in paths:
            link = folder / f"{first + len(links)}{path.suffix}"
            try:
                _link(path, link, in_use=run.in_use)
            except AnalyticsError as error:
                failed.append(error)
            else:
                links[str(link)] = path
        if is_last or table_files(run.table(table), suffixes) == paths:
            break
        for name in links:
            Path(name).unlink()
    for one in failed:
        leave_out(one, warn)
    return links


def leave_out(error: AnalyticsError, warn: Warn | None) -> None:
    """Tell `warn` that a file is left out for this error; raise it where there is nobody to tell."""
    if warn is None:
        raise error
    warn(f"{error}: it is left out")


def _link(path: Path, link: Path, *, in_use: bool) -> None:
    with reading(path):
        path.open("rb").close()
        half_a_line = path.suffix == TEXT and (in_use or end_of_last_line(path) < path.stat().st_size)
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
    structure = ", ".join(f"`{name}` {kind}" for name, kind in TABLES[table].items())
    sources = [
        f"file({quoted(f'{folder}/*{suffix}')}, {engine_format}, {quoted(structure)})"
        for suffix, engine_format in ((TEXT, "JSONEachRow"), (PACKED, "Parquet"))
        if any(folder.glob(f"*{suffix}")) or (suffix == TEXT and not any(folder.glob(f"*{PACKED}")))
    ]
    if len(sources) == 1:
        return sources[0]
    return "(" + " UNION ALL ".join(f"SELECT * FROM {source}" for source in sources) + ")"  # noqa: S608 (own, quoted)
