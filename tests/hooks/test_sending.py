"""Hooks that send to other tools hold up no training, whatever the tool does."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from rattle.hooks import sending
from rattle.hooks.scalars import Scalars
from rattle.hooks.sending import Sending, SendingSettings
from rattle.settings.hook import RunInfo

RUN = RunInfo("id", Path("run"), 0, 0, {})


def update(version: int, **metrics: float) -> dict[str, Any]:
    common = {"time": "2026-01-02T03:04:05.000000+00:00", "mean_return": None, "entropy": 1.0}
    return {**common, "policy_version": version, "env_steps": version * 10, "metrics": metrics}


EVALUATION = {
    "time": "2026-01-02T03:04:06+00:00",
    "env_steps": 10,
    "mean_return": 3.0,
    "mean_episode_length": 5.0,
    "metrics": {"food": 2},
}


class Tool(Sending):
    tool = "a tool"

    def open(self, run: RunInfo) -> None:
        self.seen: list[tuple[Scalars, int, float]] = []
        self.closed: list[str] = []
        self.may_send = threading.Event()
        self.may_send.set()

    def send(self, scalars: Scalars, env_steps: int, seconds: float) -> None:
        self.may_send.wait(60)
        if "learning/wrong" in scalars:
            raise OSError("no network")
        self.seen.append((scalars, env_steps, seconds))

    def close(self, status: str) -> None:
        self.closed.append(status)


def started(every: float) -> Tool:
    tool = Tool(SendingSettings(every_seconds=every))
    tool.on_start(RUN)
    return tool


def test_rows_come_with_names_steps_and_times() -> None:
    tool = started(0)
    tool.on_update(update(1, approx_kl=0.5))
    tool.on_evaluation(EVALUATION)
    tool.on_end("finished")
    assert tool.seen == [
        ({"learning/entropy": 1.0, "learning/approx_kl": 0.5}, 10, 1767323045.0),
        (
            {"evaluations/mean_return": 3.0, "evaluations/mean_length": 5.0, "evaluations/mean_food": 2.0},
            10,
            1767323046.0,
        ),
    ]
    assert tool.closed == ["finished"]


def test_not_every_update_is_sent_but_the_last_is() -> None:
    tool = started(3600)
    for version in range(1, 6):
        tool.on_update(update(version))
    tool.on_end("interrupted")
    assert [steps for _, steps, _ in tool.seen] == [10, 50]


def test_a_tool_that_refuses_rows_is_said_once_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    tool = started(0)
    for version in range(1, 5):
        tool.on_update(update(version, **({"wrong": 1.0} if version in (2, 3) else {})))
    with caplog.at_level(logging.WARNING):
        tool.on_end("finished")
    assert [steps for _, steps, _ in tool.seen] == [10, 40]
    said = [record.getMessage() for record in caplog.records]
    assert sum("a tool takes no rows (OSError: no network)" in line for line in said) == 1
    assert "a tool has not taken 2 rows" in said[-1]


def test_a_tool_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sending, "_PATIENCE", 0.2)
    monkeypatch.setattr(sending, "_MOST_WAITING", 5)
    tool = started(0)
    tool.may_send.clear()
    for version in range(1, 31):
        tool.on_update(update(version))
    tool.on_end("finished")
    assert "has not taken" in caplog.records[-1].getMessage()
    assert tool.closed == []
    tool.may_send.set()
    tool._thread.join(60)
    assert len(tool.seen) <= 7
    assert tool.seen[-1][1] == 300  # the newest are kept


def test_updates_are_dropped_before_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_MOST_WAITING", 3)
    tool = started(0)
    tool.may_send.clear()
    for version in range(1, 31):
        tool.on_update(update(version))
        if version in (10, 11):
            tool.on_evaluation({**EVALUATION, "env_steps": version * 10})
    tool.may_send.set()
    tool.on_end("finished")
    assert [steps for _, steps, _ in tool.seen][-3:] == [100, 110, 300]
