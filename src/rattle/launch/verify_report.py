"""The result of several runs of one experiment, in words and as JSON. No files and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rattle.launch.compare import Curves, Difference, MemberHistory, first_difference, first_different_update
from rattle.trainer.display import clock

#: How many digits of a hash tell it from others at a glance.
_SHORT = 12


@dataclass(frozen=True)
class PolicyOutcome:
    """What a run has made of a policy."""

    sha256: str
    updates: int
    curves: Curves  # by column of the table `updates`


@dataclass(frozen=True)
class Outcome:
    """The result of one run."""

    inference: int  # processes
    loss: float
    delay_seconds: float
    worlds: tuple[str, ...]  # what their histories are called; those of all others are of agents
    history: MemberHistory
    policies: Mapping[str, PolicyOutcome]
    seconds: float  # from the first tick to the last
    datagrams: Mapping[str, int]  # counters of the Sync service
    disagreements: Sequence[Mapping[str, Any]]  # as the Sync service reports them
    restarts: int  # of services

    @property
    def ticks_per_second(self) -> float:
        """Return how fast ticks followed each other."""
        return self.history.ticks / self.seconds if self.seconds else 0.0

    def faults(self) -> Iterator[str]:
        """Yield why this run is no measure for others: its own members do not agree."""
        for found in self.disagreements:
            members = " and ".join(found.get("members", ()))
            yield f"{members} disagree about {found.get('subject')} from tick {found.get('tick')} on"
        for moment, subject, (one, other) in self.history.contradictions:
            yield f"{subject} has two histories in tick {moment.tick}, phase {moment.phase}: {one} and {other}"

    def line(self) -> str:
        """Return the result in a line."""
        made = ", ".join(
            f"policy {_named(policy_id, self.policies)}{one.sha256[:_SHORT]} after {one.updates:,} updates"
            for policy_id, one in self.policies.items()
        )
        again = f", {self.restarts} services started again" if self.restarts else ""
        repeated = self.datagrams.get("repeated", 0)
        return (
            f"{self.history.ticks:,} ticks in {clock(self.seconds)} ({self.ticks_per_second:,.0f}/s), "
            f"{self.inference} inference, loss {self.loss:.0%}, {repeated:,} datagrams repeated{again}; "
            f"history {self.history.digest()[:_SHORT]}, {made}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object's content."""
        return {
            "inference": self.inference,
            "loss": self.loss,
            "delay_seconds": self.delay_seconds,
            "ticks": self.history.ticks,
            "seconds": round(self.seconds, 3),
            "ticks_per_second": round(self.ticks_per_second, 3),
            "history_sha256": self.history.digest(),
            "histories": dict(sorted(self.history.newest().items())),
            "policies": {
                policy_id: {"sha256": one.sha256, "updates": one.updates} for policy_id, one in self.policies.items()
            },
            "datagrams": dict(self.datagrams),
            "faults": list(self.faults()),
            "restarts": self.restarts,
        }


class VerifyReport:
    """Whether runs were the same and, if not, where they began to differ."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = outcomes

    @cached_property
    def difference(self) -> Difference | None:
        """The first moment of which histories say different things."""
        return first_difference([outcome.history for outcome in self.outcomes])

    @property
    def different_policies(self) -> list[str]:
        """Return the policies of which runs have made different things."""
        return [
            policy_id
            for policy_id in self.outcomes[0].policies
            if len({(made.sha256, made.updates) for made in self._made(policy_id)}) > 1
        ]

    @property
    def agree(self) -> bool:
        """Whether all runs were the same from the first tick to the last."""
        alike = len({outcome.history.ticks for outcome in self.outcomes}) == 1 and not self.difference
        return alike and not self.different_policies and not any(list(outcome.faults()) for outcome in self.outcomes)

    def lines(self) -> Iterator[str]:
        """Yield the verdict in words."""
        first = self.outcomes[0]
        if self.agree:
            yield f"All {len(self.outcomes)} runs agree."
            yield f"history {first.history.digest()}"
            for policy_id, policy in first.policies.items():
                yield f"policy {_named(policy_id, first.policies)}{policy.sha256}"
            return
        yield "The runs do not agree."
        yield from self._difference_lines()
        ticks = [f"tick {outcome.history.ticks:,}" for outcome in self.outcomes]
        if len(set(ticks)) > 1:
            yield f"the histories end with {_by_run(ticks)}"
        for policy_id in self.different_policies:
            made = self._made(policy_id)
            since = first_different_update([one.curves for one in made])
            began = "" if since is None else f", which differ from version {since} on"
            results = _by_run(f"{one.sha256[:_SHORT]} after {one.updates:,} updates" for one in made)
            yield f"policy {_named(policy_id, first.policies)}is {results}{began}"
        for number, outcome in enumerate(self.outcomes, 1):
            yield from (f"run {number}: {fault}" for fault in outcome.faults())

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object's content."""
        found = self.difference
        return {
            "agree": self.agree,
            "runs": [{"run": number, **outcome.as_dict()} for number, outcome in enumerate(self.outcomes, 1)],
            "difference": None
            if found is None
            else {
                "tick": found.moment.tick,
                "phase": found.moment.phase,
                "agents": {name: list(said) for name, said in found.subjects.items() if not self._is_world(name)},
                "worlds": {name: list(said) for name, said in found.subjects.items() if self._is_world(name)},
            },
            "different_policies": {
                policy_id: {"since_version": first_different_update([one.curves for one in self._made(policy_id)])}
                for policy_id in self.different_policies
            },
        }

    def _difference_lines(self) -> Iterator[str]:
        found = self.difference
        if found is None:
            return
        who = "worlds" if found.moment.phase == "step" else "agents"
        yield f"The first difference is in tick {found.moment.tick:,}, phase {found.moment.phase}, as the {who} say:"
        for name, said in found.subjects.items():
            kind = "world" if self._is_world(name) else "agent"
            yield f"  {kind} {name} is {_by_run(one or 'not there' for one in said)}"

    def _is_world(self, name: str) -> bool:
        return name in self.outcomes[0].worlds

    def _made(self, policy_id: str) -> list[PolicyOutcome]:
        return [outcome.policies[policy_id] for outcome in self.outcomes]


def _by_run(values: Iterable[str]) -> str:
    """Return what each run has, those together that have the same."""
    runs: dict[str, list[str]] = {}
    for number, value in enumerate(values, 1):
        runs.setdefault(value, []).append(str(number))
    return ", ".join(f"{value} in {_runs(numbers)}" for value, numbers in runs.items())


def _runs(numbers: Sequence[str]) -> str:
    *others, last = numbers
    return f"runs {', '.join(others)} and {last}" if others else f"run {last}"


def _named(policy_id: str, policies: Mapping[str, PolicyOutcome]) -> str:
    """Return a policy's name and a space where there are several."""
    return f"{policy_id} " if len(policies) > 1 else ""
