"""Worlds that observe arrays, many codes, and parts with a mask, for servers that are checked."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.validation import StrictSettings
from rattle.envs.worlds import Worlds
from rattle.extend import DiscreteSpace
from rattle.samples.spaces import ArraySpace, CodeSpace, FloatSpace, MaskSpace, ObservationSpace, Part, PartsSpace

IMAGE = ArraySpace(sizes=(2, 3, 1))
PARTS = PartsSpace(
    parts=(
        Part(name="image", space=IMAGE),
        Part(name="place", space=FloatSpace(size=2)),
        Part(name="state", space=CodeSpace(cells=1, codes=300)),
        Part(name="action_mask", space=MaskSpace(size=4)),
    )
)
KINDS: dict[str, ObservationSpace] = {
    "image": IMAGE,
    "array": ArraySpace(sizes=(2, 2), element="float32"),
    "many codes": CodeSpace(cells=1, codes=300),
    "parts": PARTS,
}


class Kinds(Worlds):
    """Counts to 12; a third of the actions is forbidden where there is a mask, and to take one is an error."""

    class Settings(StrictSettings):
        """Which kind."""

        kind: str = "parts"

    agents_per_world = 1
    metric_names: ClassVar[tuple[str, ...]] = ()

    def spaces(self) -> tuple[ObservationSpace, DiscreteSpace]:
        return KINDS[self.settings.kind], DiscreteSpace(n=4)

    def allocate(self) -> None:
        self.tick = np.zeros(self.num_worlds, np.int64)
        self.drift = np.zeros(self.num_worlds, np.int64)

    def start(self, worlds: NDArray[np.int64]) -> None:
        self.tick[worlds] = 0
        self.drift[worlds] = (self.random(worlds)[:, 0] * 100).astype(np.int64)
        self._show(worlds)

    def advance(self, action: NDArray[Any]) -> None:
        space = self.spec.observation_space
        if isinstance(space, PartsSpace):
            mask = self.observation[:, space.columns["action_mask"]]
            if not mask[np.arange(len(action)), action].all():
                raise EnvError("an action that the mask forbids")
        self.tick += 1
        self.drift += action
        self.reward[:] = action
        self.terminated[:] = (self.tick == 12) & (self.drift % 2 == 0)
        self.truncated[:] = (self.tick == 12) & ~self.terminated
        self._show(np.arange(self.num_worlds))

    def _show(self, worlds: NDArray[np.int64]) -> None:
        space, seen = self.spec.observation_space, (self.drift[worlds] + self.tick[worlds])[:, None]
        if not isinstance(space, PartsSpace):
            self.observation[worlds] = (seen % 200).reshape(-1, *(1 for _ in space.shape))
            return
        rows = np.broadcast_to(seen % 200, (len(worlds), space.shape[0])).astype(np.float32)
        rows[:, space.columns["action_mask"]] = (seen + np.arange(4)) % 3 != 0
        self.observation[worlds] = rows
