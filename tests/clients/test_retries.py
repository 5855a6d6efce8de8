"""Attempts that are made until they work."""

from __future__ import annotations

import asyncio

import pytest

from rattle.clients.errors import (
    BadAnswer,
    ClientError,
    ConnectionBroken,
    NotSent,
    NotTrusted,
    RequestRefused,
    RunOver,
)
from rattle.clients.retries import believed, persevere


class Attempt:
    """Fails in some ways, one after the other, and then works."""

    def __init__(self, *failures: Exception) -> None:
        self.made = 0
        self._failures = failures

    async def __call__(self) -> str:
        self.made += 1
        if self.made <= len(self._failures):
            raise self._failures[self.made - 1]
        return "done"


def test_what_may_go_away_is_tried_until_it_has_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    attempt = Attempt(*[NotSent(f"nobody there, {number}") for number in range(4)])
    assert asyncio.run(persevere(attempt)) == "done"
    assert attempt.made == 5
    assert [record.message for record in caplog.records] == ["nobody there, 1: trying again until it works"]


def test_that_tls_is_in_the_way_is_said_after_a_server_was_away_and_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempt = Attempt(*[NotSent("nobody there")] * 2, *[NotTrusted("not trusted")] * 2, *[NotSent("away again")] * 2)
    assert asyncio.run(persevere(attempt)) == "done"
    assert [record.message.partition(":")[0] for record in caplog.records] == ["nobody there", "not trusted"]


def test_that_a_run_is_over_is_said_after_a_server_was_away(caplog: pytest.LogCaptureFixture) -> None:
    attempt = Attempt(*[NotSent("nobody there")] * 2, *[RunOver("the run has failed")] * 2)
    assert asyncio.run(persevere(attempt)) == "done"
    assert caplog.records[-1].message == "the run has failed: waiting until the run is continued"
    assert len(caplog.records) == 2


@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_does_not_go_away_is_raised(before: int) -> None:
    attempt = Attempt(*[NotSent("nobody there")] * before, BadAnswer("nonsense"))
    with pytest.raises(BadAnswer, match="nonsense"):
        asyncio.run(persevere(attempt))
    assert attempt.made == before + 1


def test_who_calls_decides_what_may_go_away() -> None:
    attempt = Attempt(BadAnswer("nonsense"), BadAnswer("nonsense"))
    assert asyncio.run(persevere(attempt, lambda error: isinstance(error, ClientError))) == "done"


def test_it_ends_when_it_is_cancelled() -> None:
    attempt = Attempt(*[NotSent("nobody there")] * 1000)

    async def cancel() -> None:
        trying = asyncio.create_task(persevere(attempt))
        while attempt.made < 3:
            await asyncio.sleep(0.01)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying

    asyncio.run(cancel())
    assert attempt.made < 1000


def test_what_is_final_is_believed_when_it_was_said_three_times_in_a_row() -> None:
    said, closed = iter(["no", "nu", "no", "no", "no", "never asked"]), []

    def ask() -> str:
        raise RequestRefused(next(said), 404)

    with pytest.raises(RequestRefused, match=r"^no$"):
        believed(ask, lambda: closed.append(1))
    assert next(said) == "never asked"
    assert len(closed) == 4


def test_a_refusal_whose_text_changes_each_time_is_believed_in_the_end() -> None:
    said, closed = iter(range(1000)), []

    def ask() -> str:
        raise RequestRefused(f"no such path, request {next(said)}", 404)

    with pytest.raises(RequestRefused, match=r"^no such path, request 8$"):
        believed(ask, lambda: closed.append(1))
    assert len(closed) == 8


def test_a_damaged_refusal_is_no_refusal() -> None:
    answers: list[Exception | str] = [RequestRefused("wrong path", 404), "answer"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert believed(ask, lambda: None) == "answer"


@pytest.mark.parametrize(
    "error", [RequestRefused("the environment failed", 500), ConnectionBroken("gone"), NotTrusted("no")]
)
def test_failures_and_what_may_go_away_are_passed_on_at_once(error: ClientError) -> None:
    asked = []

    def ask() -> str:
        asked.append(1)
        raise error

    with pytest.raises(type(error)):
        believed(ask, lambda: None)
    assert len(asked) == 1
