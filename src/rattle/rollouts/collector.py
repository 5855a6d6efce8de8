"""Collecting rollouts: a policy plays all worlds, in parts that run side by side in threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError, EnvironmentFailed
from rattle.envs.vector import AsyncVectorWorlds, EnvironmentSpec, VectorWorlds
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.rollouts.turns import TurnTaking
from rattle.rollouts.waiting import OpenMoves, standing_still
from rattle.samples.rollout import Played, allocate, find_absurd
from rattle.text import with_article

#: Ticks between two looks at whether all first episodes have ended.
BLOCK = 32


def allocate_for(environment: EnvironmentSpec, ticks: int, worlds: int, memory_size: int = 0) -> Played:
    """Return a rollout of zeros with room for so many ticks of so many worlds of an environment."""
    return allocate(
        environment.observation_space,
        environment.action_space,
        ticks,
        worlds,
        environment.agents_per_world,
        environment.metrics,
        memory_size,
        agents_wait=environment.agents_wait,
    )


@dataclass
class WorldBatch:
    """Some of the worlds, stepped together, and their columns of the buffer, whose first world is `buffer_world`."""

    worlds: VectorWorlds
    first_world: int
    buffer_world: int = 0
    first_slot: int = field(init=False)
    elsewhere: AsyncVectorWorlds | None = field(init=False)  # the worlds, where they are stepped elsewhere
    memory: NDArray[np.float32] | None = field(init=False, default=None)  # (slots, S): what each slot remembers now
    memory_before: NDArray[np.float32] | None = field(init=False, default=None)  # its last move, where agents wait
    turn: AbstractContextManager[object] = field(init=False, default_factory=nullcontext)  # held except to act

    def __post_init__(self) -> None:
        agents, column = self.worlds.spec.agents_per_world, self.first_world - self.buffer_world
        self.first_slot = self.first_world * agents
        self._slots = slice(column * agents, column * agents + self.worlds.num_slots)
        self._own_worlds = slice(column, column + self.worlds.num_worlds)
        # To ask a protocol whether it is there takes as long as hundreds of rows of acting: once is enough.
        self.elsewhere = self.worlds if isinstance(self.worlds, AsyncVectorWorlds) else None

    def begin(self, policy: ActingPolicy, buffer: Played, row: int, tick: int, records: Callable[[int], bool]) -> None:
        """Write down what the slots observe and do in a tick; worlds that are stepped elsewhere set out."""
        worlds, slots = self.worlds, self._slots
        with self.turn:
            self._write_observed(buffer, row, records)
        with self._others_wait():
            policy.act(
                worlds.observation,
                tick=tick,
                first_slot=self.first_slot,
                action=buffer.action[row, slots],
                log_prob=buffer.log_prob[row, slots],
                value=buffer.value[row, slots],
                state=self.memory,
            )
        if self.elsewhere is not None:
            self.elsewhere.step_async(policy.spec.action.handed_over(buffer.action[row, slots]))

    def _write_observed(self, buffer: Played, row: int, records: Callable[[int], bool]) -> None:
        worlds, slots = self.worlds, self._slots
        buffer.observation[row, slots] = worlds.observation
        buffer.active[row, slots] = worlds.active
        buffer.world_episode[row, self._own_worlds] = worlds.episode
        if self.first_world == 0:
            wanted = records(int(worlds.episode[0]))
            buffer.state[row] = json.dumps(worlds.snapshot(0), separators=(",", ":")) if wanted else ""
        if self.memory is not None and row == 0:
            buffer.memory[slots] = self.memory
        if self.memory is not None and self.memory_before is not None:
            self.memory_before[worlds.active] = self.memory[worlds.active]

    def finish(self, policy: ActingPolicy, buffer: Played, row: int) -> None:
        """Write down the result."""
        with self.turn:
            self._finish(policy, buffer, row)

    def _finish(self, policy: ActingPolicy, buffer: Played, row: int) -> None:
        worlds, slots = self.worlds, self._slots
        if self.elsewhere is not None:
            self.elsewhere.step_wait()
        else:
            worlds.step(policy.spec.action.handed_over(buffer.action[row, slots]))
        buffer.reward[row, slots] = worlds.reward
        buffer.terminated[row, slots] = worlds.terminated
        buffer.truncated[row, slots] = worlds.truncated
        buffer.final_value[row, slots] = 0.0
        for name, values in worlds.final_metrics.items():
            buffer.metrics[name][row, slots] = values
        policy.own.rewarded(self.memory, worlds.reward)
        if worlds.truncated.any():
            cut = np.flatnonzero(worlds.truncated)
            remembered = None if self.memory is None else self.memory[cut]
            buffer.final_value[row, self._slots.start + cut] = policy.values(worlds.final_observation[cut], remembered)
        if self.memory is not None:
            began = worlds.episode != buffer.world_episode[row, self._own_worlds]
            self.memory.reshape(worlds.num_worlds, -1)[began] = 0.0
            if self.memory_before is not None:
                self.memory[worlds.terminated | worlds.truncated] = 0.0

    def write_metrics_so_far(self, buffer: Played, row: int, cut: NDArray[np.bool_]) -> None:
        """Write what the episodes cut after a row, (B,) of all slots, have come to."""
        for name, values in self.worlds.metrics.items():
            own, here = buffer.metrics[name][row, self._slots], cut[self._slots]
            own[here] = values[here]

    def _others_wait(self) -> AbstractContextManager[None]:
        """Return what keeps the memory of slots that do not act; nothing does where agents never wait."""
        return nullcontext() if self.memory_before is None else standing_still(self.memory, ~self.worlds.active)

    def remember(self, size: int) -> None:
        """Begin with nothing that is remembered, in so many numbers a slot."""
        self.memory = np.zeros((self.worlds.num_slots, size), np.float32) if size else None
        waits = size and self.worlds.spec.agents_wait
        self.memory_before = np.zeros((self.worlds.num_slots, size), np.float32) if waits else None

    def predict(self, policy: ActingPolicy, buffer: Played) -> None:
        """Write the values of what the slots observe now: what comes after the rollout."""
        buffer.last_value[self._slots] = policy.values(self.worlds.observation, self.memory)


@dataclass
class WorldsActor:
    """Plays groups of worlds in turn: while one is stepped elsewhere, the actor acts in another."""

    groups: list[WorldBatch]

    def play(
        self,
        policy: ActingPolicy,
        buffer: Played,
        rows: range,
        first_tick: int,
        records: Callable[[int], bool],
    ) -> Iterator[None]:
        """Play one tick for each row; `first_tick` is the number of the first row's tick since the run began.

        It yields when a tick has begun: actors of other policies may have to set out in it too.
        """
        for row in rows:
            for group in self.groups:
                if row > rows.start:
                    group.finish(policy, buffer, row - 1)
                group.begin(policy, buffer, row, first_tick + row - rows.start, records)
            yield
        for group in self.groups:
            group.finish(policy, buffer, rows.stop - 1)

    def predict(self, policy: ActingPolicy, buffer: Played) -> None:
        """Write the values of what comes after the rollout."""
        for group in self.groups:
            group.predict(policy, buffer)


class Collector:
    """Plays all worlds and hands out rollouts; the same whatever the number of actors."""

    def __init__(
        self,
        actors: list[WorldsActor],
        max_ticks: int,
        *,
        complete_episodes: bool,
        max_reward: float | None = None,
    ) -> None:
        """`max_reward` is the largest reward, and its negative the least, that is taken; None: any finite number."""
        self.actors = actors
        self.batches = [group.worlds for group in self.groups]
        self.num_worlds = sum(worlds.num_worlds for worlds in self.batches)
        self.ticks = 0  # since the run began
        self._max_ticks = max_ticks
        self._complete_episodes = complete_episodes
        self._max_reward = max_reward
        self.memory_size = 0
        self.buffer = allocate_for(self.batches[0].spec, max_ticks, self.num_worlds)
        self.open_moves = OpenMoves(self.buffer) if self.batches[0].spec.agents_wait else None
        self._pool = ThreadPoolExecutor(len(actors), "actor")
        is_one_call = self.batches[0].spec.batch is not None and self.groups[0].elsewhere is None
        self._turns = TurnTaking() if len(actors) > 1 and is_one_call else None

    def collect(self, policy: ActingPolicy, version: int, records: Callable[[int], bool]) -> Played:
        """Play a complete rollout with a version of the policy and return it; the next call overwrites it.

        `records` says of the first world's episode numbers whether that episode's states are wanted.

        Raises WorldsLost when an actor's worlds began again: what was played of the rollout is of no use then, for it
        would join what came before with what came after. Continue with `restart`. Raises EnvError for rewards and
        observations that are not finite, and rewards that are not allowed.
        """
        if not self._complete_episodes:
            self._play(policy, range(self._max_ticks), records)
            ticks = self._max_ticks
        else:
            ticks = self._play_first_episodes(policy, records)
        return self._finish(policy, version, ticks)

    def _finish(self, policy: ActingPolicy, version: int, ticks: int) -> Played:
        """Return the rollout of so many ticks that have been played, checked."""
        list(self._pool.map(lambda actor: actor.predict(policy, self.buffer), self.actors))
        if self.open_moves is not None:
            self._settle(self.open_moves, ticks)
        self._check_finite(ticks)
        self._check_rewards(ticks)
        self.buffer.policy_version[:] = version
        return self.buffer.first(ticks)

    def play_on(self, policy: ActingPolicy, ticks: int) -> None:
        """Play ticks that nothing is learnt from; raises WorldsLost as `collect` does."""
        if self.open_moves is not None:
            self.open_moves.forget()
        while ticks > 0:
            block = range(min(ticks, BLOCK, self._max_ticks))
            self._play(policy, block, lambda _episode: False)
            ticks -= len(block)

    def remember(self, size: int) -> None:
        """Make room for policies that remember `size` numbers a slot, all of them 0 now."""
        if size != self.memory_size:
            self.memory_size = size
            self.buffer = allocate_for(self.batches[0].spec, self._max_ticks, self.num_worlds, size)
            self.open_moves = None if self.open_moves is None else OpenMoves(self.buffer)
        for group in self.groups:
            group.remember(size)

    @property
    def groups(self) -> list[WorldBatch]:
        """Return all parts of the worlds."""
        return [group for actor in self.actors for group in actor.groups]

    def restart(self) -> None:
        """Start every world's next episode."""
        for worlds in self.batches:
            worlds.reset()
        self.remember(self.memory_size)
        if self.open_moves is not None:
            self.open_moves.forget()

    def close(self) -> None:
        """Close the worlds and stop the threads."""
        self._pool.shutdown()
        for worlds in self.batches:
            worlds.close()

    def _settle(self, open_moves: OpenMoves, ticks: int) -> None:
        """Put what came while agents waited where their last moves are; raises EnvError where no move is left."""
        acts_next = np.concatenate([worlds.active for worlds in self.batches])
        before = [group.memory_before for group in self.groups if group.memory_before is not None]
        open_moves.settle(self.buffer.first(ticks), acts_next, np.concatenate(before) if before else None)
        if not self.buffer.active[:ticks].any():
            spec = self.batches[0].spec
            raise EnvError(
                f"'{spec.id}': in {ticks} ticks it was nobody's turn again, so that nothing can be learnt from them: "
                f"set algorithm.ticks to at least {spec.agents_per_world}, the agents of a world"
            )

    def _check_finite(self, ticks: int) -> None:
        """Raise EnvError or PolicyError for what was not finite first: nothing can be learnt from the rollout then."""
        buffer = self.buffer
        for what, array, first_row, is_value in (
            ("reward", buffer.reward[:ticks], 0, False),
            ("observation", buffer.observation[:ticks], 0, False),
            ("last observation", buffer.final_value[:ticks], 0, True),  # what the network made of it
            ("observation", buffer.last_value[np.newaxis], ticks, True),
        ):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                row, slot = (int(index) for index in np.argwhere(~np.isfinite(array))[0][:2])
                if is_value and self._values_fail(ticks):
                    said = self._not_finite("value of the policy's network", slot, first_row + row, ticks)
                    raise PolicyError(f"{said}: lower algorithm.learning_rate, or look for divisions in the network")
                raise EnvError(self._not_finite(what, slot, first_row + row, ticks))

    def _check_rewards(self, ticks: int) -> None:
        """Raise EnvironmentFailed for the first reward that is larger than is allowed, or less than its negative."""
        if (place := find_absurd(self.buffer.reward[:ticks], self._max_reward)) is not None:
            row, slot = place
            said = self._describe(f"a reward of {self.buffer.reward[place]:g}", slot, row, ticks)
            raise EnvironmentFailed(f"{said}, where train.max_reward is {self._max_reward:g}: fix it, or raise that")

    def _values_fail(self, ticks: int) -> bool:
        """Whether the network makes values that are not finite of observations that all are."""
        return self.buffer.observation.dtype.kind != "f" or not np.isfinite(self.buffer.value[:ticks]).all()

    def _not_finite(self, what: str, slot: int, row: int, ticks: int) -> str:
        said = f"{with_article(what)} that is not finite, or too large for float32,"
        return self._describe(said, slot, row, ticks)

    def _describe(self, what: str, slot: int, row: int, ticks: int) -> str:
        """Return what has come, and where, when and in which episode."""
        spec, first = self.batches[0].spec, self.actors[0].groups[0].buffer_world
        world, agent = divmod(slot, spec.agents_per_world)
        whose = f", agent {agent}" if spec.agents_per_world > 1 else ""
        episode = self.buffer.world_episode[min(row, ticks - 1), world]
        return (
            f"'{spec.id}', world {first + world}{whose}: {what} "
            f"in tick {self.ticks - ticks + row} of the run (episode {episode} of that world)"
        )

    def _play(self, policy: ActingPolicy, rows: range, records: Callable[[int], bool]) -> None:
        with nullcontext(nullcontext()) if self._turns is None else self._turns.block(len(rows)) as turn:
            for group in self.groups:
                group.turn = turn
            _play_together([self], [policy], rows, records)

    def _play_first_episodes(self, policy: ActingPolicy, records: Callable[[int], bool]) -> int:
        """Start every world's next episode and play until each slot's has ended or room is full; return the ticks."""
        self.restart()
        buffer, ticks = self.buffer, 0
        ended = np.zeros(buffer.slots, np.bool_)
        agents = self.batches[0].spec.agents_per_world
        while ticks < self._max_ticks and not ended.all():
            block = range(ticks, min(ticks + BLOCK, self._max_ticks))
            self._play(policy, block, records)
            for row in block:
                if self.open_moves is not None:  # who has not taken part in a world's episode does not in this rollout
                    ended |= np.repeat(buffer.world_episode[row] != buffer.world_episode[0], agents)
                buffer.active[row] &= ~ended
                buffer.terminated[row] &= ~ended
                buffer.truncated[row] &= ~ended
                buffer.reward[row][ended] = buffer.final_value[row][ended] = 0.0
                ended |= buffer.terminated[row] | buffer.truncated[row]
            ticks = block.stop
        cut = ~ended if self.open_moves is not None else ~ended & buffer.active[ticks - 1]
        buffer.truncated[ticks - 1] |= cut
        for group in self.groups:
            group.write_metrics_so_far(buffer, ticks - 1, cut)
        return ticks


def collect_together(
    collectors: Sequence[Collector],
    policies: Sequence[ActingPolicy],
    version: int,
    records: Callable[[int], bool],
) -> list[Played]:
    """Play a rollout in which each collector's agents share their worlds with those of the others; return all rollouts.

    Every collector has one of the policies, all of one version, and as many actors as the others. One alone does what
    `collect` does; see there.
    """
    if len(collectors) == 1:
        return [collectors[0].collect(policies[0], version, records)]
    rows = range(collectors[0]._max_ticks)
    _play_together(collectors, policies, rows, records)
    return [one._finish(policy, version, len(rows)) for one, policy in zip(collectors, policies, strict=True)]


def _play_together(
    collectors: Sequence[Collector], policies: Sequence[ActingPolicy], rows: range, records: Callable[[int], bool]
) -> None:
    """Play one tick for each row; the actors of all collectors that share worlds begin it in turn."""
    first = collectors[0]
    first_tick = first.ticks

    def play(number: int) -> None:
        seats = zip(collectors, policies, strict=True)
        playing = [one.actors[number].play(policy, one.buffer, rows, first_tick, records) for one, policy in seats]
        for _ in zip_longest(*playing):
            pass

    played = [first._pool.submit(play, number) for number in range(len(first.actors))]
    for one in collectors:
        one.ticks += len(rows)
    wait(played)  # for all, also when one fails: the others still use the buffer
    for part in played:
        part.result()
