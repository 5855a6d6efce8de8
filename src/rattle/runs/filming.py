"""Pictures of a recorded episode: its actions are played again, and its environment draws what happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.replay import Episode, save, save_pictures
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.stored_runs import AnyRun
from rattle.envs.logged_worlds import LoggedWorlds
from rattle.envs.registry import make_worlds
from rattle.envs.seeds import derive_seed
from rattle.errors import RattleError
from rattle.runs.errors import RunError
from rattle.runs.stored_run import read_settings

#: How Gymnasium and PettingZoo are told to draw pictures.
_DRAWING = {"render_mode": "rgb_array"}


def save_replay(run: AnyRun, episode: Episode, output: Path, *, agent: int = 0, fps: float = 20.0) -> str | None:
    """Write an episode as .gif or .mp4: as its environment draws it, or else as `rattle.analytics.replay.save` does.

    Returns in a line why its environment did not draw it; None where it did, and for Snake, which is drawn anyway.
    """
    if "bodies" in episode.states[0]:
        save(episode, output, agent=agent, fps=fps)
        return None
    try:
        pictures = film(run, episode)
    except RattleError as error:
        save(episode, output, agent=agent, fps=fps)
        return str(error)
    save_pictures(pictures, episode.summary.ticks + 1, output, fps=fps)
    return None


def film(run: AnyRun, episode: Episode) -> Iterator[NDArray[np.uint8]]:
    """Return pictures uint8 (height, width, 3) of a recorded episode, one a tick and one of its end.

    It is played again once before, to see that it goes as it went. Raises RunError where it does not, or cannot be
    drawn; what fails while it is drawn is raised by the iterator.
    """
    if not isinstance(run, RunDirectory):
        raise RunError("environments draw only the runs in a directory: name a run directory, and leave --store out")
    settings = read_settings(run)
    if settings.policies:
        raise RunError(
            "a run with several policies has no pictures: other policies' moves are in recordings of their own runs"
        )
    own = {**settings.env.own_settings, **_DRAWING}
    seed, known = derive_seed(settings.seed, "worlds"), episode.summary
    try:
        worlds = make_worlds(settings.env.id, own, 1, seed, known.world)
    except RattleError as error:
        raise RunError(f"no pictures can be drawn: {error}") from error
    if not isinstance(worlds, LoggedWorlds):
        worlds.close()
        raise RunError(f"'{settings.env.id}' draws no pictures: only environments of Gymnasium and PettingZoo do")
    try:
        actions = _actions(worlds, episode)
        for tick, goes_on in enumerate(worlds.play_again(known.world_episode, actions)):
            _check_same(worlds, episode, tick, goes_on=goes_on)
        pictures = _pictures(worlds, known.world_episode, actions)
        return chain([next(pictures)], pictures)
    except RattleError:
        worlds.close()
        raise


def _pictures(worlds: LoggedWorlds, episode: int, actions: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    shape: tuple[int, ...] | None = None
    with closing(worlds):
        for _ in worlds.play_again(episode, actions):
            drawn = worlds.render()
            picture = np.asarray(drawn)
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                what = f"{picture.dtype} {picture.shape}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
                raise RunError(f"'{worlds.spec.id}' draws {what}, where uint8 (height, width, 3) is wanted")
            if picture.shape != (shape := shape or picture.shape):
                raise RunError(f"'{worlds.spec.id}' draws pictures of different sizes: {shape} and {picture.shape}")
            yield picture.copy()


def _actions(worlds: LoggedWorlds, episode: Episode) -> NDArray[Any]:
    """Return the actions (ticks, A, ...) of an episode; zeros where an agent does not act."""
    space, agents = worlds.spec.action_space, worlds.spec.agents_per_world
    actions = space.zeros(episode.summary.ticks, agents)
    for agent, steps in episode.agents.items():
        if agent >= agents or steps.action[0].size != actions[0, 0].size:
            raise RunError(f"the recorded actions are none of '{worlds.spec.id}' as it is now")
        actions[steps.tick, agent] = steps.action.reshape(-1, *space.shape)
    return actions


def _check_same(worlds: LoggedWorlds, episode: Episode, tick: int, *, goes_on: bool) -> None:
    """Raise RunError where what agents see before a tick, or earned in the last one, is not what was recorded.

    Large observations are not recorded.
    """
    ticks = episode.summary.ticks
    for agent, steps in episode.agents.items():
        row = np.searchsorted(steps.tick, tick)
        if row < len(steps.tick) and steps.tick[row] == tick:
            seen, known = worlds.observation[agent].reshape(-1).astype(np.float32), steps.observation[row].reshape(-1)
            same = not known.size or np.array_equal(seen, known, equal_nan=True)
            earned = row == 0 or steps.tick[row - 1] != tick - 1 or steps.reward[row - 1] == worlds.reward[agent]
            if goes_on and same and earned:
                continue
            raise RunError(
                f"episode {episode.summary.id} took another course at tick {tick} when it was played again: "
                f"'{worlds.spec.id}' is not deterministic, has another version now, or was restarted when the run was "
                "resumed"
            )
    ended = any(steps.terminated or steps.truncated for steps in episode.agents.values())
    if tick == ticks and ended and goes_on:
        raise RunError(f"episode {episode.summary.id} did not end when it was played again")
