"""Worlds of sessions: in this process, or in worker processes, whose number is bounded over all sessions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from rattle.envs.foreign import check_harmless
from rattle.envs.registry import make_worlds
from rattle.envs.vector import VectorWorlds
from rattle.settings.experiment import ExperimentSettings
from rattle.workers.choice import Tried, try_one, usable_cores
from rattle.workers.making import make_in_workers
from rattle.workers.worlds import WorkerWorlds

#: Workers of all sessions together, for each that one session may have: actors have two sessions each, in turn.
_TIMES = 4
#: Options of clients for which it is remembered how long a step takes.
_MOST_TRIED = 64


class SessionWorlds:
    """Makes the worlds of sessions, in any thread."""

    def __init__(self, settings: ExperimentSettings) -> None:
        self._env = settings.env
        wanted = settings.env_service.processes
        self._wanted = settings.env.processes if wanted is None else wanted
        self._most = usable_cores() if self._wanted == "auto" else self._wanted  # workers of a session
        self._lock = threading.Lock()
        self._made: list[WorkerWorlds] = []
        self._tried: dict[str, Tried] = {}  # by options, the oldest first
        self._promised = 0  # workers of worlds that are being made

    def __call__(self, options: Mapping[str, Any], worlds: int, seed: int, first_world: int) -> VectorWorlds:
        """Make worlds with options, which come from clients: they may change settings, and name no code.

        Raises EnvError.
        """
        if worlds == 1 or self._wanted == 1 or self._env.id == "snake":
            return self._here(options, worlds, seed, first_world)
        promised = self._promise()
        try:
            made = make_in_workers(
                lambda: self._try(options),
                self._wanted,
                seed,
                (first_world, first_world + worlds),
                answer_seconds=self._env.answer_seconds,
                vector=self._env.vector,
                most=promised,
            )
            with self._lock:
                self._made.extend(made)
        finally:
            with self._lock:
                self._promised -= promised
        return made[0] if made else self._here(options, worlds, seed, first_world)

    def _try(self, options: Mapping[str, Any]) -> Tried:
        """Return what a world with such options is, and how long a step takes: tried once for the same options."""
        key = repr(options)
        if (known := self._tried.get(key)) is None:
            known = try_one(lambda: self._here(options, 1, 0, 0), measures=self._wanted == "auto")
            with self._lock:
                while len(self._tried) >= _MOST_TRIED:
                    del self._tried[next(iter(self._tried))]
                self._tried[key] = known
        return known

    def _here(self, options: Mapping[str, Any], worlds: int, seed: int, first_world: int) -> VectorWorlds:
        env = self._env
        check_harmless(env.id, options, env.own_settings)
        settings = {**env.own_settings, **options}
        return make_worlds(env.id, settings, worlds, seed, first_world, vector=env.vector)

    def _promise(self) -> int:
        """Keep places for as many workers as a session may have, and return how many these are."""
        with self._lock:
            self._made = [worlds for worlds in self._made if worlds.processes]
            used = self._promised + sum(worlds.processes for worlds in self._made)
            promised = max(0, min(self._most, _TIMES * self._most - used))
            self._promised += promised
            return promised
