"""What other tools are shown of the tables `updates` and `evaluations`: numbers under names that group them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

Scalars = Mapping[str, float]

#: The name under which each column appears; the horizontal axis is `env_steps`.
NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mean_return": "episodes/mean_return",
        "mean_episode_length": "episodes/mean_length",
        "policy_loss": "learning/policy_loss",
        "value_loss": "learning/value_loss",
        "entropy": "learning/entropy",
        "gradient_norm": "learning/gradient_norm",
        "learning_rate": "learning/learning_rate",
        "policy_age": "learning/policy_age",
        "env_steps_per_second": "speed/env_steps_per_second",
    }
)
#: The same of `evaluations`.
EVALUATION_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"mean_return": "evaluations/mean_return", "mean_episode_length": "evaluations/mean_length"}
)
#: Of the names: one that each update has, and one that each evaluation has.
OF_UPDATES: Final = NAMES["env_steps_per_second"]
OF_EVALUATIONS: Final = EVALUATION_NAMES["mean_return"]


def of_update(row: Mapping[str, Any]) -> Scalars:
    """Return the numbers of a row of `updates` and its metrics; columns that are null or missing are left out."""
    return {
        **{name: float(row[column]) for column, name in NAMES.items() if row.get(column) is not None},
        **{f"learning/{name}": float(value) for name, value in row.get("metrics", {}).items()},
    }


def of_evaluation(row: Mapping[str, Any]) -> Scalars:
    """Return the numbers of a row of `evaluations` and its metrics."""
    return {
        **{name: float(row[column]) for column, name in EVALUATION_NAMES.items()},
        **{f"evaluations/mean_{name}": float(value) for name, value in row["metrics"].items()},
    }
