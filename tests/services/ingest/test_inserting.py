"""Batches into a real store: what does not fit is found, and what comes twice counts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rattle.analytics.store import Store, StoreError, create_tables, open_store
from rattle.services.ingest.inserting import Inserter
from rattle.services.ingest.messages import Delivery
from tests.services.ingest.test_batches import PARQUET, delivery


def logs(tag: int, rows: int = 10, body: bytes | None = None) -> Delivery:
    lines = b"".join(b'{"run_id":"r","writer":"w","number":%d}\n' % (tag * 1000 + row) for row in range(rows))
    return delivery(tag, body=lines if body is None else body)


def count(store: Store, table: str = "logs") -> int:
    return int(store.read(f"SELECT count() FROM {table}", "TSVRaw"))  # noqa: S608


class Counting:
    """A store that counts inserts, and may fail."""

    def __init__(self, store: Store, fails: Callable[[], StoreError | None] = lambda: None) -> None:
        self._store = store
        self._fails = fails
        self.inserts = 0

    def insert(self, *arguments: object) -> None:
        self.inserts += 1
        if (error := self._fails()) is not None:
            raise error
        self._store.insert(*arguments)  # type: ignore[arg-type]


def test_a_batch_is_one_insert_a_table(store: Store) -> None:
    counting = Counting(store)
    batch = [logs(1), delivery(2, "updates", body=b'{"run_id":"r","policy_version":1}'), logs(3)]
    assert Inserter(counting, Counter()).insert(batch) == []  # type: ignore[arg-type]
    assert counting.inserts == 2
    assert (count(store), count(store, "updates")) == (20, 1)


@pytest.fixture(params=["server", "folder"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with tables that is asked over HTTP, and one in a folder."""
    if request.param == "server":
        yield request.getfixturevalue("store")
        return
    with open_store(f"chdb://{tmp_path}/store", create=True) as opened:
        create_tables(opened)
        yield opened


def test_the_message_that_does_not_fit_is_found(any_store: Store) -> None:
    store = any_store
    wrong = {17: b'{"number":"x"}\n', 40: b'{"no_column":1}\n', 41: b"[1, 2\n"}
    wrong |= {50: b'{"number":"\xff"}\n', 51: b'{"no_column\xff":1}\n', 52: b"\xff\xfe\n"}
    batch = [logs(tag, body=wrong.get(tag)) for tag in range(64)]
    rejected = Inserter(store, Counter()).insert(batch)
    assert [one.delivery.tag for one in rejected] == sorted(wrong)
    assert count(store) == 10 * (64 - len(wrong))
    reasons = [one.reason for one in rejected]
    assert "Unknown field found while parsing JSONEachRow format: no_column" in reasons[1]
    assert all("\n" not in reason and "DB::Exception" not in reason for reason in reasons)


def test_a_body_that_is_no_file_is_rejected_by_itself(store: Store) -> None:
    batch = [delivery(1, "steps", PARQUET, b"PAR1, and no more"), logs(2), delivery(3, "nix"), delivery(4, schema=9)]
    rejected = Inserter(store, Counter()).insert(batch)
    assert sorted(one.delivery.tag for one in rejected) == [1, 3, 4]
    assert count(store) == 10


def test_equal_rows_of_one_batch_count_once_and_the_last_is_kept(any_store: Store) -> None:
    body = b"".join(b'{"run_id":"r","policy_version":%d,"seconds":%d}\n' % (n % 3, n) for n in range(12))
    assert Inserter(any_store, Counter()).insert([delivery(1, "updates", body=body)]) == []
    answer = any_store.read("SELECT policy_version, seconds FROM updates ORDER BY policy_version", "CSV")
    assert answer == b"0,9\n1,10\n2,11\n"


def test_batches_that_come_again_count_once(store: Store) -> None:
    inserter = Inserter(store, Counter())
    batch = [logs(tag) for tag in range(4)]
    inserter.insert(batch)
    inserter.insert(batch)  # the very same: the store knows its token
    inserter.insert(batch[2:])  # delivered again in another way: rows are told apart
    assert count(store) == 40


def test_a_store_in_trouble_rejects_nothing(store: Store) -> None:
    for code in (243, 241, 60, 164, None):
        failing = Counting(store, lambda code=code: StoreError("it fails", code))  # type: ignore[misc]
        with pytest.raises(StoreError):
            Inserter(failing, Counter()).insert([logs(1), logs(2)])  # type: ignore[arg-type]
        assert failing.inserts == 1
    full = Counting(store, lambda: StoreError("it fails", 1001, answer="cannot write: No space left on device"))
    with pytest.raises(StoreError):
        Inserter(full, Counter()).insert([logs(1)])  # type: ignore[arg-type]


def test_a_message_that_fails_again_and_again_is_rejected_whatever_the_reason(store: Store) -> None:
    failing, failures = Counting(store, lambda: StoreError("it fails", 1001)), Counter[str]()
    for _ in range(2):
        with pytest.raises(StoreError):
            Inserter(failing, failures).insert([logs(1)])  # type: ignore[arg-type]
    assert [one.reason for one in Inserter(failing, failures).insert([logs(1)])] == ["it fails"]  # type: ignore[arg-type]
