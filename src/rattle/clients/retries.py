"""How often, and for how long, clients try again: once, for all of them."""

from __future__ import annotations

from collections.abc import Callable

import tenacity

from rattle.clients.errors import ConnectionBroken, Refused

#: The first and the longest wait between two tries, in seconds; the waits double, and vary by as much as the first.
FIRST_WAIT = 0.05
LONGEST_WAIT = 2.0


def is_temporary(error: BaseException) -> bool:
    """Whether an error may go away by itself."""
    return isinstance(error, ConnectionBroken) or (isinstance(error, Refused) and error.is_temporary)


def retrying(seconds: float, retry_on: Callable[[BaseException], bool] = is_temporary) -> tenacity.Retrying:
    """Return a retrying caller that gives up after `seconds` and raises what it met last."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(retry_on),
        wait=tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )


def retrying_async(seconds: float, retry_on: Callable[[BaseException], bool] = is_temporary) -> tenacity.AsyncRetrying:
    """Return the same for coroutines."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(retry_on),
        wait=tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )
