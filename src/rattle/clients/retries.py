"""How often, and for how long, clients try again: once, for all of them."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import tenacity

from rattle.clients.errors import ClientError, ConnectionBroken, NotTrusted, RequestRefused, RunOver
from rattle.events import emit, of_runs, of_services

#: The first and the longest wait between two tries, in seconds; the waits double, and vary by as much as the first.
FIRST_WAIT = 0.05
LONGEST_WAIT = 2.0
_BACK_OFF = tenacity.wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT) + tenacity.wait_random(0, FIRST_WAIT)

#: How often a server must have said before what is final now.
_SAID_BEFORE = 2
#: How often a server is asked at most: the text of a refusal may have a time or a number in it, new each time.
_MOST_ASKED = 9

_Result = TypeVar("_Result")


def is_temporary(error: BaseException) -> bool:
    """Whether an error may go away by itself."""
    return isinstance(error, ConnectionBroken) or (isinstance(error, RequestRefused) and error.is_temporary)


def believed(attempt: Callable[[], _Result], close: Callable[[], None]) -> _Result:
    """Return the result of an attempt; what seems final is believed when the server says the same three times in a row.

    Nine refusals that differ are believed as well.
    A status, a path or a length that is damaged on the way makes a server refuse, or seem to refuse, what it takes.
    The attempt begins with a connection of its own, after `close`. That the server itself has failed is believed at
    once: its worlds are gone.
    """
    said: list[str] = []
    while True:
        try:
            return attempt()
        except ClientError as error:
            failed = isinstance(error, RequestRefused) and error.is_failure
            said.append(str(error))
            repeated = said[-_SAID_BEFORE - 1 :] == [str(error)] * (_SAID_BEFORE + 1)
            if failed or may_be_mended(error) or repeated or len(said) == _MOST_ASKED:
                raise
            close()


def may_be_mended(error: BaseException) -> bool:
    """Whether an error may go away by itself, or by what somebody does for a server, such as to renew a certificate."""
    return is_temporary(error) or isinstance(error, NotTrusted)


def retry_for(
    seconds: float, retry_on: Callable[[BaseException], bool] = is_temporary, stop: threading.Event | None = None
) -> tenacity.Retrying:
    """Return a retrying caller that gives up rather than try after `seconds`, and raises what it met last.

    It also gives up when `stop` is set.
    """
    policy = _policy(seconds, retry_on)
    if stop is not None:
        policy["stop"] = tenacity.stop_any(policy["stop"], tenacity.stop_when_event_set(stop))
        policy["sleep"] = tenacity.sleep_using_event(stop)
    return tenacity.Retrying(**policy)


def retrying_async(seconds: float, retry_on: Callable[[BaseException], bool] = is_temporary) -> tenacity.AsyncRetrying:
    """Return the same for coroutines."""
    return tenacity.AsyncRetrying(**_policy(seconds, retry_on))


def retry_forever(
    stop: threading.Event, retry_on: Callable[[BaseException], bool] = may_be_mended
) -> tenacity.Retrying:
    """Return a retrying caller that never gives up; once `stop` is set it raises what it met last."""
    return tenacity.Retrying(
        stop=tenacity.stop_when_event_set(stop), sleep=tenacity.sleep_using_event(stop), **_perseverance(retry_on)
    )


async def persevere(
    attempt: Callable[[], Awaitable[_Result]], retry_on: Callable[[BaseException], bool] = may_be_mended
) -> _Result:
    """Return the result of an attempt that is made until it works, or the task is cancelled."""
    try:
        return await attempt()  # nearly always: the library that tries again takes its time
    except Exception as error:
        if not retry_on(error):
            raise
    result: _Result = await tenacity.AsyncRetrying(**_perseverance(retry_on))(attempt)
    return result


def _perseverance(retry_on: Callable[[BaseException], bool]) -> dict[str, Any]:
    said: set[type] = set()  # kinds of errors: what users must act on is said after a server has been down, too

    def say_so_once(call: tenacity.RetryCallState) -> None:
        error = call.outcome.exception() if call.outcome is not None else None
        if error is not None and (not said or (isinstance(error, NotTrusted | RunOver) and type(error) not in said)):
            said.add(type(error))
            kind = of_runs.RunOver if isinstance(error, RunOver) else of_services.Retrying
            emit(kind(error=str(error)))

    return {
        "retry": tenacity.retry_if_exception(retry_on),
        "wait": _wait,
        "before_sleep": say_so_once,
        "reraise": True,
    }


def _policy(seconds: float, retry_on: Callable[[BaseException], bool]) -> dict[str, Any]:
    def say_so_once(call: tenacity.RetryCallState) -> None:
        if call.attempt_number == 1 and call.outcome is not None:
            emit(of_services.Retrying(error=str(call.outcome.exception()), seconds=seconds))

    return {
        "retry": tenacity.retry_if_exception(retry_on),
        "wait": _wait,
        "stop": tenacity.stop_before_delay(seconds),
        "before_sleep": say_so_once,
        "reraise": True,
    }


def _wait(call: tenacity.RetryCallState) -> float:
    """Wait longer after every try, and at least as long as the server asks for."""
    error = call.outcome.exception() if call.outcome is not None else None
    return max(_BACK_OFF(call), error.retry_after if isinstance(error, RequestRefused) else 0.0)
