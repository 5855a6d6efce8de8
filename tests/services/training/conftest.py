"""What tests of the Training service share with those of `rattle train`."""

from __future__ import annotations

from tests.trainer.conftest import train_small

__all__ = ["train_small"]
