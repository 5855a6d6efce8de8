"""What a policy sees of its own past: how it is read from the state of slots, and kept there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.own import kernel
from rattle.policies.own.inputs import COLUMNS, OWN_INPUTS, OwnLayout
from rattle.samples.spaces import Actions, BoxSpace


class OwnPast(OwnLayout):
    """A layout that reads states too."""

    def __init__(self, layout: OwnLayout) -> None:
        super().__init__(layout.inputs, layout.actions)
        columns, places, actions = layout.columns, layout.places, layout.actions
        of_columns = np.array([columns[name].start if name in columns else -1 for name in COLUMNS], np.int64)
        of_places = np.array([places[name].start if name in places else -1 for name in OWN_INPUTS], np.int64)
        choices = np.array(actions.choices, np.int64)
        self._how = of_columns, of_places, choices, *scales(actions)

    def see(self, state: NDArray[np.float32] | None, rows: int) -> NDArray[np.float32] | None:
        """Return the inputs (N, width), None without any; take last actions and rewards in, and have both be 0."""
        if not self.width:
            return None
        found = np.zeros((rows, self.width), np.float32)
        state = np.zeros((rows, self.size), np.float32) if state is None else state
        kernel.see(state, *self._how, found)
        return found

    def replay(
        self,
        state: NDArray[np.float32],
        action: NDArray[Any],
        reward: NDArray[np.float32],
        starts: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Return the inputs (T, B, width) of T ticks that began with a state, from actions and their results.

        action: (T, B, ...); reward: (T, B); starts: (T, B), where an episode begins. `state` (B, S) stays as it is.
        """
        kept = state[:, : self.size].copy()
        found = np.zeros((*reward.shape, self.width), np.float32)
        played = self.numbers(action.reshape(-1, *self.actions.shape)).reshape(*reward.shape, -1), reward, starts
        kernel.replay(kept, *self._how, *played, found)
        return found


def scales(actions: Actions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the middle between the bounds of each real number of an action, and half of their width; 0 without two."""
    if not isinstance(actions, BoxSpace):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    middles, halves = actions.middles_and_halves
    return middles.ravel(), halves.ravel()
