"""Events of a run: its beginning and end, what it is resumed from, and what happens to its worlds and actors."""

from __future__ import annotations

from typing import ClassVar

from rattle.events.event import Event, Level


class RunStarted(Event, frozen=True, kw_only=True):
    """A run begins from nothing."""

    sentence: ClassVar[str] = "the run begins, with seed {seed}"
    seed: int


class RunResumed(Event, frozen=True, kw_only=True):
    """A run continues from a checkpoint."""

    sentence: ClassVar[str] = "the run continues after update {update}"
    update: int


class End(Event, frozen=True, kw_only=True):
    """How a run, or a command that works for it, has ended."""

    update: int | None = None
    reason: str | None = None

    def _text(self) -> str:
        return self.sentence if self.reason is None else f"{self.sentence}: {self.reason}"


class RunFinished(End, frozen=True, kw_only=True):
    """A run has reached its limit, or is good enough."""

    sentence: ClassVar[str] = "the run has finished"


class RunInterrupted(End, frozen=True, kw_only=True):
    """A run was stopped before its end, and can be resumed."""

    sentence: ClassVar[str] = "the run was interrupted"


class TrainingStopped(End, frozen=True, kw_only=True):
    """A Training service was told to stop; the sender of the signal knows why."""

    sentence: ClassVar[str] = "training was stopped"


class RunFailed(Event, frozen=True, kw_only=True):
    """A run has ended in an error; its last checkpoint and policy stay."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "the run has failed: {error}"
    error: str


class NothingLeft(Event, frozen=True, kw_only=True):
    """A run that has ended was started again, and its limits were not changed."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the run has nothing left to do: {reason}: change that to continue"
    reason: str


class RowsPutAside(Event, frozen=True, kw_only=True):
    """A resume cut off more than a minute of training, and kept the rows in files whose names end in .cut."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the rows of the last {seconds:g} s were put aside: it continues after update {update}"
    seconds: float
    update: int


class OlderCheckpoint(Event, frozen=True, kw_only=True):
    """The newest checkpoint does not fit the run's tables, and an older one does."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}: the run continues from the older checkpoint {checkpoint}"
    error: str
    checkpoint: str


class RunRowMade(Event, frozen=True, kw_only=True):
    """The file run.json was missing or damaged, and was made again."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}: it is made again from the newest checkpoint"
    error: str


class SettingsChanged(Event, frozen=True, kw_only=True):
    """The settings of a run were changed, in a way that it may continue with."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{change}: the run continues with that"
    change: str


class CodeChanged(Event, frozen=True, kw_only=True):
    """Code of a user has changed since the run began, and was accepted."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the code of {names} has changed since the run began: the run continues with it"
    names: str


class RunLeftOut(Event, frozen=True, kw_only=True):
    """A run directory is a copy of another one, which counts."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{path} is left out: it holds the same run as {other}, {copy_of}"
    path: str
    other: str
    copy_of: str


class NotRepeating(Event, frozen=True, kw_only=True):
    """An environment plays another game when an episode is played again from its seed."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "'{environment}' does not repeat itself when an episode is played again from its seed: two runs of one seed "
        "will differ, and a resume begins new episodes. Draw from self.np_random only, and keep nothing over resets"
    )
    environment: str


class EnvironmentSlow(Event, frozen=True, kw_only=True):
    """An environment that is tried out takes long to be made, to begin or to make a step: it is waited for."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "'{environment}' is waited for: {asked} may take {seconds:g} seconds"
    environment: str
    asked: str  # make, reset, step or close
    seconds: float


class SteppedAsBatch(Event, frozen=True, kw_only=True):
    """The worlds of a run are a batch that code of others steps in one call: a resume cannot continue in them."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "'{environment}' is stepped as one batch by {stepped_by}: {games}, and a resume begins new episodes"
    )
    environment: str
    stepped_by: str
    games: str


class SteppedOneByOne(Event, frozen=True, kw_only=True):
    """An experiment takes a vector environment where there is one, and for its environment there is none."""

    sentence: ClassVar[str] = (
        "'{environment}' has no vector environment that can be used: its worlds are stepped one by one"
    )
    environment: str


class PartStaysText(Event, frozen=True, kw_only=True):
    """A part of a table holds something else than the table's rows: it is not turned into Parquet."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{path} stays text: {error}"
    path: str
    error: str


class RecordingCut(Event, frozen=True, kw_only=True):
    """A recorded episode was too long to be kept whole."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the recording of episode {world_episode} was cut after {ticks} ticks"
    world_episode: int
    ticks: int


class _OfActor(Event, frozen=True, kw_only=True):
    agent: str | None = None  # None in `rattle train`, and where it is not of one actor

    def _text(self) -> str:
        return super()._text() if self.agent is None else f"{self.agent}: {super()._text()}"


class WorldsLost(_OfActor, frozen=True, kw_only=True):
    """The worlds of a run, or of an actor, are gone, and new episodes begin."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}"
    error: str


class WorldsInProcesses(Event, frozen=True, kw_only=True):
    """Worlds are stepped in worker processes."""

    sentence: ClassVar[str] = "{worlds} worlds of '{environment}' are stepped in {processes} processes"
    environment: str
    worlds: int
    processes: int
    microseconds: float | None = None  # of a step, where that decided it

    def _text(self) -> str:
        took = "" if self.microseconds is None else f": a step takes about {self.microseconds:.0f} microseconds"
        return f"{super()._text()}{took}"


class NoWorkers(Event, frozen=True, kw_only=True):
    """Worker processes cannot make an environment that this process can; it steps the worlds itself."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "worker processes cannot make the worlds, so this one steps them: {error}"
    error: str


class EnvironmentFailed(_OfActor, frozen=True, kw_only=True):
    """An environment has failed, and the run that is played in it cannot continue; `rattle up` ends it."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{error}: the actor plays no more; when that is fixed, restart its Inference service"
    error: str


class PlayBegunAnew(_OfActor, frozen=True, kw_only=True):
    """An actor lost its worlds for a reason that may go away, and begins to play in others."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}: starting from the beginning"
    error: str


class LifeForgotten(_OfActor, frozen=True, kw_only=True):
    """A snake's life was not seen whole, and nothing is learnt from it."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}: this life is forgotten"
    error: str


class PolicyLate(_OfActor, frozen=True, kw_only=True):
    """No new policy has come for a snake, which plays with the last one again."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "no policy has come in {seconds:.0f} s: playing once more"
    seconds: float


class RolloutDropped(_OfActor, frozen=True, kw_only=True):
    """A rollout was refused, or could not be learnt from, and is played again."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{error}: the rollout is dropped"
    error: str


class RunOver(Event, frozen=True, kw_only=True):
    """The Training service takes no rollouts, as the run has failed or has ended: actors wait."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}: waiting until the run is continued"
    error: str


class ActorReplaced(Event, frozen=True, kw_only=True):
    """A later life of an actor has come while an earlier one contributed, and takes its stream."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{agent} has been started again, at {peer}: nothing more is taken from {before}"
    agent: str
    peer: str
    before: str


class WorldsShared(Event, frozen=True, kw_only=True):
    """An actor contributes rollouts of worlds that other actors play, too: some of what is played is lost."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{agent}, at {peer}, plays worlds that {others} plays too: stop one of them"
    agent: str
    peer: str
    others: str


class ActorRefused(Event, frozen=True, kw_only=True):
    """Several updates in a row could not be made of an actor's rollouts: nothing more is taken from this life of it."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = (
        "{agent} is refused, as {updates} updates in a row could not be made of its rollouts ({error}): start it again "
        "when that is fixed"
    )
    agent: str
    updates: int
    error: str


class EnvironmentAwaited(Event, frozen=True, kw_only=True):
    """The Training service plays nothing itself: its run begins when an actor has said what it plays."""

    sentence: ClassVar[str] = "the run begins when an actor of '{environment}' comes"
    environment: str


class IntroductionRefused(Event, frozen=True, kw_only=True):
    """What an actor says that it plays cannot be learnt: the run waits for another."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "an actor at {peer} is refused: {error}"
    peer: str
    error: str


class PolicyRefused(Event, frozen=True, kw_only=True):
    """The Training service refuses to send a policy; it is asked again."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{error}"
    error: str
