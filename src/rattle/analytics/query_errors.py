"""What the SQL engine says, in one line that a person can act on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from rattle.analytics.derived_views import VIEWS
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.schema import DERIVED_COLUMNS, TABLES

_FILE: Final = re.compile(r"\(in file/uri (.+?)\)")
_NAME: Final = re.compile(r"identifier [`'](.+?)[`']")
#: Servers end their messages with it.
_VERSION: Final = re.compile(r" \(version [^()]*(?:\([^()]*\)[^()]*)?\)\.?")
_CODE: Final = re.compile(r"(?: \(([A-Z][A-Z0-9_]+)\))+$")
_TOO_FEW_FILES: Final = os.strerror(errno.EMFILE)
#: What follows the sentence that says what is wrong.
_NOISE: Final = re.compile(r"\s*(?:: )?(?:In scope |While executing |Expected one of: |: ?\(at row |\(in file/uri ).*")


class DamagedFile(AnalyticsError):
    """A file of a table does not hold what it should; `link` is what the engine calls it."""

    def __init__(self, message: str, link: str) -> None:
        super().__init__(message)
        self.link = link


def explain(message: str, sql: str, files: Mapping[str, Path]) -> AnalyticsError:
    """Turn the engine's message about a statement into an error; `files` has the real path of each file it names."""
    text, code = sentence_and_code(message)
    unknown = _NAME.search(text)
    if _TOO_FEW_FILES in text:
        return AnalyticsError("the SQL engine needs more open files than it may have: raise the limit with 'ulimit -n'")
    damaged = _FILE.search(text)
    said = without_noise(text)
    if damaged:
        path = files.get(damaged[1], Path(damaged[1]))
        row = re.search(r"at row (\d+)", text)
        return DamagedFile(f"{path} is damaged{f' near row {row[1]}' if row else ''}: {said}", damaged[1])
    if code == "UNKNOWN_TABLE" and unknown:
        return AnalyticsError(
            f"no table '{unknown[1]}'{_nearest(unknown[1], [*TABLES, *VIEWS])}; the tables are {', '.join(TABLES)}, "
            f"the views {', '.join(VIEWS)}"
        )
    if code == "UNKNOWN_IDENTIFIER" and unknown:
        return _unknown_column(unknown[1].rsplit(".")[-1], sql)
    if code == "READONLY":
        return AnalyticsError("a query can only read: it cannot change tables, files or protected settings")
    return AnalyticsError(f"the query fails: {said}")


def without_noise(sentence: str) -> str:
    """Return the part of the engine's sentence that says what is wrong."""
    return _NOISE.sub("", sentence).rstrip(" .:")


def sentence_and_code(message: str) -> tuple[str, str]:
    """Return the sentence in the engine's message and the name of its code, "" where it has none."""
    text = _VERSION.sub("", re.sub(r"\s+", " ", message).strip())
    text = re.sub(r"^(?:Code: \d+\. (?:DB::Exception: )?)+", "", text)
    code = _CODE.search(text)
    return (text[: code.start()], code[1]) if code else (text, "")


def _unknown_column(name: str, sql: str) -> AnalyticsError:
    words = set(re.findall(r"\w+", sql.lower()))
    asked = [table for table in TABLES if table in words] or list(TABLES)
    columns = {table: [*TABLES[table], *DERIVED_COLUMNS.get(table, {})] for table in asked}
    hint = _nearest(name, [column for table in asked for column in columns[table]])
    known = "; ".join(f"{table} has {', '.join(columns[table])}" for table in asked)
    return AnalyticsError(f"no column '{name}'{hint}; {known}")


def _nearest(name: str, names: Mapping[str, object] | list[str]) -> str:
    near = get_close_matches(name.lower(), list(names), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
