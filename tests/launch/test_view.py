"""The live view: what it says, that it fits, and that it is drawn in a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, Group

from rattle.events import LogEntry, of_launch, of_services
from rattle.launch.notes import Note, note
from rattle.launch.plan import plan
from rattle.launch.supervisor import Supervisor
from rattle.launch.ticking import Ticks
from rattle.launch.view import LiveView, Picture, _how_to_ask, choose_view
from rattle.runs.progress import Progress, Summary
from rattle.services.utils.protos.training_pb2 import PolicyStatus
from rattle.settings.sources import load_settings
from rattle.tls import TlsFiles, keep_tls
from rattle.tokens import make_token
from tests.launch.test_up import begin_with_fakes

HELLO = json.dumps({"url": "http://127.0.0.1:50123", "address": "127.0.0.1:50124", "grpc": "127.0.0.1:50125"})
METRICS = {"policy_loss": -0.01, "value_loss": 0.2, "entropy": 0.5}
PROGRESS = Progress(123_456_789, 3700.0, 432_100.5, 7531, 9999, 41.25, 800.0, METRICS, 0.5, 600.0)


def scene(*overrides: str) -> Supervisor:
    """Return services in every state: ready, killed and back, dead, starting."""
    core = Supervisor(plan(load_settings(None, ["topology.env=3", *overrides]), Path("config.yaml")))
    core.begin(0.0)
    for name, life in (("env-0", 1), ("env-1", 1), ("env-2", 1), ("training-0", 1)):
        core.started(name, life, 4_194_304)
        core.said(name, life, HELLO, 0.0)
    core.exited("env-1", 1, -9, "", 1.0)
    core.exited("env-2", 1, -9, "", 2.0)
    core.wake(1.5)
    core.started("env-1", 2, 77)
    return core


def said(service: str, line: str) -> Note:
    """Return what is noted of a line that a service has written."""
    entry = LogEntry("", "WARNING", service, "output", line, "", "", "", 0, {})
    return Note(service, of_services.Output(line=line), "WARNING", entry)


def drawn(view: LiveView, picture: Picture, width: int) -> list[str]:
    console = Console(width=width, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print(Group(*view._parts(picture)))
    console.file.close()
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_and_shows_every_state(width: int) -> None:
    policies = {"main": PolicyStatus(policy_id="main", status="running", policy_age=1.25)}
    view = LiveView()
    view.note(said("inference-0", "no answer " * 30))
    for number in range(1000):
        view._returns.add(float(number))
    picture = Picture(PROGRESS, policies, tuple(scene().services.values()), stopping=False, kills=3)
    lines = drawn(view, picture, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert len(lines) == 7 + 1 + 6 + 1 + 1, text
    for words in ("123,456,789", "432,10", "41.25", "1.25", "▁", "█", "killed on purpose: 3", "inference-0: no answer"):
        assert words in text
    states = {row.split()[0]: row.split()[1] for row in lines if re.match(r"(env|training|inference)-\d ", row)}
    assert states == {
        "env-0": "ready",
        "env-1": "restarting",
        "env-2": "restarting",
        "training-0": "ready",
        "inference-0": "starting",
    }


def test_before_anything_is_learnt_it_shows_the_services() -> None:
    picture = Picture(None, {}, tuple(scene().services.values()), stopping=False, kills=None)
    text = "\n".join(drawn(LiveView(), picture, 80))
    assert "waiting for the first update" in text
    assert "killed" not in text


@pytest.mark.parametrize("progress", [PROGRESS, None])
def test_ticks_are_shown_where_there_are_any(progress: Progress | None) -> None:
    policies = {"main": PolicyStatus(policy_id="main")}
    picture = Picture(progress, policies, (), stopping=False, kills=None, ticks=Ticks(123_456, 789.4))
    text = "\n".join(drawn(LiveView(), picture, 80))
    assert re.search(r"tick +123,456", text)
    assert re.search(r"ticks/s +789", text)


def test_each_of_several_policies_has_a_row() -> None:
    policies = {name: PolicyStatus(policy_id=name, status="running", policy_version=7) for name in ("hare", "fox")}
    text = "\n".join(drawn(LiveView(), Picture(PROGRESS, policies, (), stopping=False, kills=None), 80))
    assert re.search(r"^hare +running +7 +- +0\.00", text, re.MULTILINE)
    assert re.search(r"^fox +running", text, re.MULTILINE)


def test_stopped_services_do_not_look_as_if_they_came_back() -> None:
    core = scene()
    picture = Picture(PROGRESS, {"main": PolicyStatus()}, tuple(core.services.values()), stopping=True, kills=None)
    text = "\n".join(drawn(LiveView(), picture, 80))
    assert "restarting" not in text
    assert "stopping" in text
    assert "stopped" in text


def test_a_flood_of_warnings_is_shown_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    view = choose_view(as_json=False)
    for number in range(100):
        view.note(said("env-0", f"again {number}"))
    view.note(note(of_launch.ServiceDied(service="env-0", reason="ended by signal 9 (Killed)")))
    assert capsys.readouterr().out.splitlines() == ["env-0: again 0", "env-0: died: ended by signal 9 (Killed)"]


def test_in_a_terminal_it_is_drawn_over_itself_and_leaves_the_summary(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = ("up", "--steps", "50000", "--run-dir", "run")
    terminal = {"TERM": "xterm-256color", "COLUMNS": "80"}
    process = begin_with_fakes(*command, cwd=tmp_path, ways={}, stdout=theirs, stderr=theirs, **terminal)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    assert process.wait(timeout=240) == 0
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown.decode())
    for words in ("waiting for the first update", "policy age", "env-0", "ready", "stopped", "finished: 50,000 steps"):
        assert words in text
    assert shown.count(b"\x1b[1A") > 10
    assert shown.rstrip().endswith(b"stored in run")
    assert b"\x1b[?25h" in shown, "the cursor is shown again"


def test_old_figures_are_not_shown_as_present_ones() -> None:
    view, policies = LiveView(), {"main": PolicyStatus(policy_id="main")}
    picture = Picture(PROGRESS, policies, (), stopping=False, kills=None, still_seconds=14.2)
    for _ in range(3):
        view.update(picture)
    text = "\n".join(drawn(view, picture, 80))
    assert "standing still for 14 s" in text
    assert "432,10" not in text
    assert text.count("▁") == 1, "one state is one point"
    view.update(replace(picture, progress=replace(PROGRESS, updates=PROGRESS.updates + 1, mean_return=50.0)))
    assert "▁█" in "\n".join(drawn(view, picture, 80))
    view.finish(None)


def test_the_summary_says_why_it_has_fewer_steps(capsys: pytest.CaptureFixture[str]) -> None:
    view = choose_view(as_json=False)
    view.update(Picture(PROGRESS, {}, (), stopping=False, kills=None))
    summary = replace(Summary.of_nothing_yet("r", "runs/r"), env_steps=100)
    view.finish(summary)
    assert "123,456,789 steps were shown before" in capsys.readouterr().out


def test_how_to_ask_names_the_files_of_tls(tmp_path: Path) -> None:
    make_token(tmp_path / ".token")
    header = f'echo "Authorization: Bearer $(cat {tmp_path}/.token)"'
    try:
        keep_tls(TlsFiles())
        assert _how_to_ask(str(tmp_path)) == [f"ask its services with: {header} | curl -H @- URL"]
        keep_tls(TlsFiles("my certs/a.pem", "b.pem", "b.key"))
        said = f"ask its services with: {header} | curl --cacert 'my certs/a.pem' --cert b.pem --key b.key -H @- URL"
        assert _how_to_ask(str(tmp_path)) == [said]
    finally:
        keep_tls(None)
