"""The lives of one snake of the agent API: each is played by one policy, and contributed as one rollout."""

from __future__ import annotations

from rattle.envs.seeds import derive_seed
from rattle.policies.acting import ActingPolicy
from rattle.services.inference.actors import ActorHandle, Assignment
from rattle.services.inference.agent_episode import MAX_EPISODE_TICKS, AgentEpisode, episode_buffer
from rattle.services.inference.rollout_sender import RolloutSender
from rattle.services.inference.rollouts import to_message
from rattle.services.inference.training_link import PolicyName, ReceivedPolicy
from rattle.settings.experiment import ExperimentSettings


class AgentLives:
    """Begins a snake's lives and contributes them; they share a buffer, so one must be over before the next."""

    def __init__(self, settings: ExperimentSettings, assignment: Assignment) -> None:
        self.contributed: ReceivedPolicy | None = None  # with which the last contributed life was played
        self._snake = assignment.first_world
        self._settings = settings
        self._room = MAX_EPISODE_TICKS, 0  # ticks, and what a policy remembers
        self._buffer = episode_buffer(settings, *self._room)
        self._seed = derive_seed(settings.seed, "actions")
        self._number = 0
        self._acting: ActingPolicy | None = None
        self._acting_with: PolicyName | None = None

    def begin(self, held: ReceivedPolicy, first_tick: int) -> AgentEpisode:
        """Return a life that a policy plays; `first_tick`, the number of its first tick, numbers its draws."""
        if self._acting is None or self._acting_with != held.name:
            self._acting = ActingPolicy.after(self._acting, held.policy.spec, held.policy.parameters, self._seed)
            self._acting_with = held.name
            ticks, complete = held.rollouts(self._settings.algorithm)
            room = ticks if complete else MAX_EPISODE_TICKS, held.policy.spec.memory_size
            if room != self._room:
                self._buffer, self._room = episode_buffer(self._settings, *room), room
        return AgentEpisode(self._buffer, self._acting, slot=self._snake, first_tick=first_tick, number=self._number)

    def contribute(self, ticks: int, held: ReceivedPolicy, contributions: RolloutSender, control: ActorHandle) -> None:
        """Send the last life, which a policy has played; waits for its receipt."""
        rollout = to_message(self._buffer.first(ticks), self._snake, held.policy.spec.action)
        control.count(rollouts=1, env_steps=ticks)
        self._number += 1
        self.contributed = held
        contributions.contribute(rollout, held, continues=False)
