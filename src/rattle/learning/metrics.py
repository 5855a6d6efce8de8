"""The numbers that an update is described by: tables, messages, displays and plots take them by name from here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from rattle.analytics.schema import UPDATES
from rattle.extensions import Extension, ExtensionError


class Metric(NamedTuple):
    """A number that an algorithm returns of each update, a mean over its samples or steps, or that a hook reports."""

    name: str
    unit: str
    explanation: str


#: What every policy gradient returns.
COMMON = (
    Metric("policy_loss", "", "The loss of the policy; its sign and size say little."),
    Metric(
        "value_loss", "return squared", "Half the squared error of the value head; with scale_rewards, in its units."
    ),
    Metric("entropy", "nats an action", "How undecided the policy is."),
    Metric("gradient_norm", "", "Length of the gradient before it is clipped."),
    Metric("learning_rate", "", "Step size of the optimiser."),
)


def check_metrics(extension: Extension[Any], taken: Iterable[str]) -> None:
    """Raise ExtensionError unless a user's class declares `metrics` with names that can be in tables.

    `taken` are the names of metrics that others report next to it.
    """
    metrics = extension.cls.metrics
    if not isinstance(metrics, tuple) or not all(isinstance(metric, Metric) for metric in metrics):
        raise ExtensionError(f"{extension.path}: metrics must be a tuple of rattle.extend.Metric")
    names = [str(metric.name) for metric in metrics]
    for place, name in enumerate(names):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ExtensionError(f"{extension.path}: metrics: '{name}' must be of small letters, digits and _")
        if name in taken or name in names[:place]:
            raise ExtensionError(f"{extension.path}: metrics: '{name}' is taken: choose another name")


#: Names that no metric may have: columns of the table `updates` that are none.
COLUMNS = frozenset(UPDATES) - {metric.name for metric in COMMON}
