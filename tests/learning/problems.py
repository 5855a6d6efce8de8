"""Tiny problems with a known optimum: finite games given by tables, behind the vector protocol."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.vector import EnvironmentSpec
from rattle.learning.algorithms import Algorithm
from rattle.learning.learner import Learner
from rattle.policies.acting import ActingPolicy
from rattle.policies.mlp.spec import MlpSpec
from rattle.rollouts.collector import Collector, WorldBatch, WorldsActor
from rattle.samples.rollout import as_tensors
from rattle.samples.spaces import CodeSpace, DiscreteSpace, FloatSpace, ObservationSpace
from tests.policies.building import network_outputs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """S states and A actions; everything that happens is in the tables."""

    follows: NDArray[np.int64]  # (S, A): the next state
    reward: Floats  # (S, A)
    ends: NDArray[np.bool_]  # (S, A): the episode terminates with this move
    starts: tuple[int, ...]  # episodes begin in these states in turn
    observation: NDArray[Any]  # (S, row): what is seen in a state, uint8 codes below 3 or float32 numbers
    limit: int = 0  # episodes are truncated after this many ticks; 0: never

    @property
    def space(self) -> ObservationSpace:
        """Return the observation space."""
        row = self.observation.shape[1]
        return CodeSpace(cells=row, codes=3) if self.observation.dtype == np.uint8 else FloatSpace(size=row)

    def values(self, policy: Floats, discount: float) -> Floats:
        """Return what every state is worth under action probabilities (S, A) and no limit: the Bellman equation."""
        states = np.arange(len(policy))
        moves = np.zeros((len(policy), len(policy)))
        for action in range(policy.shape[1]):
            moves[states, self.follows[:, action]] += policy[:, action] * ~self.ends[:, action]
        expected_reward = (policy * self.reward).sum(axis=1)
        solution: Floats = np.linalg.solve(np.eye(len(policy)) - discount * moves, expected_reward)
        return solution

    def best_actions(self, discount: float) -> NDArray[np.int64]:
        """Return the best action in every state, by value iteration."""
        value = np.zeros(len(self.reward))
        for _ in range(1000):
            worth = self.reward + discount * np.where(self.ends, 0.0, value[self.follows])
            value = worth.max(axis=1)
        best: NDArray[np.int64] = worth.argmax(axis=1)
        return best


class ProblemWorlds:
    """Worlds of one agent that play a problem; implements `rattle.envs.vector.VectorWorlds`."""

    def __init__(self, problem: Problem, num_worlds: int) -> None:
        self.problem = problem
        self.spec = EnvironmentSpec(
            "problem", {}, problem.space, DiscreteSpace(n=problem.reward.shape[1]), agents_per_world=1
        )
        self.num_worlds = self.num_slots = num_worlds
        self.observation = np.zeros((num_worlds, problem.observation.shape[1]), problem.observation.dtype)
        self.final_observation = np.zeros_like(self.observation)
        self.reward = np.zeros(num_worlds, np.float32)
        self.terminated = np.zeros(num_worlds, np.bool_)
        self.truncated = np.zeros(num_worlds, np.bool_)
        self.active = np.ones(num_worlds, np.bool_)
        self.final_metrics: Mapping[str, NDArray[np.int32]] = {}
        self.metrics: Mapping[str, NDArray[np.int32]] = {}
        self.episode = np.zeros(num_worlds, np.uint32)
        self._where = np.zeros(num_worlds, np.int64)
        self._ticks = np.zeros(num_worlds, np.int64)
        self._begin(self.active)

    def reset(self, seed: int | None = None) -> None:
        """Start the next episodes; these games have no seed."""
        self.episode += 1
        self._begin(self.active)

    def step(self, action: NDArray[np.integer[Any]]) -> None:
        """Move by the tables."""
        problem, here = self.problem, self._where
        self.reward[:] = problem.reward[here, action]
        self.terminated[:] = problem.ends[here, action]
        self._ticks += 1
        self.truncated[:] = ~self.terminated & (self._ticks == problem.limit)
        self._where = problem.follows[here, action]
        self.final_observation[:] = problem.observation[self._where]
        ended = self.terminated | self.truncated
        self.episode[ended] += 1
        self._begin(ended)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that decides what follows."""
        return {"where": self._where.copy(), "ticks": self._ticks.copy(), "episode": self.episode.copy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken."""
        self._where, self._ticks = state["where"].copy(), state["ticks"].copy()
        self.episode[:] = state["episode"]
        self._begin(~self.active)

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return where a world stands."""
        return {"state": int(self._where[world])}

    def close(self) -> None:
        """Nothing to free."""

    def _begin(self, worlds: NDArray[np.bool_]) -> None:
        """Start an episode in some worlds, and show all."""
        starts = np.array(self.problem.starts)
        turn = np.arange(self.num_worlds) + self.episode
        self._where[worlds] = starts[turn % len(starts)][worlds]
        self._ticks[worlds] = 0
        self.observation[:] = self.problem.observation[self._where]


@dataclass(frozen=True)
class Learnt:
    """What came of training."""

    probability: Floats  # (S, A): of each action in each state
    value: Floats  # (S,): what the value head says
    parameters: Mapping[str, NDArray[np.float32]]

    def mean_payoff(self, problem: Problem) -> float:
        """Return the mean reward of the first move, over the states that episodes start in."""
        return float((self.probability * problem.reward).sum(axis=1)[list(problem.starts)].mean())


def train(
    problem: Problem,
    algorithm: Algorithm,
    updates: int,
    *,
    worlds: int = 32,
    hidden: tuple[int, ...] = (),
    seed: int = 0,
) -> Learnt:
    """Collect and learn as a training run does, with two actors, and return what was learnt."""
    halves = [ProblemWorlds(problem, worlds // 2), ProblemWorlds(problem, worlds - worlds // 2)]
    spec = MlpSpec(
        observation=problem.space,
        num_actions=problem.reward.shape[1],
        hidden_sizes=hidden,
        activation="tanh",
        value_head=algorithm.needs_value,
    )
    actors = [WorldsActor([WorldBatch(halves[0], 0)]), WorldsActor([WorldBatch(halves[1], worlds // 2)])]
    collector = Collector(actors, algorithm.rollout_ticks, complete_episodes=algorithm.complete_episodes)
    learner = Learner(spec, algorithm, seed)
    with closing(collector), closing(learner):
        policy = ActingPolicy(spec, learner.parameters(), seed)
        for _ in range(updates):
            learner.update(as_tensors(collector.collect(policy, learner.version, lambda episode: False)))
            policy.load(learner.parameters())
    log_probs, value = network_outputs(spec, learner.parameters(), problem.observation)
    return Learnt(np.exp(log_probs.astype(np.float64)), value.astype(np.float64), learner.parameters())


def one_hot(states: int) -> NDArray[np.float32]:
    """Return observations that tell every state apart."""
    return np.eye(states, dtype=np.float32)


def bandit(*payoffs: float) -> Problem:
    """One state; every action ends the episode with its payoff."""
    return contextual_bandit(np.array([payoffs]), np.ones((1, 1), np.float32))


def contextual_bandit(payoff: Floats, observation: NDArray[Any]) -> Problem:
    """Every action ends the episode with what it pays in the context (contexts, actions)."""
    return Problem(
        follows=np.zeros(payoff.shape, np.int64),
        reward=payoff,
        ends=np.ones(payoff.shape, np.bool_),
        starts=tuple(range(len(payoff))),
        observation=observation,
    )


def corridor(length: int, left: float, right: float) -> Problem:
    """Cells in a row; action 0 steps left, 1 right; stepping out at an end ends the episode and pays."""
    cells = np.arange(length)
    reward = np.zeros((length, 2))
    reward[0, 0], reward[-1, 1] = left, right
    ends = np.zeros((length, 2), np.bool_)
    ends[0, 0] = ends[-1, 1] = True
    follows = np.stack([np.maximum(cells - 1, 0), np.minimum(cells + 1, length - 1)], axis=1)
    return Problem(follows, reward, ends, tuple(range(length)), one_hot(length))


def ring(rewards: Floats, limit: int) -> Problem:
    """States that follow one another in a ring, whatever is done; leaving a state pays, and only a limit ends it."""
    states = len(rewards)
    return Problem(
        follows=((np.arange(states) + 1) % states).reshape(-1, 1),
        reward=rewards.reshape(-1, 1),
        ends=np.zeros((states, 1), np.bool_),
        starts=(0,),
        observation=one_hot(states),
        limit=limit,
    )


def countdown(ticks: int) -> Problem:
    """Reward 1 a tick for `ticks` ticks, then the episode terminates; the state counts them."""
    states = np.arange(ticks)
    return Problem(
        follows=np.minimum(states + 1, ticks - 1).reshape(-1, 1),
        reward=np.ones((ticks, 1)),
        ends=(states == ticks - 1).reshape(-1, 1),
        starts=(0,),
        observation=one_hot(ticks),
    )
