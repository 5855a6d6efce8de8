"""The recorded episodes of a run, and one of them tick by tick."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.replay.episodes import AgentSteps, Episode
from rattle.analytics.replay.snake import SnakeView
from rattle.analytics.replay.views import view_of
from rattle.envs.snake.geometry import Cell, Move, visible_offsets
from rattle.errors import RattleError
from rattle.services.dashboard.charts import Chart, as_json, numbers, script_json
from rattle.services.dashboard.likelihoods import Likelihoods, choose
from rattle.services.dashboard.settings_filter import as_number
from rattle.services.dashboard.source import RunSource
from rattle.services.dashboard.views import EpisodesView, ReplayPageView

#: Observed numbers that have a chart each; where there are more, one picture shows all.
_MOST_CHARTS: Final = 8
#: Observed numbers of a tick that are shown at all.
_MOST_OBSERVED: Final = 2000


def episodes_context(source: RunSource, view: EpisodesView) -> dict[str, Any]:
    """Return what the list of recorded episodes shows."""
    run = source.run(view.run)
    column = view.sort.removeprefix("-")
    episodes = sorted(source.recorded(run.id), key=lambda one: getattr(one, column), reverse=view.sort.startswith("-"))
    return {"run": run, "episodes": episodes, "is_live": run.is_live}


def context(source: RunSource, view: ReplayPageView) -> dict[str, Any]:
    """Return what an episode shows."""
    run = source.run(view.run)
    episode = source.episode(run.id, view.episode)
    shown = view_of(episode, view.agent)
    steps = episode.agents[view.agent]
    policies = source.policies(run.id)
    likelihoods, problem = None, None
    try:
        likelihoods = choose(policies, view.policy, steps)
    except RattleError as error:
        problem = str(error)
    board = _board(shown) if isinstance(shown, SnakeView) else None
    charts = [
        _values(steps, run.settings.get("algorithm.discount")),
        *([] if board else _observed(steps)),
    ]
    return {
        "run": run,
        "episode": episode,
        "names": [one.id for one in episode.recorded],
        "agents": list(episode.agents),
        "board": board is not None,
        "chart_list": charts,
        "charts": as_json(charts),
        "replay": script_json(
            {
                "board": board,
                "ticks": episode.summary.ticks,
                "rows": _rows(episode, view.agent, likelihoods),
                "likelihoods": None if likelihoods is None else [numbers(row) for row in likelihoods.probabilities],
                "actions": _action_names(steps, likelihoods, board=board is not None),
            }
        ),
        "likelihoods": likelihoods,
        "policies": {name: policy.version for name, policy in policies.items()},
        "problem": problem,
        "fate": "died" if board and steps.fate == "terminated" else steps.fate,
    }


def _rows(episode: Episode, agent: int, likelihoods: Likelihoods | None) -> dict[str, Any]:
    """Return what is known of each of the agent's ticks."""
    steps = episode.agents[agent]
    is_whole = steps.action.ndim == 1 or likelihoods is not None
    taken = likelihoods.columns(steps.action) if likelihoods else steps.action.reshape(len(steps.action), -1)
    return {
        "tick": steps.tick.tolist(),
        "action": steps.action.tolist() if steps.action.ndim == 1 else [numbers(row) for row in steps.action],
        "taken": taken.tolist() if is_whole else [],
        "reward": numbers(steps.reward),
        "return": numbers(episode.returns(agent)[steps.tick]),
        # The density of real numbers is no probability.
        "chosen": numbers(np.where(is_whole, np.exp(steps.log_prob.astype(np.float64)), np.nan)),
        "value": numbers(steps.value),
        "version": steps.policy_version.tolist(),
    }


def _action_names(steps: AgentSteps, likelihoods: Likelihoods | None, *, board: bool) -> list[str]:
    if steps.action.ndim > 1:
        choices = likelihoods.choices if likelihoods else ()
        return [f"number {number}: {value}" for number, count in enumerate(choices) for value in range(count)]
    count = likelihoods.probabilities.shape[1] if likelihoods else int(steps.action.max(initial=0)) + 1
    if board and count <= len(Move):
        return [move.name.lower() for move in Move]
    return [f"action {number}" for number in range(count)]


def _board(view: SnakeView) -> dict[str, Any]:
    """Return the board before each tick: bodies as cell numbers, and what the snake sees as digits."""
    steps = view.episode.agents[view.agent]
    seen = {int(tick): row for tick, row in zip(steps.tick, steps.observation.astype(int), strict=True)}
    states = [view.state(tick) for tick in range(view.frames - 1)]
    return {
        "width": view.width,
        "height": view.height,
        "radius": view.radius,
        "agent": view.agent,
        "offsets": visible_offsets(view.radius),
        "codes": ["OTHER_HEAD" if code is Cell.OTHER_HEAD else code.name for code in Cell],
        "frames": [
            {
                "bodies": [[y * view.width + x for x, y in body] for body in state.bodies],
                "headings": state.headings,
                "food": [y * view.width + x for x, y in state.food],
                "seen": "".join(map(str, seen.get(tick, ()))),
            }
            for tick, state in enumerate(states)
        ],
    }


def _values(steps: AgentSteps, discount: str | None) -> Chart:
    """Return the chart of what was predicted next to what came."""
    ticks = steps.tick.astype(np.float64)
    chart = Chart("values", "Predicted and discounted return")
    chart.line("predicted (value)", ticks, steps.value.astype(np.float64), 0)
    factor = as_number(discount)  # an algorithm of a user may have something else under this name
    if factor is not None:
        came = _discounted(steps.reward.astype(np.float64), factor)
        chart.line(f"came, discounted by {discount}", ticks, came, 1)
    chart.axis("x", title={"text": "tick"})
    chart.layout |= {"showlegend": True, "meta": {"cursor": True}}
    return chart


def _discounted(reward: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """Return the discounted sum of the rewards from each tick on."""
    total, result = 0.0, np.empty_like(reward)
    for place in range(len(reward) - 1, -1, -1):
        total = result[place] = reward[place] + discount * total
    return result


def _observed(steps: AgentSteps) -> list[Chart]:
    """Return charts of what was observed: of each number, or one picture of many."""
    observed, ticks = steps.observation, steps.tick.astype(np.float64)
    if observed.shape[1] > _MOST_CHARTS:
        chart = Chart("observed", "Observed numbers")
        picture = [numbers(row) for row in observed[:, :_MOST_OBSERVED].T]
        chart.traces.append({"type": "heatmap", "x": ticks.tolist(), "z": picture, "colorscale": "Viridis"})
        chart.axis("x", title={"text": "tick"})
        chart.axis("y", title={"text": "observed number"}, autorange="reversed")
        chart.layout["meta"] = {"cursor": True}
        return [chart]
    charts = []
    for number, column in enumerate(observed.T.astype(np.float64)):
        chart = Chart(f"observed-{number}", f"Observed number {number}")
        chart.line(f"number {number}", ticks, column, number)
        chart.axis("x", title={"text": "tick"})
        chart.layout["meta"] = {"cursor": True}
        charts.append(chart)
    return charts
