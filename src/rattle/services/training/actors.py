"""The actors of a policy: whose stream is open, who sent what no update could be made of, and who is refused for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rattle.wire.problems import RequestError

#: Updates in a row that cannot be made of an actor's rollouts, because something is not finite, before it is refused.
MOST_UNLEARNT = 3
#: An actor whose stream has ended counts as there for so many seconds: it may be on its way back.
_GONE_AFTER_SECONDS = 60.0
#: Actors whose faults are remembered.
_MOST_ACTORS = 1024

#: An actor and its life.
LifeName = tuple[str, str]


@dataclass(frozen=True)
class Life:
    """One life of an actor, and from where it plays."""

    actor: str
    name: str
    number: int = 0  # higher in each later life; 0: it does not say
    peer: str = ""
    worlds: range = range(0)  # of the run, which it plays first

    @property
    def key(self) -> LifeName:
        """Return what rollouts say of who played them."""
        return self.actor, self.name

    def may_replace(self, other: Life) -> bool:
        """Whether a stream of this life takes the place of another's: the same life comes again, or a later one.

        Where neither says which is the later, it is the one that comes last.
        """
        return self.name == other.name or self.number > other.number or self.number == other.number == 0


class ActorStream:
    """One actor's stream of rollouts; may be ended from elsewhere with a RequestError."""

    def __init__(self, peer: str = "") -> None:
        self.peer = peer
        self.life: Life | None = None  # known with the first rollout
        self.actors: Actors | None = None  # of the policy that it is for
        self._task = asyncio.current_task()
        self._reason: RequestError | None = None

    def end(self, reason: RequestError) -> None:
        """Have the task that serves the stream stop, wherever it waits."""
        if self._task is not None and self._reason is None:
            self._reason = reason
            self._task.cancel()

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """Turn the end of the stream from elsewhere into its reason; afterwards its actor has none."""
        try:
            yield
        except asyncio.CancelledError:
            if self._reason is None or self._task is None:
                raise
            self._task.uncancel()
            raise self._reason from None
        finally:
            if self.actors is not None:
                self.actors.close(self)


class Actors:
    """Those who contribute to one policy."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: dict[str, ActorStream] = {}  # by actor: those that are open
        self._gone: dict[LifeName, float] = {}  # lives whose streams have ended, and when
        self._unlearnt: dict[str, int] = {}  # by actor: updates in a row that could not be made
        self._refused: dict[LifeName, str] = {}  # lives, and why

    def open(self, stream: ActorStream, life: Life) -> Life | None:
        """Take a stream for that of an actor, and end an earlier one; return the earlier life whose place it takes.

        Raises RequestError, and leaves the earlier stream alone, where that is of a later life or another actor.
        """
        if stream.life is not None:
            if (stream.actors, stream.life.actor) != (self, life.actor):
                raise RequestError("bad_value", "actor: a stream is of one actor and policy", "actor")
            return None
        earlier = self._streams.get(life.actor)
        before = None if earlier is None else earlier.life
        if before is not None and not life.may_replace(before):
            raise RequestError(
                "replaced",
                f"a later life of actor '{life.actor}' plays already, from {before.peer}: stop one of the two, or "
                "give each Inference service an inference.index of its own",
            )
        if earlier is not None:
            earlier.end(RequestError("replaced", f"another stream of actor '{life.actor}' has begun"))
        stream.life, stream.actors = life, self
        self._streams[life.actor] = stream
        return before if before is not None and before.name != life.name else None

    def others_in(self, life: Life) -> list[str]:
        """Return the other actors with a stream who play some of the worlds that a life plays, in order."""
        lives = (stream.life for stream in self._streams.values())
        return sorted(
            other.actor
            for other in lives
            if other is not None and other.actor != life.actor and _share_some(other.worlds, life.worlds)
        )

    def close(self, stream: ActorStream) -> None:
        """Note that a stream has ended."""
        if stream.life is not None and self._streams.get(stream.life.actor) is stream:
            del self._streams[stream.life.actor]
            self._gone[stream.life.key] = self._clock()
            _forget_oldest(self._gone)

    def end_streams(self, reason: RequestError) -> None:
        """End all streams."""
        for stream in list(self._streams.values()):
            stream.end(reason)

    def refusal(self, life: LifeName) -> str:
        """Return why nothing more is taken from a life, an empty text where it is."""
        return self._refused.get(life, "")

    def blame(self, lives: Collection[LifeName]) -> list[LifeName]:
        """Count an update that could not be made of what some lives sent; return those of whom it was one too many."""
        for actor in {actor for actor, _ in lives}:
            self._unlearnt[actor] = self._unlearnt.pop(actor, 0) + 1
        _forget_oldest(self._unlearnt)
        return [life for life in sorted(lives) if self._unlearnt.get(life[0], 0) >= MOST_UNLEARNT]

    def praise(self, actors: Collection[str]) -> None:
        """Note that an update was made of what some actors sent."""
        for actor in actors:
            self._unlearnt.pop(actor, None)

    def refuse(self, life: LifeName, why: str) -> None:
        """Take nothing more from a life. The actor's next life is refused after one more update that cannot be made."""
        self._refused[life] = why
        self._unlearnt[life[0]] = MOST_UNLEARNT - 1
        _forget_oldest(self._refused)

    def are_there_besides(self, lives: Collection[LifeName]) -> bool:
        """Whether anybody contributes, or did a moment ago, but some lives and those who are refused."""
        since = self._clock() - _GONE_AFTER_SECONDS
        there = {stream.life.key for stream in self._streams.values() if stream.life is not None}
        there |= {life for life, ended in self._gone.items() if ended >= since}
        return bool({actor for actor, _ in there - self._refused.keys()} - {actor for actor, _ in lives})


def _share_some(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _forget_oldest(noted: dict[LifeName, float] | dict[LifeName, str] | dict[str, int]) -> None:
    """Keep what is noted of the newest actors."""
    while len(noted) > _MOST_ACTORS:
        del noted[next(iter(noted))]  # type: ignore[arg-type]
