"""How long to wait for an answer before a datagram is sent again: RFC 6298 with exact samples. No clock."""

from __future__ import annotations

#: The shortest and the longest wait, in seconds; RFC 6298 would not go below a second, on networks that are shared.
LEAST_SECONDS, MOST_SECONDS = 0.005, 0.25
#: The first wait, before anything was measured.
_FIRST_SECONDS = 0.05
_GAIN, _VARIATION_GAIN, _VARIATIONS = 1 / 8, 1 / 4, 4
#: Attempts of a message whose times are remembered.
_REMEMBERED = 16


class RoundTrips:
    """The mean round trip to one peer and its variation, in seconds."""

    __slots__ = ("_first_wait", "mean", "variation")

    def __init__(self) -> None:
        self.mean = 0.0
        self.variation = 0.0
        self._first_wait = _FIRST_SECONDS

    def add(self, seconds: float) -> None:
        """Take a sample (RFC 6298, section 2)."""
        if self.mean:
            self.variation += _VARIATION_GAIN * (abs(self.mean - seconds) - self.variation)
            self.mean += _GAIN * (seconds - self.mean)
        else:
            self.mean, self.variation = seconds, seconds / 2
        self._first_wait = min(MOST_SECONDS, max(LEAST_SECONDS, self.mean + _VARIATIONS * self.variation))

    def back_off(self) -> None:
        """Wait twice as long until the next sample (RFC 6298, 5.5): repetitions do not tell how long a trip takes."""
        self._first_wait = min(MOST_SECONDS, 2 * self._first_wait)

    def wait(self, attempt: int = 1) -> float:
        """Return how long to wait after the attempt of this number, from 1; waits double."""
        if attempt == 1:
            return self._first_wait
        return min(MOST_SECONDS, self._first_wait * 2.0 ** min(attempt - 1, 16))


class Repeated:
    """A message that is sent again until it is answered: when the next attempt is due, and when the others were."""

    __slots__ = ("_sent_at", "attempt", "due", "round_trips")

    def __init__(self, round_trips: RoundTrips) -> None:
        self.round_trips = round_trips
        self.attempt = 0
        self.due = float("inf")
        self._sent_at: dict[int, float] = {}

    def begin(self) -> None:
        """Go on to another message."""
        self.attempt = 0
        self._sent_at.clear()

    def sent(self, now: float) -> int:
        """Note that the message goes out, and return the number of the attempt."""
        self.attempt += 1
        self._sent_at[self.attempt] = now
        if len(self._sent_at) > _REMEMBERED:
            del self._sent_at[next(iter(self._sent_at))]
        self.due = now + self.round_trips.wait(self.attempt)
        return self.attempt

    def answered(self, attempt: int, now: float) -> float | None:
        """Note an answer to an attempt, 0 if it is not known which; the message is not sent again.

        Returns the round trip in seconds, None where it is not known.
        """
        self.due = float("inf")
        sent_at = self._sent_at.get(attempt)
        if sent_at is None:
            return None
        self.round_trips.add(now - sent_at)
        return now - sent_at

    def rest(self) -> None:
        """Send the message no more: its answer will come in time."""
        self.due = float("inf")
