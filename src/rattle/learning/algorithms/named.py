"""A user's algorithm where nothing is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ConfigDict

from rattle.extensions import ExtensionError
from rattle.learning.algorithms.algorithm import Algorithm, Optimisation
from rattle.samples.rollout import Rollout

if TYPE_CHECKING:
    from torch import Tensor


class NamedAlgorithm(Algorithm):
    """The name and the settings of a user's algorithm as they were given, for services that have no PyTorch.

    Anyone who asks it for more gets an ExtensionError that says what to install.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def complete_episodes(self) -> bool:
        """Raise ExtensionError: only the class knows."""
        raise self._needs_pytorch()

    @property
    def rollout_ticks(self) -> int:
        """Raise ExtensionError: only the class knows."""
        raise self._needs_pytorch()

    @property
    def needs_value(self) -> bool:
        """Raise ExtensionError: only the class knows."""
        raise self._needs_pytorch()

    def update(self, rollout: Rollout[Tensor], optimisation: Optimisation) -> dict[str, float]:
        """Raise ExtensionError: only the class can."""
        raise self._needs_pytorch()

    def _needs_pytorch(self) -> ExtensionError:
        return ExtensionError(f"algorithm.id: {self.id} needs 'torch': pip install 'rattle[train]'")
