"""Rows as bodies of messages: JSON lines, or Parquet for recorded episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from rattle.analytics.steps import parquet_of_episodes
from rattle.telemetry.messages import Importance

_encoder: Final = msgspec.json.Encoder()

#: A row of logs may have 48 kB: so few of them stay below what a broker takes in one message.
_ROWS_AT_A_TIME: Final = 100
_LARGEST_BODY: Final = 1 << 19  # bytes of JSON lines, more or less
#: A body of episodes with so many bytes is whole, before it is compressed; a part of an episode has half of them at
#: most. RabbitMQ 4 takes 16 MiB in a message.
_LARGEST_EPISODES: Final = 1 << 23

#: Tables whose rows belong to an update of a life of their run.
_OF_AN_UPDATE: Final = frozenset({"updates", "episodes", "evaluations", "steps"})

#: How many rows a body has, and the body.
Body = tuple[int, bytes]


class Entry(NamedTuple):
    """Rows that were appended together."""

    table: str
    importance: Importance
    rows: Sequence[Mapping[str, Any]]
    made_by: int
    life: int


def json_bodies(entries: Iterable[Entry], on_unfit: Callable[[], None]) -> Iterator[Body]:
    """Yield bodies of JSON lines; rows that cannot be JSON are left out, and `on_unfit` is called for each."""
    body, rows = bytearray(), 0
    for entry in entries:
        for start in range(0, len(entry.rows), _ROWS_AT_A_TIME):
            lines = _encoded(entry.rows[start : start + _ROWS_AT_A_TIME], on_unfit)
            if entry.table in _OF_AN_UPDATE:  # no other place of JSON lines has a line break
                lines = lines.replace(b"}\n", b',"life":%d,"made_by":%d}\n' % (entry.life, entry.made_by))
            body += lines
            rows += lines.count(b"\n")
            if len(body) >= _LARGEST_BODY:
                yield rows, bytes(body)
                body, rows = bytearray(), 0
    if rows:
        yield rows, bytes(body)


def parquet_bodies(entries: Iterable[Entry]) -> Iterator[Body]:
    """Yield bodies of Parquet; the rows of the entries are episodes, as `as_episode` returns them.

    A long episode is spread over several bodies.
    """
    episodes: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        for episode in entry.rows:
            ticks = len(episode["tick"])
            life, made_by = np.full(ticks, entry.life, np.uint32), np.full(ticks, entry.made_by, np.uint64)
            whole, bytes_in_it = {**episode, "life": life, "made_by": made_by}, _bytes(episode)
            parts = min(ticks, 1 + 2 * bytes_in_it // _LARGEST_EPISODES)
            for part in range(parts):
                chosen = slice(part * ticks // parts, (part + 1) * ticks // parts)
                episodes.append({name: column[chosen] for name, column in whole.items()})
                size += bytes_in_it // parts
                if size >= _LARGEST_EPISODES:
                    yield _ticks(episodes), parquet_of_episodes(episodes, lasts=False)
                    episodes, size = [], 0
    if episodes:
        yield _ticks(episodes), parquet_of_episodes(episodes, lasts=False)


def _encoded(rows: Sequence[Mapping[str, Any]], on_unfit: Callable[[], None]) -> bytes:
    try:
        return _encoder.encode_lines(rows)
    except (TypeError, ValueError):
        if len(rows) == 1:
            on_unfit()
            return b""
        return b"".join(_encoded([row], on_unfit) for row in rows)


def _bytes(episode: Mapping[str, Any]) -> int:
    return int(sum(column.nbytes for column in episode.values())) + sum(map(len, episode["state"]))


def _ticks(episodes: Iterable[Mapping[str, Any]]) -> int:
    return sum(len(episode["tick"]) for episode in episodes)
