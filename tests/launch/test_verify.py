"""`rattle verify-determinism` as a user meets it, with small processes in the place of services."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from rattle.launch import verify as verify_module
from rattle.launch.verify import LOCKSTEP_SNAKES, Trial, verify
from rattle.launch.verify_report import VerifyReport
from rattle.launch.verify_view import QuietView, Reporter
from rattle.settings.sources import check_settings, load_settings
from tests.launch.test_processes import PATIENCE, wait_for_end
from tests.launch.test_up import begin_with_fakes, ended
from tests.template import RattleProcess

pytestmark = pytest.mark.integration

FEW = ("--ticks", "200")


def begin(
    *arguments: str | Path, cwd: Path, stderr: int = subprocess.PIPE, ways: dict[str, list[str]], **variables: str
) -> RattleProcess:
    """Start the command; its temporary folders are made below `cwd`/tmp."""
    (cwd / "tmp").mkdir(exist_ok=True)
    variables["TMPDIR"] = str(cwd / "tmp")
    return begin_with_fakes("verify-determinism", *arguments, cwd=cwd, ways=ways, stderr=stderr, **variables)


def run(*arguments: str | Path, cwd: Path, **ways: list[str]) -> tuple[int, str, str]:
    process = begin(*arguments, cwd=cwd, ways=ways)
    out, err = ended(process)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def kept(folder: Path) -> list[Path]:
    return list((folder / "tmp").glob("rattle-verify-*"))


def configured(run_directory: Path) -> dict[str, Any]:
    return load_settings(run_directory / "config.yaml").model_dump()


def test_runs_that_agree_are_said_to_and_leave_nothing(tmp_path: Path) -> None:
    status, out, err = run(*FEW, cwd=tmp_path)
    assert (status, err) == (0, "")
    one, other, verdict, history, policy = out.splitlines()
    assert one.startswith("run 1: 200 ticks in 0:0")
    assert other.startswith("run 2: 200 ticks in 0:0")
    assert "4 inference, loss 20%, 200 datagrams repeated" in one
    assert verdict == "All 2 runs agree."
    assert history.split()[1][:12] in one
    assert history.split()[1][:12] in other
    assert policy == f"policy {'0' * 64}"
    assert kept(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


def test_the_first_difference_is_named_and_the_runs_are_kept(tmp_path: Path) -> None:
    status, out, err = run(*FEW, "--runs", "3", cwd=tmp_path, sync=["differs in run-2"])
    assert (status, err) == (1, "")
    *_, verdict, first, agent, where = out.splitlines()
    assert verdict == "The runs do not agree."
    assert first == "The first difference is in tick 7, phase step, as the worlds say:"
    assert agent == "  agent main-1 is 0000000000000702 in runs 1 and 3, ffffffff00000007 in run 2"
    (folder,) = kept(tmp_path)
    assert where == f"the runs are kept in {folder}"
    assert sorted(path.name for path in folder.iterdir()) == ["run-1", "run-2", "run-3"]


def test_json_is_one_object_with_everything(tmp_path: Path) -> None:
    differ = ("--inference", "1,2,4", "--loss", "0.5", "--delay", "0.01", "--json", "--keep", "runs")
    status, out, err = run(*FEW, *differ, cwd=tmp_path, sync=["differs in run-3"])
    assert (status, err) == (1, "")
    report = json.loads(out)
    assert (report["agree"], report["kept"], report["different_policies"]) == (False, "runs", {})
    assert [one["inference"] for one in report["runs"]] == [1, 2, 4]
    assert [one["run"] for one in report["runs"]] == [1, 2, 3]
    for one in report["runs"]:
        assert (one["ticks"], one["loss"], one["delay_seconds"]) == (200, 0.5, 0.01)
        assert (one["policies"]["main"]["updates"], one["restarts"], one["faults"]) == (5, 0, [])
        assert one["datagrams"] == {"sent": 600, "repeated": 200}
        assert set(one["histories"]) == {"env-0", "main-0", "main-1"}
        assert one["ticks_per_second"] > 0
    same, also, other = (one["history_sha256"] for one in report["runs"])
    assert same == also != other
    assert report["difference"]["tick"] == 7
    assert report["difference"]["phase"] == "step"
    assert report["difference"]["worlds"] == {}
    assert report["difference"]["agents"] == {"main-1": ["0000000000000702"] * 2 + ["ffffffff00000007"]}


def test_every_run_is_what_was_asked_for(tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("name: mine\nseed: 5\nsync: {mode: pace, frequency: 3}\ntrain: {steps: 7, seconds: 1}\n")
    asked = ("--inference", "2", "--set", "env.width=9", "--keep", "runs")
    status, out, err = run(experiment, *FEW, *asked, cwd=tmp_path)
    assert (status, err) == (0, "")
    assert out.endswith("the runs are kept in runs\n")
    one, other = (configured(tmp_path / "runs" / name) for name in ("run-1", "run-2"))
    assert one == other
    assert (one["name"], one["seed"], one["env"]["width"], one["topology"]["inference"]) == ("mine", 5, 9, 2)
    assert (one["train"]["steps"], one["train"]["seconds"]) == (None, None)
    sync = one["sync"]
    assert (sync["mode"], sync["ticks"], sync["loss"], sync["frequency"]) == ("lockstep", 200, 0.2, None)
    assert 0 < sync["delay_seconds"] <= 0.01


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "env.colour=red"), "unknown key 'colour'"),
        (("--set", "env.id=gym:CartPole-v1"), "only snake can be played in lockstep, and env.id is 'gym:CartPole-v1'"),
        (("--set", "env_service.clock=turns"), "sync.mode is lockstep, but env_service.clock is not sync"),
        (("--set", "env.url=http://127.0.0.1:1"), "leave env.url out"),
        (("--inference", "1,0"), "0 is not in the range 1<=x<=64"),
        (("--runs", "1"), "1 is not in the range x>=2"),
    ],
)
def test_what_cannot_be_run_is_exit_status_2_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = run(*arguments, cwd=tmp_path)
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert words in last
    assert kept(tmp_path) == []


def test_a_run_that_fails_is_one_line_that_says_where_it_is(tmp_path: Path) -> None:
    status, out, err = run("--ticks", "1000000", "--json", "--inference", "1", cwd=tmp_path, inference=["refuse"])
    assert (status, out) == (2, "")
    (folder,) = kept(tmp_path)
    last = err.splitlines()[-1]
    assert last == f"Error: inference-0 cannot start: env.width: must be larger (the runs are kept in {folder})"


def test_runs_that_are_there_already_are_not_touched(tmp_path: Path) -> None:
    assert run(*FEW, "--keep", "runs", cwd=tmp_path)[0] == 0
    before = (tmp_path / "runs" / "run-1" / "history.jsonl").read_bytes()
    status, _, err = run(*FEW, "--keep", "runs", cwd=tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    assert "runs/run-1 holds a run already" in err
    assert (tmp_path / "runs" / "run-1" / "history.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = begin("--ticks", "1000000", cwd=tmp_path, ways={})
    logs: list[Path] = []
    deadline = time.monotonic() + PATIENCE
    while not logs or b"service_ready" not in logs[0].read_bytes():
        assert time.monotonic() < deadline
        logs = list((tmp_path / "tmp").glob("rattle-verify-*/run-1/logs/up.jsonl"))
        time.sleep(0.02)
    rows = [json.loads(json.loads(line)["fields"]) for line in logs[0].read_text().splitlines()]
    os.killpg(process.pid, number)  # as a terminal sends it: to the whole group
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (128 + number, "")
    assert err == f"stopped by {number.name}: the runs were not compared\n"
    assert kept(tmp_path) == []
    for row in rows:
        if "service_pid" in row:
            wait_for_end(row["service_pid"])


class Interrupted(Reporter):
    """Ctrl-C comes when no run is in progress."""

    def begin(self, number: int, runs: int, ticks: int) -> QuietView:
        raise KeyboardInterrupt


def test_ctrl_c_between_runs_is_as_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert verify(None, [], {}, Trial(2, 200, 0.0, 0.0), None, Interrupted(as_json=False)) == 130
    assert capsys.readouterr() == ("", "stopped by SIGINT: the runs were not compared\n")
    assert list(tmp_path.iterdir()) == []


def test_runs_that_differ_are_kept_whatever_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Differs(VerifyReport):
        agree = False

    class InterruptedAtTheEnd(Reporter):
        def conclude(self, report: VerifyReport, kept: Path | None) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(verify_module, "_run_all", lambda *_: Differs([]))
    with pytest.raises(KeyboardInterrupt):
        verify(None, [], {}, Trial(2, 200, 0.0, 0.0), None, InterruptedAtTheEnd(as_json=False))
    assert len(list(tmp_path.iterdir())) == 1


def test_in_a_terminal_it_says_how_far_it_is(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = begin("--ticks", "600", cwd=tmp_path, ways={}, stderr=theirs, **terminal)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert b"run 1 of 2: " in shown
    assert b"of 600, 400 ticks/s, 7 of 7 services ready" in shown
    assert b"run 2 of 2: " in shown
    assert out.splitlines()[2] == "All 2 runs agree."


def test_inference_processes_are_taken_in_turn() -> None:
    trial = Trial(5, 10, 0.1, 0.0, (1, 2, 4))
    counts = [trial.overrides(number)[-1] for number in range(1, 6)]
    assert counts == [f"topology.inference={count}" for count in (1, 2, 4, 1, 2)]
    assert not any("topology.inference" in change for change in Trial(2, 10, 0.1, 0.0).overrides(1))


def test_the_default_is_the_experiment_that_is_shipped() -> None:
    shipped = Path(__file__).parents[2] / "shared" / "experiments" / "snake-lockstep.yaml"
    assert load_settings(shipped) == check_settings(LOCKSTEP_SNAKES, "default")
