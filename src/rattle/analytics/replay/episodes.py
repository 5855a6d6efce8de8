"""Recorded episodes of a run: which there are, and one of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.run_settings import read_config
from rattle.analytics.stored_runs import AnyRun, StoredRun
from rattle.analytics.table_parts import PACKED, table_files

if TYPE_CHECKING:
    import pyarrow

LAST: Final = "last"
BEST: Final = "best"

_SUMMARY_COLUMNS: Final = ["world", "world_episode", "agent", "tick", "reward", "policy_version"]
_STEP_COLUMNS: Final = [
    "tick",
    "agent",
    "policy_version",
    "observation",
    "action",
    "action_row",
    "reward",
    "terminated",
    "truncated",
    "log_prob",
    "value",
    "state",
]
_NEW_COLUMNS: Final = frozenset(["action_row"])  # which files of earlier versions do not have


@dataclass(frozen=True)
class EpisodeSummary:
    """What the list of recorded episodes says of one."""

    world: int
    world_episode: int
    agents: int
    ticks: int
    mean_return: float  # over the agents
    policy_version: int  # that played its end

    @property
    def id(self) -> str:
        """The name of the episode in its run: WORLD-WORLD_EPISODE."""
        return f"{self.world}-{self.world_episode}"


@dataclass(frozen=True)
class AgentSteps:
    """One agent's ticks, in order: n rows, fewer than the episode has where the agent ended early."""

    tick: NDArray[np.int64]
    observation: NDArray[np.float32]  # (n, size)
    action: NDArray[np.int32] | NDArray[np.float32]  # (n,) whole numbers, or (n, size)
    reward: NDArray[np.float32]
    log_prob: NDArray[np.float32]  # of the action, when it was chosen
    value: NDArray[np.float32]  # predicted return
    policy_version: NDArray[np.int64]
    terminated: bool
    truncated: bool = True

    @property
    def fate(self) -> str:
        """How the episode ended for the agent, in a word or two."""
        return "terminated" if self.terminated else "truncated" if self.truncated else "recording cut"


@dataclass(frozen=True)
class Episode:
    """One recorded episode."""

    run_id: str
    summary: EpisodeSummary
    env: Mapping[str, Any]  # the environment's part of the run's configuration
    states: Sequence[Mapping[str, Any]]  # one a tick: the world before it
    agents: Mapping[int, AgentSteps]
    recorded: Sequence[EpisodeSummary]  # all of the run, as `list_episodes` has them

    def returns(self, agent: int) -> NDArray[np.float64]:
        """Return float64 (ticks + 1,): the agent's return before each tick, and in the end."""
        steps = self.agents[agent]
        rewards = np.bincount(steps.tick, steps.reward, self.summary.ticks)
        return np.concatenate([np.zeros(1), np.cumsum(rewards)])


def list_episodes(run: AnyRun) -> list[EpisodeSummary]:
    """List the recorded episodes of a run, those of the newest policy last."""
    return sorted(
        (summary for one in _recordings(run) for summary in _summaries(one.read(_SUMMARY_COLUMNS, {}))),
        key=lambda episode: episode.policy_version,
    )


def load_episode(run: AnyRun, which: str = LAST) -> Episode:
    """Load a recorded episode: `last`, `best` (by mean return), or an id such as 0-40 from `list_episodes`."""
    episodes = list_episodes(run)
    summary = _choose(run, episodes, which)
    for recording in _recordings(run):
        steps = recording.read(_STEP_COLUMNS, {"world": summary.world, "world_episode": summary.world_episode})
        if steps.num_rows:
            agents = {agent: _agent_steps(steps, agent) for agent in sorted(set(steps.column("agent").to_pylist()))}
            states = _states(str(recording), steps, summary.ticks)
            return Episode(_run_id(run), summary, _env(run), states, agents, episodes)
    raise AnalyticsError(f"the recorded episode {summary.id} of {run} has just been removed: try again")


def table(episodes: Sequence[EpisodeSummary]) -> str:
    """Return recorded episodes as an aligned text table with a heading."""
    lines = [f"{'episode':>12}  {'return':>10}  {'ticks':>7}  {'agents':>6}  {'policy':>8}"]
    lines += [
        f"{episode.id:>12}  {episode.mean_return:>10.2f}  {episode.ticks:>7,}  {episode.agents:>6}  "
        f"{'v' + str(episode.policy_version):>8}"
        for episode in episodes
    ]
    return "\n".join(lines)


def json_lines(episodes: Sequence[EpisodeSummary]) -> str:
    """Return one JSON object a line and recorded episode."""
    rows = [{"episode": episode.id, **asdict(episode)} for episode in episodes]
    return msgspec.json.Encoder().encode_lines(rows).decode()


def _choose(run: AnyRun, episodes: Sequence[EpisodeSummary], which: str) -> EpisodeSummary:
    if not episodes:
        raise AnalyticsError(f"{run} has no recorded episodes yet: train it for longer, or record more of them")
    if which == LAST:
        return episodes[-1]
    if which == BEST:
        return max(reversed(episodes), key=lambda episode: episode.mean_return)  # the newest of equals
    for episode in episodes:
        if episode.id == which:
            return episode
    some = ", ".join(episode.id for episode in episodes[-5:])
    raise AnalyticsError(
        f"no recorded episode '{which}' in {run}: choose {LAST}, {BEST} or one of {len(episodes)}, such as {some}"
    )


def _summaries(columns: pyarrow.Table) -> list[EpisodeSummary]:
    """Summarise episodes in the order in which they begin."""
    if not columns.num_rows:
        return []
    values = {name: columns.column(name).to_numpy() for name in _SUMMARY_COLUMNS}
    keys = values["world"].astype(np.uint64) << np.uint64(32) | values["world_episode"].astype(np.uint64)
    _, begins, group = np.unique(keys, return_index=True, return_inverse=True)
    by_episode = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))
    episodes = [by_episode[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [
        _summary({name: column[episodes[number]] for name, column in values.items()}) for number in np.argsort(begins)
    ]


def _summary(rows: Mapping[str, NDArray[Any]]) -> EpisodeSummary:
    agents = len(np.unique(rows["agent"]))
    end = int(np.argmax(rows["tick"]))
    return EpisodeSummary(
        world=int(rows["world"][0]),
        world_episode=int(rows["world_episode"][0]),
        agents=agents,
        ticks=int(rows["tick"][end]) + 1,
        mean_return=float(rows["reward"].sum(dtype=np.float64)) / agents,
        policy_version=int(rows["policy_version"][end]),
    )


def _agent_steps(steps: pyarrow.Table, agent: int) -> AgentSteps:
    mine = steps.filter(np.asarray(steps.column("agent").to_numpy() == agent)).sort_by("tick")
    is_whole = mine.column("action").null_count == 0
    return AgentSteps(
        tick=mine.column("tick").to_numpy().astype(np.int64),
        observation=_rows(mine, "observation"),
        action=mine.column("action").to_numpy() if is_whole else _rows(mine, "action_row"),
        reward=mine.column("reward").to_numpy(),
        log_prob=mine.column("log_prob").to_numpy(),
        value=mine.column("value").to_numpy(),
        policy_version=mine.column("policy_version").to_numpy().astype(np.int64),
        terminated=bool(mine.column("terminated")[-1].as_py()),
        truncated=bool(mine.column("truncated")[-1].as_py()),
    )


def _rows(steps: pyarrow.Table, column: str) -> NDArray[np.float32]:
    return np.array(steps.column(column).to_pylist(), np.float32)


def _states(recording: str, steps: pyarrow.Table, ticks: int) -> list[Mapping[str, Any]]:
    """Return the state before each tick, from whichever row of the tick has it."""
    written = dict(zip(steps.column("tick").to_pylist(), [""] * len(steps), strict=True))
    for tick, state in zip(steps.column("tick").to_pylist(), steps.column("state").to_pylist(), strict=True):
        written[tick] = written[tick] or state
    try:
        return [msgspec.json.decode(written.get(tick) or "{}", type=dict[str, Any]) for tick in range(ticks)]
    except msgspec.DecodeError as error:
        raise AnalyticsError(f"{recording} is damaged: a state is not JSON: {error}") from None


def _recordings(run: AnyRun) -> Sequence[_File | StoredRun]:
    """Return where the run's steps lie."""
    if isinstance(run, StoredRun):
        return [run]
    return [_File(path) for path in table_files(run.table("steps"), (PACKED,))]


class _File:
    """A file of recorded episodes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self, columns: Sequence[str], where: Mapping[str, int]) -> pyarrow.Table:
        """Return columns of the steps that have these values."""
        pyarrow = require("pyarrow", "analytics", "a replay")
        parquet = require("pyarrow.parquet", "analytics", "a replay")
        filters = [(name, "=", value) for name, value in where.items()] or None
        try:
            known = parquet.read_schema(self._path).names  # earlier versions have fewer
            wanted = [name for name in columns if name in known or name not in _NEW_COLUMNS]
            return parquet.read_table(self._path, columns=wanted, filters=filters)
        except (pyarrow.ArrowException, OSError) as error:
            said = str(error).splitlines()[0].rstrip(".")
            raise AnalyticsError(f"{self._path} cannot be read: {said}") from None


def _run_id(run: AnyRun) -> str:
    return run.run_id if isinstance(run, StoredRun) else run.path.resolve().name


def _env(run: AnyRun) -> Mapping[str, Any]:
    env = read_config(run).get("env", {} if isinstance(run, StoredRun) else None)
    if not isinstance(env, Mapping):
        where = run if isinstance(run, StoredRun) else run.config
        raise AnalyticsError(f"{where} is damaged: it does not say which environment was played")
    return env
