"""An actor that plays one snake by the agent API: its states stream in, its moves go out, a life is a rollout."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from contextlib import aclosing
from typing import Any

import uvloop

from rattle.clients.agent_client import AsyncAgentClient
from rattle.clients.errors import Refused
from rattle.clients.retries import persevering
from rattle.envs.philox import derive_seed
from rattle.errors import RattleError
from rattle.policies.acting import ActingPolicy
from rattle.services.inference.actors import Assignment, Control
from rattle.services.inference.agent_episode import AgentEpisode, episode_buffer
from rattle.services.inference.contributions import Contributions
from rattle.services.inference.rollouts import to_rollout
from rattle.services.inference.training_link import HeldPolicy
from rattle.trainer.settings import ExperimentSettings

#: How long snakes may take to let go of their connections at the end, in seconds.
_PATIENCE = 2.0


class SnakeLoop:
    """One event loop, in a thread, in which all snakes of a process live: each waits most of the time."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="snakes", daemon=True)
        self._thread.start()

    def run(self, life: Coroutine[Any, Any, None], control: Control) -> bool:
        """Wait for a life to end and return True; False when the actor was told to stop before."""
        living = asyncio.run_coroutine_threadsafe(life, self._loop)
        with control.at_end(living.cancel):
            try:
                living.result()
            except CancelledError:
                return False
        return True

    def close(self) -> None:
        """Stop, when all lives have been told to."""
        asyncio.run_coroutine_threadsafe(self._last_rites(), self._loop).result(_PATIENCE * 2)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    async def _last_rites(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_PATIENCE)


class AgentActor:
    """Plays one life of its snake after another, each with one policy; a life that is not seen whole is forgotten."""

    def __init__(self, settings: ExperimentSettings, assignment: Assignment, loop: SnakeLoop) -> None:
        self._settings = settings
        self._assignment = assignment
        self._loop = loop
        self._in_order = settings.training.mode == "sync"
        self._buffer = episode_buffer(settings)
        # Another one each time that it is started: a snake of this name may still be about.
        self._snake_id = f"{assignment.name}-{secrets.token_hex(4)}"
        self._may_live = False  # the snake, since a life that was not seen to its end
        self._seed = derive_seed(settings.seed, "actions")
        # Ticks, which number the draws: a policy that plays several episodes must not draw the same in each.
        self._ticks = 0 if self._in_order else secrets.randbits(40)
        self._episodes = 0
        self._contributed: HeldPolicy | None = None
        self._acting: ActingPolicy | None = None
        self._acting_with: tuple[str, int] | None = None

    def play(self, contributions: Contributions, control: Control) -> None:
        """Play until told to stop, whatever becomes of the servers meanwhile."""
        while control.may_go_on():
            try:
                persevering(control.stop, lambda error: isinstance(error, RattleError))(
                    self._play_episode, contributions, control
                )
            except RattleError as error:  # stopping
                control.report("waiting", str(error))

    def _play_episode(self, contributions: Contributions, control: Control) -> None:
        """Play and contribute one life; raises a RattleError, with nothing contributed, when it is not seen whole."""
        if not control.may_go_on():
            return
        control.report("waiting", "for a policy")
        held = contributions.policy(newer_than=self._contributed if self._in_order else None)
        if held is None or control.is_paused:  # which takes long enough for the policy to grow old
            return
        episode = AgentEpisode(
            self._buffer,
            self._policy(held),
            slot=self._assignment.first_world,
            first_tick=max(held.first_tick, self._ticks),
            number=self._episodes,
        )
        control.report("waiting", f"for {self._assignment.env_url}", held.policy.version)
        try:
            if not self._loop.run(self._live(episode, control), control):
                return
        except RattleError as error:
            control.report("waiting", str(error))
            raise
        finally:
            self._ticks = max(held.first_tick, self._ticks) + episode.ticks
        if episode.ticks:
            self._contribute(episode.ticks, held, contributions, control)

    def _contribute(self, ticks: int, held: HeldPolicy, contributions: Contributions, control: Control) -> None:
        rollout = to_rollout(self._buffer, ticks, self._assignment.first_world, held.policy.spec.num_actions)
        control.count(rollouts=1, env_steps=ticks)
        self._episodes += 1
        self._contributed = held
        contributions.contribute(rollout, held, continues=False)

    async def _live(self, episode: AgentEpisode, control: Control) -> None:
        """Have the snake live one life; raises a RattleError when its lines are not all there, or not what they are."""
        async with AsyncAgentClient(self._assignment.env_url, self._snake_id) as client:
            if self._may_live:
                await _begin_anew(client)
            self._may_live = True
            async with aclosing(client.states("all")) as lines:
                async for line in lines:
                    if not episode.ticks:
                        control.report("playing")
                    move = episode.take(line)
                    if move is None:
                        self._may_live = not line.game_over
                        return
                    await client.move(move)

    def _policy(self, held: HeldPolicy) -> ActingPolicy:
        if self._acting is None or self._acting_with != held.name:
            self._acting = ActingPolicy(held.policy.spec, held.policy.parameters, self._seed)
            self._acting_with = held.name
        return self._acting


async def _begin_anew(client: AsyncAgentClient) -> None:
    """End what may be left of the snake's last life: a reader would come into the middle of it."""
    try:
        await client.reset_snake()
    except Refused as error:
        if error.code != "unknown_snake":
            raise
