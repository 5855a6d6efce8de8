"""The tables of a run, the same in a run directory and on a cluster: names, columns and ClickHouse types."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

Columns = MappingProxyType[str, str]

#: Matches the type of a column that may be null; its group is the type of the others.
NULLABLE: Final = re.compile(r"^Nullable\((.*)\)$")

#: Values of `status`: of a run in progress, and of one that was stopped, or whose process died before it could say so.
RUNNING: Final = "running"
INTERRUPTED: Final = "interrupted"

#: One row a run; `status` is running, finished, interrupted or failed.
RUNS: Final = Columns(
    {
        "run_id": "String",
        "experiment": "String",
        "status": "String",
        "environment": "String",
        "algorithm": "String",
        "seed": "UInt64",
        "started": "DateTime64(6, 'UTC')",
        "ended": "Nullable(DateTime64(6, 'UTC'))",
        "seconds": "Float64",  # spent training, over all resumes
        "env_steps": "UInt64",  # ticks of all worlds, however many agents act in them
        "updates": "UInt64",
        "episodes": "UInt64",
        "env_steps_per_second": "Float64",
        "mean_return": "Nullable(Float64)",  # of the last 100 episodes; null before the first has ended
        "mean_episode_length": "Nullable(Float64)",
        "policy_sha256": "String",
        "best_mean_return": "Nullable(Float64)",  # the highest so far: of evaluations, if there are any
        "best_policy_version": "Nullable(UInt64)",  # the policy that reached it, kept as policy-best.safetensors
        "rattle_version": "String",
        "config": "JSON",  # the effective settings, as in config.yaml
        # Where the run began.
        "host": "String",
        "command": "String",  # less secrets
        "git_commit": "String",  # of the repository around the folder that it began in; empty where there is none
        "git_dirty": "Nullable(Bool)",  # files that Git tracks differed from that
        "packages": "Map(String, String)",  # versions that decide results, by name
        # What people say of it.
        "tags": "Array(String)",
        "note": "String",
        "archived": "Bool",  # 'rattle runs' leaves it out
    }
)

#: One row an update of the policy.
UPDATES: Final = Columns(
    {
        "time": "DateTime64(6, 'UTC')",
        "run_id": "String",
        "policy_version": "UInt64",  # the version that the update made
        "env_steps": "UInt64",  # ticks of all worlds since the run began
        "seconds": "Float64",  # spent training since the run began
        "env_steps_per_second": "Float64",  # during this update
        "episodes": "UInt64",  # episodes ended since the run began
        "mean_return": "Nullable(Float64)",  # of the last 100 episodes
        "mean_episode_length": "Nullable(Float64)",
        # What the algorithm says of the update: null where it does not say it.
        "policy_loss": "Nullable(Float64)",
        "value_loss": "Nullable(Float64)",
        "entropy": "Nullable(Float64)",  # nats an action
        "gradient_norm": "Nullable(Float64)",  # before clipping
        "learning_rate": "Nullable(Float64)",
        "policy_age": "Nullable(Float64)",  # updates between playing and learning: mean over the rollouts learnt from
        "max_policy_age": "Nullable(UInt64)",  # the largest of them; null in runs older than these columns
        "metrics": "Map(String, Float64)",  # what else the algorithm, and hooks, say of the update, such as approx_kl
    }
)

#: One row an agent's episode.
EPISODES: Final = Columns(
    {
        "time": "DateTime64(6, 'UTC')",
        "run_id": "String",
        "episode_id": "UInt64",  # counts the run's episodes from 0
        "world": "UInt32",
        "world_episode": "UInt32",  # the number of the episode in its world: with the seed it decides the game
        "agent": "UInt32",
        "return": "Float64",
        "length": "UInt32",  # ticks
        "terminated": "Bool",  # false: truncated
        "env_steps": "UInt64",  # ticks of all worlds when the update that saw its end began
        "policy_version": "UInt64",  # that played its end
        "metrics": "Map(String, Float64)",  # such as food
    }
)

#: One row an evaluation of a policy in fresh games, where `evaluation.every_steps` is set.
EVALUATIONS: Final = Columns(
    {
        "time": "DateTime64(6, 'UTC')",
        "run_id": "String",
        "policy_version": "UInt64",
        "env_steps": "UInt64",  # ticks of all worlds that the policy has been trained for
        "seconds": "Float64",  # that it has been trained for
        "seed": "UInt64",  # decides the games
        "greedy": "Bool",
        "episodes": "UInt64",  # games; the numbers below are over the episodes of all their agents
        "cut_episodes": "UInt64",  # of agents: had not ended after evaluation.max_ticks
        "mean_return": "Float64",
        "std_return": "Float64",  # standard deviation of the episodes, not of the mean
        "min_return": "Float64",
        "max_return": "Float64",
        "mean_episode_length": "Float64",  # ticks
        "metrics": "Map(String, Float64)",  # means of what the environment counts, such as food
    }
)

#: One row a tick of a recorded episode and agent (Parquet).
STEPS: Final = Columns(
    {
        "run_id": "String",
        "world": "UInt32",
        "world_episode": "UInt32",
        "agent": "UInt32",
        "tick": "UInt32",  # from 0
        "policy_version": "UInt64",
        "observation": "Array(Float32)",  # what the agent saw before it acted
        "action": "Nullable(Int32)",  # NULL where an action has several numbers, or real ones
        "action_row": "Array(Float32)",  # of other actions, as they were drawn
        "reward": "Float32",
        "terminated": "Bool",
        "truncated": "Bool",
        "log_prob": "Float32",  # of the action, in nats, when it was chosen
        "value": "Float32",  # predicted return; 0 without a value head
        "state": "String",  # JSON: the world before the tick, in the row of its first living agent; else empty
    }
)

#: One row an event, as the logger writes it.
LOGS: Final = Columns(
    {
        "time": "DateTime64(6, 'UTC')",
        "level": "String",
        "service": "String",
        "event": "String",
        "experiment": "String",
        "run_id": "String",
        "host": "String",
        "pid": "UInt32",
        "fields": "String",  # JSON: the event's own fields
    }
)

TABLES: Final = MappingProxyType(
    {
        "runs": RUNS,
        "updates": UPDATES,
        "episodes": EPISODES,
        "evaluations": EVALUATIONS,
        "steps": STEPS,
        "logs": LOGS,
    }
)

#: Units of the numbers in columns, which are the same in every table; numbers that name something have none.
UNITS: Final = MappingProxyType(
    {
        "action": "one of the actions",
        "best_mean_return": "reward",
        "cut_episodes": "episodes of agents",
        "entropy": "nats an action",
        "env_steps": "environment steps",
        "env_steps_per_second": "environment steps a second",
        "episodes": "episodes of agents",
        "food": "food",
        "gradient_norm": "-",
        "learning_rate": "-",
        "length": "ticks",
        "log_prob": "nats",
        "max_policy_age": "updates",
        "max_return": "reward",
        "mean_episode_length": "ticks",
        "mean_return": "reward",
        "min_return": "reward",
        "policy_age": "updates",
        "policy_loss": "-",
        "return": "reward",
        "reward": "reward",
        "seconds": "seconds",
        "std_return": "reward",
        "updates": "updates",
        "value": "reward",
        "value_loss": "return squared",
    }
)
#: Numbers that name something.
NAMES: Final = frozenset(
    {
        "agent",
        "best_policy_version",
        "episode_id",
        "pid",
        "policy_version",
        "seed",
        "tick",
        "world",
        "world_episode",
    }
)

#: Columns that queries see next to the stored ones, as SQL.
DERIVED_COLUMNS: Final = MappingProxyType(
    {"episodes": Columns({"food": "if(mapContains(metrics, 'food'), metrics['food'], NULL)"})}
)


def quoted(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
