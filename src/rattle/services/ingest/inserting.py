"""Batches into a store: one insert a table, and what cannot be stored is found by halving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

from rattle.analytics.store import Store, StoreAway, StoreError, StoreRefused
from rattle.analytics.store.load import SETTINGS
from rattle.analytics.store.tables import PREFIX
from rattle.services.ingest.messages import Delivery, Rejected, by_table

#: The engine's codes for rows that do not fit.
_OF_ROWS: Final = frozenset((6, 8, 9, 10, 15, 16, 20, 23, 25, 26, 27, 32, 33, 38, 41, 43, 44, 50, 53, 69)) | frozenset(
    (70, 72, 73, 117, 130, 131, 190, 321, 349, 353, 386, 432, 441, 467, 509, 524, 635, 636, 652, 691)
)
#: Its codes for what a store lacks, such as room, memory or tables: rows wait until somebody has fixed it.
_OF_STORE: Final = frozenset((48, 57, 60, 74, 75, 76, 77, 81, 82, 107, 159, 160, 164, 172, 201, 202, 209)) | frozenset(
    (210, 215, 236, 241, 242, 243, 252, 285, 294, 319, 341, 364, 394, 425, 439, 497, 516, 999)
)
#: How often a message that fails for another reason is tried.
_ATTEMPTS: Final = 3
_FULL_DISK: Final = ("No space left", "errno: 28", "errno = 28")


class Inserter:
    """Stores batches; one thread may use it."""

    def __init__(self, store: Store, failures: Counter[str]) -> None:
        """`failures` counts those of messages that may be to blame for them, over several stores."""
        self._store = store
        self._failures = failures

    def insert(self, deliveries: Sequence[Delivery]) -> list[Rejected]:
        """Store messages and return those that cannot be stored; raises StoreError when it should be tried again later.

        What an attempt stored before it failed is not stored twice by the next.
        """
        rejected = [Rejected(delivery, said) for delivery in deliveries if (said := delivery.problem()) is not None]
        readable = [delivery for delivery in deliveries if delivery.problem() is None]
        for (table, engine_format), some in by_table(readable).items():
            if engine_format == "JSONEachRow":
                rejected += self._insert(table, engine_format, some)
            else:  # bodies cannot be joined
                rejected += [one for part in some for one in self._insert(table, engine_format, [part])]
        return rejected

    def _insert(self, table: str, engine_format: str, deliveries: Sequence[Delivery]) -> Iterator[Rejected]:
        body = b"".join(_lines(one.body) for one in deliveries) if len(deliveries) > 1 else deliveries[0].body
        try:
            self._store.insert(PREFIX + table, body, engine_format, {**SETTINGS, **_token(deliveries)})
        except StoreError as error:
            if _is_of_store(error):
                raise
            if len(deliveries) == 1:
                self._check_patience(deliveries[0], error)
                yield Rejected(deliveries[0], error.reason)
                return
            half = len(deliveries) // 2
            yield from self._insert(table, engine_format, deliveries[:half])
            yield from self._insert(table, engine_format, deliveries[half:])

    def _check_patience(self, delivery: Delivery, error: StoreError) -> None:
        """Raise the error again unless the message is surely wrong, or has failed often enough."""
        if error.code in _OF_ROWS:
            return
        name = _name(delivery)
        self._failures[name] += 1
        if self._failures[name] < _ATTEMPTS:
            raise error
        del self._failures[name]


def _is_of_store(error: StoreError) -> bool:
    away = isinstance(error, StoreAway | StoreRefused) or error.code is None or error.code in _OF_STORE
    return away or any(sign in error.answer for sign in _FULL_DISK)


def _lines(body: bytes) -> bytes:
    return body if body.endswith(b"\n") else body + b"\n"


def _token(deliveries: Sequence[Delivery]) -> dict[str, str]:
    """Return what tells the store that it was given these very messages already."""
    names = "\n".join(map(_name, deliveries))
    return {"insert_deduplication_token": sha256(names.encode()).hexdigest()}


def _name(delivery: Delivery) -> str:
    return delivery.message_id or sha256(delivery.body).hexdigest()
