"""An environment server's worlds as a Gymnasium vector environment, for any trainer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rattle.clients.answers import SlotArrays, read_spec
from rattle.clients.errors import ClientError
from rattle.clients.remote_worlds import Patience, RemoteWorlds, ask_spec
from rattle.envs.errors import EnvError, WorldsLost
from rattle.envs.gymnasium_batch import activity_infos, as_rows, final_infos, spaces_of
from rattle.envs.seeds import check_seed
from rattle.envs.vector import EnvironmentSpec, check_actions
from rattle.wire.vector import ServerSpec

Infos = dict[str, Any]


class RemoteVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """A batch of a server's worlds (docs/env-api.md); finished worlds restart in the same step.

    `num_envs` counts slots: with A agents a world it must be a multiple of A. The worlds are split over `sessions`,
    whose requests are in flight together. Observations are uint8 (num_envs, cells) or float32 (num_envs, size),
    actions rows of the action space, rewards float32 (num_envs,); infos are those of SyncVectorEnv's SAME_STEP mode,
    with `active` where worlds hold several agents. `reset(seed=s)` starts episode 0 of seed s in every world, `reset()`
    the next ones, the first time of a fresh seed. `options` change settings of the server's environment.

    Requests have time-outs, are repeated with back-off and never take a step twice. Where a server has lost a
    session, its slots end truncated, with reward 0 and what they saw before as the last observation, and
    `infos["lost"]`, bool (num_envs,), marks them: their actions had no outcome, so learn nothing from that step. New
    episodes begin. With `copy=False` the arrays handed out are the batch's own, which the next step overwrites.

    Raises EnvError for a bad `num_envs` or action, ClientError when the server cannot be reached in time or refuses.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's declaration

    def __init__(
        self,
        url: str,
        num_envs: int = 1,
        *,
        sessions: int = 1,
        first_world: int = 0,
        options: Mapping[str, Any] | None = None,
        copy: bool = True,
        patience: Patience | None = None,
        websocket: bool = True,
    ) -> None:
        server = ask_spec(url, patience)
        agents = _agents_per_world(server, url, options, patience)
        if num_envs < 1 or num_envs % agents:
            raise EnvError(
                f"num_envs counts agents: with {agents} a world it must be a multiple of {agents}, got {num_envs}"
            )
        worlds = num_envs // agents
        if not 1 <= sessions <= worlds:
            raise EnvError(f"sessions must lie between 1 and the number of worlds, {worlds}, got {sessions}")
        self.num_envs = num_envs
        self.copy = copy
        bounds = [worlds * number // sessions for number in range(sessions + 1)]
        self._parts: list[RemoteWorlds] = []
        whole: SlotArrays | None = None

        def make_arrays(spec: EnvironmentSpec) -> SlotArrays:
            """Return the next session's part of the batch, which is made when the first says what it holds."""
            nonlocal whole
            whole = whole or SlotArrays(spec, worlds)
            return whole.part(first, last)

        try:
            for first, last in pairwise(bounds):
                part = RemoteWorlds(
                    url,
                    last - first,
                    first_world=first_world + first,
                    options=options,
                    patience=patience,
                    websocket=websocket,
                    make_arrays=make_arrays,
                    server=server,
                )
                self._parts.append(part)
        except ClientError:
            self.close_extras()
            raise
        assert whole is not None  # noqa: S101 - there is one session at least
        self._arrays = whole
        self._slots = [slice(first * agents, last * agents) for first, last in pairwise(bounds)]
        self._lost = np.zeros(num_envs, np.bool_)
        self.single_observation_space, self.single_action_space = spaces_of(self._arrays.spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: Infos | None = None) -> tuple[NDArray[Any], Infos]:
        """Start an episode in every world; raises EnvError for a list of seeds and for the option `reset_mask`."""
        if isinstance(seed, list | tuple | np.ndarray):
            raise EnvError("a batch has one seed, from which every world derives its own: give reset() a whole number")
        if options is not None and "reset_mask" in options:
            raise EnvError("worlds restart by themselves (SAME_STEP): reset() cannot restart some of them")
        if seed is None and not self._seeded:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        super().reset(seed=None if seed is None else check_seed(seed))
        for part in self._parts:
            part.reset(seed)
        self._seeded = True
        return self._own(self._arrays.observation), activity_infos(self._arrays, copy=self.copy)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Advance every world one tick; raises EnvError for actions that are none and before the first reset."""
        if not self._seeded:
            raise EnvError("no episode is in progress: call reset() before step()")
        chosen = as_rows(actions, self._arrays.spec.action_space)
        check_actions(chosen, self.num_envs, self._arrays.spec.action_space)  # of all, before any sets out
        for part, slots in zip(self._parts, self._slots, strict=True):
            part.step_async(chosen[slots])
        self._lost[:] = False
        for part, slots in zip(self._parts, self._slots, strict=True):
            self._finish(part, slots)
        arrays = self._arrays
        return (
            self._own(arrays.observation),
            self._own(arrays.reward),
            self._own(arrays.terminated),
            self._own(arrays.truncated),
            final_infos(arrays) | activity_infos(arrays, copy=self.copy) | self._loss_infos(),
        )

    def close_extras(self, **kwargs: Any) -> None:
        """End the sessions."""
        for part in self._parts:
            part.close()

    def _finish(self, part: RemoteWorlds, slots: slice) -> None:
        try:
            part.step_wait()
        except WorldsLost:
            self._lost[slots] = part.truncated

    def _loss_infos(self) -> Infos:
        if not self._lost.any():
            return {}
        return {"lost": self._lost.copy(), "_lost": np.ones(self.num_envs, np.bool_)}

    def _own(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy() if self.copy else array


def _agents_per_world(
    server: ServerSpec, url: str, options: Mapping[str, Any] | None, patience: Patience | None
) -> int:
    """Return how many agents share a world; where options may change that, a session of one world says so."""
    if not options:
        return read_spec(server).agents_per_world
    with closing(RemoteWorlds(url, 1, options=options, patience=patience, websocket=False, server=server)) as one:
        return one.spec.agents_per_world
