"""Answers of the SQL engine, as pages show them."""

from __future__ import annotations

import msgspec

from rattle.analytics.errors import AnalyticsError
from rattle.services.dashboard.source import MOST_ROWS, Column, QueryAnswer

#: The largest answer that a page can show, in bytes.
MOST_BYTES = 2**24


class _Table(msgspec.Struct):
    meta: list[Column]
    data: list[list[object]]


def answer_of(content: bytes, seconds: float) -> QueryAnswer:
    """Read what `rattle.analytics.query.bounded` has answered; raises AnalyticsError for another format."""
    if len(content) > MOST_BYTES:
        raise AnalyticsError(f"the answer has {len(content) >> 20} MiB, more than a page can show: ask for less")
    try:
        table = msgspec.json.decode(content, type=_Table)
    except msgspec.DecodeError:
        raise AnalyticsError("leave FORMAT out of the query: the page shows its rows") from None
    return QueryAnswer(table.meta, table.data[:MOST_ROWS], len(table.data) > MOST_ROWS, seconds)
