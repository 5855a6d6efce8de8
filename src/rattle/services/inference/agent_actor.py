"""An actor that plays one snake by the agent API: its states stream in, its moves go out, a life is a rollout."""

from __future__ import annotations

import secrets
from contextlib import aclosing

from rattle.clients.agent_client import AsyncAgentClient
from rattle.clients.errors import RequestRefused
from rattle.clients.retries import retry_forever
from rattle.errors import RattleError
from rattle.events import bind
from rattle.services.inference.actors import ActorHandle, Assignment
from rattle.services.inference.agent_episode import AgentEpisode
from rattle.services.inference.agent_lives import AgentLives
from rattle.services.inference.rollout_sender import RolloutSender
from rattle.services.inference.snake_loop import SnakeLoop
from rattle.settings.experiment import ExperimentSettings


class AgentActor:
    """Plays one life of its snake after another, each with one policy; a life that is not seen whole is forgotten."""

    def __init__(self, settings: ExperimentSettings, assignment: Assignment, loop: SnakeLoop) -> None:
        self._assignment = assignment
        self._loop = loop
        self._in_order = settings.training.mode == "on_policy"
        self._lives = AgentLives(settings, assignment)
        # Another one each time that it is started: a snake of this name may still be about.
        self._snake_id = f"{assignment.name}-{secrets.token_hex(4)}"
        self._may_live = False  # the snake, since a life that was not seen to its end
        # Ticks, which number the draws: a policy that plays several episodes must not draw the same in each.
        self._ticks = 0 if self._in_order else secrets.randbits(40)

    def play(self, contributions: RolloutSender, control: ActorHandle) -> None:
        """Play until told to stop, whatever happens to the servers meanwhile."""
        bind(agent=self._assignment.name)
        while control.may_go_on():
            try:
                retry_forever(control.stop, lambda error: isinstance(error, RattleError))(
                    self._play_episode, contributions, control
                )
            except RattleError as error:  # stopping
                control.report("waiting", str(error))

    def _play_episode(self, contributions: RolloutSender, control: ActorHandle) -> None:
        """Play and contribute one life; raises a RattleError, with nothing contributed, when it is not seen whole."""
        if not control.may_go_on():
            return
        control.report("waiting", "for a policy")
        held = contributions.policy(newer_than=self._lives.contributed if self._in_order else None)
        if held is None or control.is_paused:  # which takes long enough for the policy to grow old
            return
        bind(policy_version=held.policy.version)
        episode = self._lives.begin(held, first_tick=max(held.first_tick, self._ticks))
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
            self._lives.contribute(episode.ticks, held, contributions, control)

    async def _live(self, episode: AgentEpisode, control: ActorHandle) -> None:
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


async def _begin_anew(client: AsyncAgentClient) -> None:
    """End what may be left of the snake's last life: a reader would come into the middle of it."""
    try:
        await client.reset_snake()
    except RequestRefused as error:
        if error.code != "unknown_snake":
            raise
