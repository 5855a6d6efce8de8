"""A store that the tests of this folder share."""

from tests.analytics.store.conftest import clickhouse, database, store

__all__ = ["clickhouse", "database", "store"]
