"""The numbers that an update is described by: tables, messages, displays and plots take them by name from here."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A number that an algorithm returns of each update, a mean over the samples or the steps of it."""

    name: str
    unit: str
    explanation: str


#: What every policy gradient returns.
COMMON = (
    Metric("policy_loss", "", "What the policy is moved by; its sign and size say little."),
    Metric(
        "value_loss", "return squared", "Half the squared error of the value head; with scale_rewards, in its units."
    ),
    Metric("entropy", "nats an action", "How undecided the policy is."),
    Metric("gradient_norm", "", "Length of the gradient before it is clipped."),
    Metric("learning_rate", "", "Step size of the optimiser."),
)
