"""What the launcher is made of: messages, sparklines, text logs, standings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rattle.events import EVENTS, Event, LogEntry
from rattle.events.of_services import Error, Output, PortTaken
from rattle.launch.notes import Messages, Warnings
from rattle.launch.run_status import RunStatus
from rattle.launch.sparkline import Sparkline
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


def entry(event: Event, message: str = "", **more: object) -> str:
    """Return the line that a service writes of an event."""
    fields = {**event.fields(), **more}
    line = LogEntry("2026-01-02", event.level, "env-0", event.name, message or str(event), "", "", "here", 7, fields)
    return line.line().decode()


def taken(messages: Messages, *lines: str) -> list[Event]:
    return [note.event for note in map(messages.take, lines) if note is not None]


def test_a_traceback_is_its_last_line() -> None:
    messages = Messages("env-0")
    assert taken(messages, *CHAINED.splitlines()) == [Output(line="KeyError: 'a'"), Output(line="OSError: gone")]
    assert messages.last == Output(line="OSError: gone")


@pytest.mark.parametrize("end", [Error(error="env.width: too small"), PortTaken(error="port 5000 is taken")])
def test_why_a_process_ends_is_told_with_its_end_only(end: Event) -> None:
    messages = Messages("env-0")
    assert taken(messages, "waiting", "", entry(end)) == [Output(line="waiting")]
    assert messages.last == end


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_events_are_read_as_they_were_written_whatever_their_wording(kind: type[Event]) -> None:
    event = example(kind)
    note = Messages("env-0").take(entry(event, message="another wording", traceback="Traceback …"))
    if event.level == "INFO" or isinstance(event, Error | PortTaken):
        assert note is None
    else:
        assert note is not None
        assert note.event == event
        assert note.said is not None
        assert note.said.fields["traceback"] == "Traceback …"


def example(kind: type[Event]) -> Event:
    """Return an event of a kind, with some value in each field."""
    values = {int: 7, float: 7.5, str: "a\x1b[31m\nb", tuple[str, str]: ("a", "b"), tuple[str, ...]: ("a", "b")}
    fields = {field.name: next((values[of] for of in values if field.type == of), 7) for field in structs.fields(kind)}
    optional = {field.name: None for field in structs.fields(kind) if not field.required}
    return kind(**{**fields, **optional})


def test_an_event_of_another_version_or_of_a_user_is_told_in_its_own_words() -> None:
    line = LogEntry("2026-01-02", "WARNING", "env-0", "my_event", "the \x07 arm broke", "", "", "", 7, {"a": 1}).line()
    note = Messages("env-0").take(line.decode())
    assert note is not None
    assert note.sentence == "env-0: my_event: the arm broke"


@pytest.mark.parametrize("line", ['{"time":', '{"time":"x"}', '{"text": "x"}', "[]", "plain \x07 text"])
def test_other_lines_are_warnings_of_their_own(line: str) -> None:
    note = Messages("env-0").take(line)
    assert note is not None
    assert note.event == Output(line=one_line(line))


def test_two_notes_of_the_same_text_are_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    warnings, messages = Warnings(), Messages("env-0")
    for _ in range(2):
        note = messages.take("no answer")
        assert note is not None
        warnings.print(note)
    assert capsys.readouterr().err == "env-0: no answer\n"


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


@pytest.mark.parametrize(
    ("state", "steps", "now", "seconds"),
    [
        ("finished", None, 300.0, 290.0),
        ("finished", None, 40.0, None),  # it has learnt a moment ago
        ("running", None, 300.0, None),  # somebody stopped it
        ("finished", 700, 300.0, None),  # it has all its steps
        ("finished", 800, 300.0, 290.0),
    ],
)
def test_a_run_whose_seconds_went_by_without_learning_was_in_vain(
    state: str, steps: int | None, now: float, seconds: float | None
) -> None:
    still = Stillness(0.0)
    still.look(700, 10.0)
    standing = RunStatus(("main",), RunLimits(steps, 300.0))
    standing.take("training-0", status(700, state), 10.0)
    assert standing.seconds_in_vain(still, now) == seconds


def test_a_run_without_a_limit_of_seconds_is_not_in_vain() -> None:
    still = Stillness(0.0)
    standing = RunStatus(("main",), RunLimits(None, None))
    standing.take("training-0", status(700, "finished"), 10.0)
    assert standing.seconds_in_vain(still, 300.0) is None


def test_stillness_is_said_again_after_twice_as_long() -> None:
    still = Stillness(100.0)
    assert [now for now in range(100, 400) if still.look("same", float(now))] == [160, 220, 340]
    assert still.seconds(399.0) == 299.0
    assert still.is_unusual(399.0)
    assert not still.look("moved", 400.0)
    assert still.seconds(401.0) == 1.0
    assert not still.is_unusual(1000.0), "it has stood still for as long before"
    assert still.is_unusual(1400.0)
