"""What a check is, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from rattle.conformance.target import Target

Outcome = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One thing that a server must do: `run` plays against it and raises Failed or Skipped, or returns a remark."""

    id: str
    title: str
    run: Callable[[Target], str | None]
    #: Checks that must have passed, or this one says nothing.
    needs: tuple[str, ...] = ()

    @property
    def face(self) -> str:
        """Return the face that it is about: `agent` or `vector`."""
        return self.id.partition(".")[0]


@dataclass(frozen=True)
class Result:
    """The result of a check: one sentence, and for a failure what was sent and came back."""

    id: str
    title: str
    result: Outcome
    sentence: str
    expected: str | None = None
    got: str | None = None
    evidence: list[str] = field(default_factory=list)
    seconds: float = 0.0


class CheckGroup(list[Check]):
    """The checks of a module, in the order in which they run."""

    def check(
        self, name: str, title: str, needs: tuple[str, ...] = ()
    ) -> Callable[[Callable[[Target], str | None]], Callable[[Target], str | None]]:
        """Register the function below under an id and a title sentence."""

        def register(run: Callable[[Target], str | None]) -> Callable[[Target], str | None]:
            self.append(Check(name, title, run, needs))
            return run

        return register
