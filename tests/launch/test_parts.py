"""What the launcher is made of: messages, sparklines, text logs, standings."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.events import Event, EventFormatter, event_line
from rattle.launch import text_log
from rattle.launch.run_status import RunStatus
from rattle.launch.sparkline import Sparkline
from rattle.launch.stderr import Messages
from rattle.launch.text_log import TextLog
from rattle.launch.ticking import Stillness
from rattle.runs.run_clock import RunLimits
from rattle.services.utils.protos import training_pb2
from rattle.text import one_line

CHAINED = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
OSError: gone
"""


def test_a_traceback_is_its_last_line() -> None:
    messages = Messages()
    taken = [event for event in map(messages.take, CHAINED.splitlines()) if event is not None]
    assert taken == [Event("warning", "KeyError: 'a'"), Event("warning", "OSError: gone")]
    assert messages.last == Event("warning", "OSError: gone")


def test_a_refusal_is_told_with_the_end_only() -> None:
    messages = Messages()
    said = [messages.take(line) for line in ("waiting", "", event_line("error", "env.width: too small"))]
    assert said == [Event("warning", "waiting"), None, None]
    assert messages.last == Event("error", "env.width: too small")


def test_events_are_read_as_they_were_written() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s\x1b[31m\nsaid", ("who",), None)
    record.event = "histories_disagree"
    (line,) = EventFormatter().format(record).splitlines()
    assert Messages().take(line) == Event("histories_disagree", "who [31m said")


def test_a_traceback_comes_with_its_event() -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise ValueError("x" * 9000)

    for depth in (0, 1):
        try:
            fail(depth)
        except ValueError:
            record = logging.LogRecord("x", logging.ERROR, "", 0, "a step failed", None, sys.exc_info())
        (line,) = EventFormatter().format(record).splitlines()
        event = Messages().take(line)
        assert event is not None
        assert (event.name, event.text) == ("warning", "a step failed")
        assert event.traceback.startswith("Traceback (most recent call last)")
        assert event.traceback.endswith("xxx")
        assert len(event.traceback) < 11_000


@pytest.mark.parametrize("line", ['{"event": 1', '{"event": "x"}', '{"text": "x"}', "[]", "plain \x07 text"])
def test_other_lines_are_warnings_of_their_own(line: str) -> None:
    assert Messages().take(line) == Event("warning", one_line(line))


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=2000), width=st.integers(2, 60))
def test_a_sparkline_is_as_wide_as_it_may_be_and_covers_the_whole_course(values: list[float], width: int) -> None:
    history = Sparkline(width)
    for value in values:
        history.add(value)
    line = history.line()
    assert len(line) <= width
    assert len(line) >= min(len(values), width // 2)
    assert set(line) <= set("▁▂▃▄▅▆▇█")


def test_the_tiniest_rise_is_one() -> None:
    history = Sparkline(8)
    for value in (0.0, 5e-324):
        history.add(value)
    assert history.line() == "▁█"


def test_a_sparkline_rises_with_its_values() -> None:
    history = Sparkline(8)
    for value in range(8 * 16 - 1):
        history.add(value)
    assert history.line() == "".join(sorted(history.line()))
    assert (history.line()[0], history.line()[-1]) == ("▁", "█")


def test_a_text_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_log, "MOST_BYTES", 1000)
    with TextLog(tmp_path / "logs" / "env-0.log") as log:
        for number in range(1000):
            log.write(b"%09d\n" % number)
    kept = (tmp_path / "logs" / "env-0.old").read_text() + (tmp_path / "logs" / "env-0.log").read_text()
    lines = list(map(int, kept.split()))
    assert lines == list(range(lines[0], 1000))
    assert len(kept) <= 2100


def status(env_steps: int, state: str = "running", speed: float = 1000.0, name: str = "main") -> training_pb2.Status:
    policy = training_pb2.PolicyStatus(
        policy_id=name, status=state, env_steps=env_steps, env_steps_per_second=speed, error="nan"
    )
    return training_pb2.Status(policies=[policy])


def test_the_seconds_of_a_command_count_from_the_first_progress() -> None:
    standing = RunStatus(("main",), RunLimits(None, 60.0))
    standing.take("training-0", status(500, speed=0.0), 10.0)  # as a checkpoint left it
    assert standing.seconds_left("training-0", 20.0) is None
    assert standing.progress(20.0) is None
    standing.take("training-0", status(600), 30.0)
    assert standing.seconds_left("training-0", 45.0) == 45.0
    progress = standing.progress(45.0)
    assert progress is not None
    assert (progress.fraction, progress.seconds_left) == (0.25, 45.0)
    assert standing.seconds_left("training-0", 1000.0) == 0.001


def test_a_service_that_has_come_back_and_learnt_nothing_yet_changes_no_figures() -> None:
    standing = RunStatus(("main",), RunLimits(1000, None))
    standing.take("training-0", status(0, speed=0.0), 0.0)
    standing.take("training-0", status(700), 1.0)
    standing.take("training-0", status(500, speed=0.0), 2.0)
    progress = standing.progress(3.0)
    assert progress is not None
    assert (progress.env_steps, progress.fraction) == (700, 0.7)
    assert progress.mean_return is None


def test_a_run_has_ended_when_all_its_policies_have() -> None:
    standing = RunStatus(("a", "b"), RunLimits(None, None))
    assert not standing.ended
    standing.take("training-0", status(1, "finished", name="a"), 0.0)
    assert not standing.ended
    standing.take("training-1", status(1, "running", name="b"), 0.0)
    assert not standing.ended
    standing.take("training-1", status(1, "failed", name="b"), 0.0)
    assert standing.ended
    assert standing.failure == "training of policy 'b' has failed: nan"


def test_stillness_is_said_again_after_twice_as_long() -> None:
    still = Stillness(100.0)
    assert [now for now in range(100, 400) if still.look("same", float(now))] == [160, 220, 340]
    assert still.seconds(399.0) == 299.0
    assert still.is_unusual(399.0)
    assert not still.look("moved", 400.0)
    assert still.seconds(401.0) == 1.0
    assert not still.is_unusual(1000.0), "it has stood still for as long before"
    assert still.is_unusual(1400.0)
