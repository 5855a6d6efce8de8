"""The Training services of a run: the policies that come from them, and the contributions that go to them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from rattle.errors import RattleError
from rattle.policies.file import StoredPolicy
from rattle.rollouts.worlds import environment_of
from rattle.services.inference.actors import Assignment
from rattle.services.inference.rollout_sender import RolloutSender
from rattle.services.inference.training_link import PolicyFeed, TrainingLink
from rattle.settings.experiment import ExperimentSettings
from rattle.wire.vector import dump_environment


class PlayedEnvironment:
    """What the actors of a process play: the first of their servers says so, once it can be asked."""

    def __init__(self, settings: ExperimentSettings) -> None:
        self._settings = settings
        self._described = ""

    def describe(self) -> str:
        """Return the environment as JSON, and nothing while it is not known: the actor says why."""
        own = self._settings.inference
        if not self._described and own.api == "vector":
            env = self._settings.env.model_copy(update={"url": own.envs[0], "wait_seconds": 0.0})
            with suppress(RattleError):
                self._described = dump_environment(environment_of(self._settings.model_copy(update={"env": env})))
        return self._described


class Learners:
    """Watches the policies of a run; `on_policy` is called with every new version, in another thread."""

    def __init__(self, settings: ExperimentSettings, on_policy: Callable[[str, StoredPolicy], None]) -> None:
        self._links = [
            TrainingLink(address, settings.training.max_message_bytes, settings.inference.answer_seconds)
            for address in settings.inference.training
        ]
        played = PlayedEnvironment(settings)
        self._feeds: dict[str, PolicyFeed] = {}
        self._link_of: dict[str, TrainingLink] = {}
        for number, policy_id in enumerate(settings.training.policies):
            link = self._links[number % len(self._links)]
            self._link_of[policy_id] = link
            self._feeds[policy_id] = PolicyFeed(link, policy_id, on_policy, played.describe)

    def start(self) -> None:
        """Begin to watch."""
        for feed in self._feeds.values():
            feed.start()

    def stop(self) -> None:
        """Stop watching, and close the connections; all contributions have been closed."""
        for feed in self._feeds.values():
            feed.stop()
        for link in self._links:
            link.close()

    def contributions(self, assignment: Assignment, stop: threading.Event) -> RolloutSender:
        """Return an actor's side of learning the policy that it plays."""
        policy_id = assignment.policy_id
        return RolloutSender(self._link_of[policy_id], self._feeds[policy_id], assignment.name, stop)
