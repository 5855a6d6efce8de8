"""Attempts that are made until they work."""

from __future__ import annotations

import asyncio

import pytest

from rattle.clients.errors import BadAnswer, ClientError, NotSent
from rattle.clients.retries import persevere


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
