"""Acting: a policy's choices for whole batches, without the framework that learns."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rattle.envs.seeds import split_seed
from rattle.policies.errors import PolicyError
from rattle.policies.kind import Parameters
from rattle.policies.kinds import check_parameters, kind_of
from rattle.policies.own.past import OwnPast
from rattle.policies.spec import PolicySpec


class ActingPolicy:
    """A policy that acts; calls release the interpreter lock and may run in several threads."""

    def __init__(self, spec: PolicySpec, parameters: Parameters, seed: int = 0) -> None:
        """Raise PolicyError when the parameters do not fit the spec."""
        check_parameters(spec, parameters)
        self.spec = spec
        self.own = OwnPast(spec.own)
        self._memory_size = spec.memory_size
        self._key = np.array(split_seed(seed), np.uint64)
        self._program = kind_of(spec).make_program(spec, parameters)

    def load(self, parameters: Parameters) -> None:
        """Swap in new weights; a call that is under way finishes with the old ones. Raises PolicyError."""
        check_parameters(self.spec, parameters)
        self._program.load(parameters)

    @classmethod
    def after(cls, before: Self | None, spec: PolicySpec, parameters: Parameters, seed: int = 0) -> Self:
        """Return the policy that follows one of the same seed, which stays as it is; one spec is made ready once.

        Raises PolicyError when the parameters do not fit the spec.
        """
        if before is None or before.spec != spec:
            return cls(spec, parameters, seed)
        following = copy(before)
        following._program = copy(before._program)
        following.load(parameters)
        return following

    def act(
        self,
        observation: NDArray[Any],
        *,
        tick: int,
        first_slot: int = 0,
        greedy: bool = False,
        action: NDArray[Any],
        log_prob: NDArray[np.float32],
        value: NDArray[np.float32],
        state: NDArray[np.float32] | None = None,
    ) -> None:
        """Write an action, its log-probability and a value (0 without a value head) for every row of observations.

        observation: (N, ...) of the observation space; action: (N, ...) of the action space, contiguous; the two others
        float32 (N,). Actions may lie beyond the bounds of their space: environments `bound` them. `state` float32
        (N, memory_size) is what each slot remembers, and is overwritten: zeros where an episode begins, None without
        memory. The result of the actions is added by `own.rewarded` before the next call. What a slot draws depends on
        the policy's seed, the slot (`first_slot` + row) and the tick only. Raises
        PolicyError, with nothing written, when an array is not what it should be.
        """
        observation = self._checked(observation)
        rows = len(observation)
        space = self.spec.action
        for name, output, dtype, shape in (
            ("action", action, space.dtype, (rows, *space.shape)),
            ("log_prob", log_prob, np.float32, (rows,)),
            ("value", value, np.float32, (rows,)),
        ):
            if output.dtype != dtype or output.shape != shape:  # the compiled code would write past a shorter one
                raise PolicyError(
                    f"{name} must be {np.dtype(dtype)} {shape} for {rows} rows, got {output.dtype} {output.shape}"
                )
        if space.shape and not action.flags.c_contiguous:
            raise PolicyError(f"action must be contiguous for actions of shape {space.shape}")
        remembered = self._remembered(rows, state)
        own = self.own.see(remembered, rows)
        self._program.act(observation, self._key, first_slot, tick, greedy, action, log_prob, value, remembered, own)
        self.own.acted(remembered, action)

    def values(self, observation: NDArray[Any], state: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return float32 (N,): the predicted value of every row, 0 without a value head; `state` stays as it is."""
        observation = self._checked(observation)
        remembered = self._remembered(len(observation), state)
        past = None if remembered is None else remembered[:, : self.own.size].copy()  # which seeing it changes
        return self._program.values(observation, remembered, self.own.see(past, len(observation)))

    def forward(
        self, observation: NDArray[Any], state: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the head's outputs (N, outputs) and the value (N,) of every row: the bits that `act` chooses from.

        `state` is overwritten, as by `act`; who chooses by them tells `own.acted` what was chosen.
        """
        observation = self._checked(observation)
        remembered = self._remembered(len(observation), state)
        return self._program.forward(observation, remembered, self.own.see(remembered, len(observation)))

    def _remembered(self, rows: int, state: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        size = self._memory_size
        if not size or state is None:
            return None
        if state.dtype != np.float32 or state.shape != (rows, size):
            raise PolicyError(f"state must be float32 ({rows}, {size}), got {state.dtype} {state.shape}")
        return state

    def _checked(self, observation: NDArray[Any]) -> NDArray[Any]:
        space = self.spec.observation
        if observation.dtype != space.dtype or observation.ndim < 1 or observation.shape[1:] != space.shape:
            raise PolicyError(
                f"this policy takes observations of {space.dtype} (rows, {', '.join(map(str, space.shape))}), "
                f"got {observation.dtype} {observation.shape}: it was made for another environment"
            )
        # Compiled code takes whole numbers as indices.
        if space.dtype.kind != "f" and (place := space.find_wrong(observation)) is not None:
            raise PolicyError(
                f"this policy knows {space.values}, got {observation[place]}: it was made for another environment"
            )
        # For arrays of other layouts, or that may not be written, Numba would compile the kernel again.
        return observation if observation.flags.carray else np.array(observation, order="C")
