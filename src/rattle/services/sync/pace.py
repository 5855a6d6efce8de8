"""Mode `pace`: a datagram with the time, again and again at fixed distances, to everybody who is to be told."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from prometheus_client import Metric

from rattle.services.sync.metrics import TICK
from rattle.services.sync.participants import Participant, participants
from rattle.services.utils.measures import CounterMeasure, HistogramMeasure
from rattle.services.utils.schedule import Schedule
from rattle.services.utils.sockets import ServiceError
from rattle.settings.services import SyncSection
from rattle.wire.pace import Beat, PaceCodec, Question

#: Ticks a second where the settings leave it open.
DEFAULT_FREQUENCY = 10.0
#: How often the addresses of participants are looked up, in seconds.
_LOOK_UP_SECONDS = 15.0
#: How long the first datagram waits for addresses, in seconds.
_PATIENCE_SECONDS = 1.0

SENT_TO = CounterMeasure(
    "rattle_sync_datagrams_sent", "datagrams", "Mode pace: datagrams that were sent.", ("participant",)
)
FAILED = CounterMeasure(
    "rattle_sync_datagrams_failed", "datagrams", "Datagrams that did not arrive, as is known.", ("participant",)
)
LATE = HistogramMeasure(
    "rattle_sync_late_seconds",
    "seconds",
    "How late datagrams were sent.",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0),
)


class Sealing:
    """Seals what participants are told, and repeats the nonces that they ask for."""

    def __init__(self, key: bytes, life: str) -> None:
        """Seal; `life` is 16 hexadecimal digits that nobody has used before."""
        self._codec, self._life = PaceCodec(key), life
        self._asked: dict[str, tuple[int, set[str]]] = {}  # by participant: the newest sequence, and its nonces

    def hear(self, participant: str, data: bytes) -> None:
        """Take what a participant sends: only the newest questions count, for others may be recorded ones."""
        question = self._codec.decode(data, Question)
        if question is None or question.life != self._life:
            return
        newest, nonces = self._asked.get(participant, (0, set()))
        if question.sequence >= newest:
            others = nonces if question.sequence == newest else set()
            self._asked[participant] = question.sequence, others | {question.nonce}

    def beat(self, participant: str, sequence: int, timestamp: str) -> bytes:
        """Return what a participant is told."""
        _, nonces = self._asked.get(participant, (0, {""}))
        nonce = secrets.choice(list(nonces))  # several where questions are redirected: nobody may choose
        return self._codec.encode(Beat(sequence=sequence, timestamp=timestamp, life=self._life, nonce=nonce))


class Pace:
    """Tells the time in a thread of its own, whose sleep is more exact than the timers of event loops."""

    failure: ServiceError | None = None

    def __init__(self, settings: SyncSection, key: bytes | None = None) -> None:
        """Tell the participants of `settings`, in datagrams that are sealed where there is a key."""
        self.sequence = 0
        self.finished = False
        self._frequency = settings.frequency or DEFAULT_FREQUENCY
        self._ticks = settings.ticks
        self._participants = participants(settings.participants)
        self._sealing = None if key is None else Sealing(key, secrets.token_hex(8))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pace", daemon=True)
        self._late = LATE.live(None)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; no datagram follows."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def check_ready(self) -> None:
        """Nobody has to come: it is ready from the start."""

    def status(self) -> dict[str, Any]:
        """Return what `GET /v1/status` shows."""
        told = [
            {"name": one.name, "address": one.address, "sent": one.sent, "failed": one.failed, "problem": one.problem}
            for one in self._participants
        ]
        return {
            "mode": "pace",
            "frequency": self._frequency,
            "sequence": self.sequence,
            "finished": self.finished,
            "participants": told,
        }

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers for Prometheus."""
        yield TICK.family(self.sequence)
        sent, failed = SENT_TO.family(), FAILED.family()
        for one in self._participants:
            sent.add_metric([one.name], one.sent)
            failed.add_metric([one.name], one.failed)
        yield from (sent, failed, *self._late.collect())

    def _run(self) -> None:
        self._find_all()
        schedule, now = Schedule(self._frequency), time.monotonic()
        schedule.begin(now)
        while self._ticks is None or self.sequence < self._ticks:
            due = now + schedule.wait(now)
            if self._stopping.wait(due - now):
                break
            now = time.monotonic()
            if schedule.wait(now) == 0.0:
                self._tell(now)
                schedule.ticked(now)
                self._late.observe(now - due)
                now = time.monotonic()
        else:
            self.finished = True
        for one in self._participants:
            one.close()

    def _tell(self, now: float) -> None:
        self.sequence += 1
        timestamp = datetime.now(UTC).isoformat(timespec="microseconds")
        data = msgspec.json.encode({"sequence": self.sequence, "timestamp": timestamp})
        for one in self._participants:
            if self._sealing is not None:
                for question in one.take():
                    self._sealing.hear(one.name, question)
                data = self._sealing.beat(one.name, self.sequence, timestamp)
            one.send(data, now)

    def _find_all(self) -> None:
        """Look up addresses, each in a thread: a name server that does not answer holds up nobody else."""
        for one in self._participants:
            if one.may_move:
                threading.Thread(target=self._keep_found, args=[one], name=f"find {one.name}", daemon=True).start()
            else:
                one.find()
        until = time.monotonic() + _PATIENCE_SECONDS
        for one in self._participants:
            one.looked_up.wait(max(0.0, until - time.monotonic()))

    def _keep_found(self, one: Participant) -> None:
        one.find()
        while not self._stopping.wait(_LOOK_UP_SECONDS):
            one.find()
