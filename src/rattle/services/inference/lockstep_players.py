"""The players of an Inference service that is a member of a lockstep run: fixed ones, who act when they are told to."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NoReturn

from rattle.clients.keys import sync_key
from rattle.clients.lockstep_member import MemberSettings
from rattle.policies.file import StoredPolicy
from rattle.rollouts.worlds import settings_of_policy
from rattle.services.inference.actor_pool import assignments, unknown_agent
from rattle.services.inference.actors import ActorHandle, ActorHistory, ActorStatus
from rattle.services.inference.assignment import ActorRequest
from rattle.services.inference.learners import Learners
from rattle.services.inference.lockstep_agents import LockstepAgents
from rattle.services.inference.lockstep_snake import LockstepSnake
from rattle.services.inference.snake_loop import SnakeLoop
from rattle.services.inference.training_link import PATIENCE
from rattle.services.utils.serving import end_service
from rattle.settings.experiment import ExperimentSettings
from rattle.wire.problems import RequestError


class LockstepPlayers:
    """All snakes of this process; `on_policy` is called with every new version of a policy, in another thread."""

    def __init__(self, settings: ExperimentSettings, on_policy: Callable[[str, StoredPolicy], None]) -> None:
        """Prepare; raises RattleError where the settings of `sync` are not what they must be."""
        own, sync = assignments(settings), settings.sync
        self._learners = Learners(settings, on_policy)
        # Every snake may wait for a policy or a receipt: none waits for another's.
        self._threads = ThreadPoolExecutor(max(1, len(own)), "snake")
        self._snakes = {
            assignment.name: LockstepSnake(
                settings_of_policy(settings, assignment.policy_id),
                assignment,
                self._learners.contributions(assignment, control.stop),
                control,
                self._threads,
            )
            for assignment, control in ((assignment, ActorHandle()) for assignment in own)
        }
        key = sync_key(sync.key_file, settings.security.token_file)
        self._agents = LockstepAgents(
            MemberSettings(sync.address, key, sync.loss, sync.delay_seconds),
            sync.name or f"inference-{settings.inference.index}",
            list(self._snakes.values()),
            end_service,
        )
        self._loop: SnakeLoop | None = None

    def start(self) -> None:
        """Watch the policies and join the run."""
        self._learners.start()
        self._loop = SnakeLoop()
        self._loop.begin(self._agents.join())

    def stop(self) -> None:
        """Say goodbye, and let go of everything within a little time."""
        snakes = self._snakes.values()
        if self._loop is not None:
            with suppress(TimeoutError):
                self._loop.begin(self._agents.leave()).result(PATIENCE)
        for snake in snakes:
            snake.control.end()
        deadline = time.monotonic() + PATIENCE
        for snake in snakes:
            snake.contributions.close(deadline)
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            self._loop.close()
        self._learners.stop()

    def agents(self) -> list[ActorStatus]:
        """Return what every snake plays and reports."""
        return [_standing(snake) for snake in self._snakes.values()]

    def find(self, name: str) -> ActorStatus:
        """Return what a snake plays and reports; raises RequestError for an unknown one."""
        if name not in self._snakes:
            raise unknown_agent(name)
        return _standing(self._snakes[name])

    def history(self) -> ActorHistory:
        """Return what has happened to the snakes so far."""
        return self._agents.history

    def add_another(self, wanted: ActorRequest) -> NoReturn:
        """Refuse, as the following: who plays would depend on when somebody asked. Raises RequestError."""
        raise _fixed()

    def pause(self, name: str) -> NoReturn:
        """Refuse."""
        raise _fixed()

    def resume(self, name: str) -> NoReturn:
        """Refuse."""
        raise _fixed()

    def remove(self, name: str) -> NoReturn:
        """Refuse."""
        raise _fixed()


def _fixed() -> RequestError:
    return RequestError(
        "conflict", "a lockstep run has fixed players: choose them with inference.snakes before it is started"
    )


def _standing(snake: LockstepSnake) -> ActorStatus:
    return ActorStatus.of(snake.assignment, snake.control, snake.contributions)
