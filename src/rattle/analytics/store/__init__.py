"""Runs in a store: a ClickHouse server, or chDB in a folder, with the same tables and columns as run directories."""

from rattle.analytics.store.connection import Store, StoreAway, StoreError, StoreRefused, open_store
from rattle.analytics.store.migrations import SCHEMA_VERSION, check_tables, create_tables

__all__ = [
    "SCHEMA_VERSION",
    "Store",
    "StoreAway",
    "StoreError",
    "StoreRefused",
    "check_tables",
    "create_tables",
    "open_store",
]
