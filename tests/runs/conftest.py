"""Small runs, as the tests of the trainer have them."""

from tests.trainer.conftest import train_small

__all__ = ["train_small"]
