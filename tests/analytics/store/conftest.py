"""A store over HTTP that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from rattle.analytics.store import Store, create_tables, open_store
from tests.clickhouse import ClickHouse

_numbers = count()


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    with ClickHouse(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def database(clickhouse: ClickHouse) -> str:
    """The URL of an empty database."""
    name = f"d{next(_numbers)}"
    with open_store(clickhouse.url) as store:
        store.command(f"CREATE DATABASE {name}")
    return clickhouse.url.replace("/default", f"/{name}")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A store with tables, and no runs."""
    with open_store(database) as opened:
        create_tables(opened)
        yield opened


@pytest.fixture
def folder_url(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/store"
