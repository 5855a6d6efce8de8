"""Fixtures of runs and disks, as the analytics package's tests have them."""

from tests.analytics.conftest import run, tiny_disk

__all__ = ["run", "tiny_disk"]
