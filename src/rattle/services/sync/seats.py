"""A member's seat: what it was told, and what is known of it. Sans I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from rattle.wire.lockstep import Arrived, Join, Role
from rattle.wire.round_trips import Repeated, RoundTrips

Address = tuple[str, int]
#: invited: it has not taken its seat yet; suspected: it was not heard for some time; absent: it is played on without.
State = Literal["invited", "present", "suspected", "absent"]


@dataclass(eq=False, slots=True)
class Membership:
    """One life of a member in an epoch."""

    number: int
    name: str
    role: Role
    life: int
    address: Address
    heard_at: float
    round_trips: RoundTrips = field(default_factory=RoundTrips)
    told: Repeated = field(init=False)  # the welcome, or the tick
    invited: bool = True
    suspected_at: float = inf
    absent: bool = False
    idle: bool = False
    # Its histories begin where those of the others do; not after it came late, or missed a tick.
    is_comparable: bool = True
    done_tick: int = 0
    remind_at: float = inf  # of being waited for
    pinged_at: float = 0.0
    repeated: int = 0
    subjects: int = 0
    answers: int = 0  # the number of its newest join
    arrived: Arrived = field(default_factory=Arrived)

    def __post_init__(self) -> None:
        self.told = Repeated(self.round_trips)

    @property
    def state(self) -> State:
        """Return where the member stands."""
        if self.absent:
            return "absent"
        if self.suspected_at != inf:
            return "suspected"
        return "invited" if self.invited else "present"

    @classmethod
    def of(cls, join: Join, number: int, address: Address, now: float) -> Membership:
        """Return a seat for who has come."""
        return cls(number, join.name, join.role, join.life, address, now)
