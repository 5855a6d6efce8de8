"""The actors of an Inference service: which there are, their threads, and what they report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn, Protocol

from rattle.policies.file import StoredPolicy
from rattle.rollouts.worlds import settings_of_policy
from rattle.services.inference.actors import Actor, ActorHandle, ActorHistory, ActorStatus, Assignment
from rattle.services.inference.agent_actor import AgentActor
from rattle.services.inference.assignment import ActorRequest, assign
from rattle.services.inference.learners import Learners
from rattle.services.inference.rollout_sender import RolloutSender
from rattle.services.inference.snake_loop import SnakeLoop
from rattle.services.inference.training_link import PATIENCE, restart_on_error
from rattle.services.inference.vector_actor import VectorActor
from rattle.settings.experiment import ExperimentSettings
from rattle.wire.problems import RequestError

#: How often it is looked whether rollouts are finished before the service stops.
_LOOK_SECONDS = 0.05


def assignments(settings: ExperimentSettings) -> list[Assignment]:
    """Return what the actors of this process play: every inference process takes a share of each policy's worlds."""
    inference, processes = settings.inference, settings.topology.inference
    by_agent = inference.api == "agent"
    total = inference.snakes if by_agent else settings.env.worlds
    each = -(-len(inference.envs) // processes)  # every Env service is played in
    count = total if by_agent else min(total, processes * (inference.actors or each))
    own = range(count * inference.index // processes, count * (inference.index + 1) // processes)
    return [
        Assignment(
            name=f"{policy_id}-{number}",
            kind=inference.api,
            policy_id=policy_id,
            env_url=inference.envs[number % len(inference.envs)],
            first_world=total * number // count,
            worlds=total * (number + 1) // count - total * number // count,
        )
        for policy_id in settings.training.policies
        for number in own
    ]


class ActorPoolApi(Protocol):
    """The actors of a process as operators see them; raises RequestError for what cannot be."""

    def agents(self) -> list[ActorStatus]:
        """Return what every actor plays and reports."""

    def find(self, name: str) -> ActorStatus:
        """Return what an actor plays and reports."""

    def history(self) -> ActorHistory:
        """Return what has happened in a lockstep run."""

    def add_another(self, wanted: ActorRequest) -> ActorStatus:
        """Start an actor in addition to those that were planned."""

    def pause(self, name: str) -> None:
        """Have an actor wait after the rollout in progress."""

    def resume(self, name: str) -> None:
        """Have an actor continue."""

    def remove(self, name: str) -> None:
        """Stop an actor and forget it."""


@dataclass
class _Player:
    assignment: Assignment
    control: ActorHandle
    contributions: RolloutSender
    thread: threading.Thread = field(init=False)


class ActorPool:
    """All actors of this process; `on_policy` is called with every new version of a policy, in another thread."""

    def __init__(self, settings: ExperimentSettings, on_policy: Callable[[str, StoredPolicy], None]) -> None:
        self._settings = settings
        self._learners = Learners(settings, on_policy)
        self._players: dict[str, _Player] = {}
        self._snakes: SnakeLoop | None = None
        self._changing = threading.Lock()
        self._stopping = False

    def start(self) -> None:
        """Watch the policies and start the actors."""
        self._learners.start()
        with self._changing:
            for assignment in assignments(self._settings):
                self._add(assignment)

    def stop(self) -> None:
        """Stop all actors, and give them a little time to say goodbye."""
        with self._changing:
            self._stopping = True
            players = list(self._players.values())
        self._drain(players)
        for player in players:
            player.control.end()
        deadline = time.monotonic() + PATIENCE
        for player in players:
            player.contributions.close(deadline)
            player.thread.join(max(0.0, deadline - time.monotonic()))
        if self._snakes is not None:
            self._snakes.close()
        self._learners.stop()

    def _drain(self, players: Sequence[_Player]) -> None:
        """Let rollouts in progress be finished, and their receipts come, for as long as the settings allow."""
        seconds = self._settings.inference.drain_seconds
        if not seconds:
            return
        for player in players:
            player.control.pause()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(
            player.control.report_so_far.state == "playing" for player in players
        ):
            time.sleep(_LOOK_SECONDS)

    def agents(self) -> list[ActorStatus]:
        """Return what every actor plays and reports."""
        return [_standing(player) for player in list(self._players.values())]

    def find(self, name: str) -> ActorStatus:
        """Return what an actor plays and reports; raises RequestError for an unknown one."""
        return _standing(self._find(name))

    def history(self) -> NoReturn:
        """Say that nobody keeps one; raises RequestError."""
        raise RequestError("no_history", "there is no history: only a lockstep run (sync.mode=lockstep) has one")

    def add_another(self, wanted: ActorRequest) -> ActorStatus:
        """Start an actor in addition to those that were planned; raises RequestError where it cannot be."""
        with self._changing:
            playing = [player.assignment for player in self._players.values()]
            return self._add(assign(self._settings, assignments(self._settings), playing, wanted))

    def pause(self, name: str) -> None:
        """Have an actor wait after the rollout in progress; raises RequestError for an unknown one, as the next two."""
        self._find(name).control.pause()

    def resume(self, name: str) -> None:
        """Have an actor continue."""
        self._find(name).control.resume()

    def remove(self, name: str) -> None:
        """Stop an actor and forget it."""
        player = self._find(name)
        player.control.end()
        deadline = time.monotonic() + PATIENCE
        player.contributions.close(deadline)
        player.thread.join(max(0.0, deadline - time.monotonic()))
        with self._changing:
            self._players.pop(name, None)

    def _add(self, assignment: Assignment) -> ActorStatus:
        if self._stopping:
            raise RequestError("shutting_down", "the service is stopping")
        actor = self._make(assignment)
        control = ActorHandle()
        contributions = self._learners.contributions(assignment, control.stop)
        player = _Player(assignment, control, contributions)
        play = partial(actor.play, contributions, control)
        player.thread = threading.Thread(
            target=restart_on_error, args=(play, control.stop), name=assignment.name, daemon=True
        )
        self._players[assignment.name] = player
        player.thread.start()
        return _standing(player)

    def _find(self, name: str) -> _Player:
        player = self._players.get(name)
        if player is None:
            raise unknown_agent(name)
        return player

    def _make(self, assignment: Assignment) -> Actor:
        settings = settings_of_policy(self._settings, assignment.policy_id)
        if assignment.kind == "agent":
            self._snakes = self._snakes or SnakeLoop()
            return AgentActor(settings, assignment, self._snakes)
        return VectorActor(settings, assignment)


def unknown_agent(name: str) -> RequestError:
    """Return the error for a name that no actor has."""
    return RequestError("unknown_agent", f"there is no actor '{name[:80]}'", "name")


def _standing(player: _Player) -> ActorStatus:
    return ActorStatus.of(player.assignment, player.control, player.contributions)
