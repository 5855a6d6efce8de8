"""`rattle runs` as a user meets it: the list, and what changes runs."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rattle.analytics.run_directory import RunDirectory
from rattle.cli import main
from tests.analytics.build import make_run
from tests.template import RattleProcess
from tests.trainer.conftest import rattle


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunDirectory]:
    monkeypatch.chdir(tmp_path)
    return [make_run(Path("runs"), "aa1"), make_run(Path("runs"), "bb2")]


def call(command: str, **more: str) -> Result:
    return CliRunner().invoke(main, ["runs", *shlex.split(command)], **more)


def listed(command: str = "") -> list[str]:
    return [json.loads(line)["run_id"] for line in call(f"{command} --json").stdout.splitlines()]


@pytest.mark.usefixtures("two")
def test_runs_are_listed_without_a_command_wherever_they_are() -> None:
    assert listed() == listed("runs") == listed("list runs") == ["aa1", "bb2"]
    assert listed("runs/aa1") == ["aa1"]
    assert call("runs --json").stdout == call("--json runs").stdout
    assert "no runs in elsewhere/ yet" in call("elsewhere").stdout


@pytest.mark.usefixtures("two")
def test_a_mistyped_command_is_told_from_a_folder() -> None:
    done = call("tga")
    assert done.exit_code == 2
    assert "there is no folder tga, did you mean 'tag'?" in done.stderr
    Path("tga").mkdir()
    assert call("tga").exit_code == 0


def test_help_names_the_options_of_the_list_and_the_commands() -> None:
    shown = call("--help").stdout
    assert all(word in shown for word in ("--json", "--tag", "--all", "archive", "delete", "note", "[ROOT]"))


@pytest.mark.usefixtures("two")
def test_tags_are_given_taken_printed_and_searched() -> None:
    assert call("tag aa bb2 --add good --add x").stdout == "runs/aa1: good, x\nruns/bb2: good, x\n"
    assert call("tag aa1 -r x").stdout == "runs/aa1: good\n"
    assert call("tag aa1 bb2").stdout == "runs/aa1: good\nruns/bb2: good, x\n"
    assert (listed("--tag good"), listed("--tag good --tag x"), listed("--tag none")) == (["aa1", "bb2"], ["bb2"], [])
    assert call("--tag none").stderr == "none of the 2 runs in runs/ has the tags none\n"
    assert call("tag aa1 -r good").stdout == "runs/aa1: no tags\n"


@pytest.mark.usefixtures("two")
def test_runs_are_chosen_by_all_their_tags_and_archived_ones_where_they_are_wanted() -> None:
    make_run(Path("runs"), "cc3")
    call("tag aa1 cc3 --add x --add y")
    call("tag bb2 --add x")
    call("archive cc3")
    assert listed() == ["aa1", "bb2"]
    assert listed("--tag y --tag x") == ["aa1"]
    assert listed("--tag y --all") == ["aa1", "cc3"]


@pytest.mark.usefixtures("two")
def test_a_wrong_tag_changes_no_run() -> None:
    done = call("tag aa1 bb2 --add good --add 'not this'")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot be a tag" in done.stderr
    assert call("tag aa1").stdout == "runs/aa1: no tags\n"
    missing = call("tag aa1 cc3 --add good")
    assert "no run 'cc3'" in missing.stderr
    assert call("tag aa1").stdout == "runs/aa1: no tags\n"


@pytest.mark.usefixtures("two")
def test_notes_are_written_read_and_deleted() -> None:
    assert call("note aa1").stdout == "\n"
    assert call("note aa1 'twice the rate'").exit_code == 0
    assert call("note aa1").stdout == "twice the rate\n"
    call("note aa1 -", input="from a file\nwith two lines\n")
    assert call("note aa1").stdout == "from a file\nwith two lines\n"
    call("note aa1 ''")
    assert call("note aa1").stdout == "\n"


@pytest.mark.usefixtures("two")
def test_archived_runs_are_left_out_and_come_back() -> None:
    call("archive aa1")
    assert (listed(), listed("--all")) == (["bb2"], ["aa1", "bb2"])
    assert call("").stderr == "1 archived: --all lists them too\n"
    call("archive bb2")
    assert (call("").stdout, call("").stderr) == ("", "2 archived: --all lists them too\n")
    call("archive aa1 bb2 --undo")
    assert listed() == ["aa1", "bb2"]


def test_deleting_asks_first(two: list[RunDirectory]) -> None:
    refused = call("delete aa1", input="n\n")
    assert refused.exit_code == 1
    assert "Delete this run, 0.0 MB permanently? [y/N]" in refused.stdout
    assert call("delete aa1").exit_code == 1  # nobody answers
    assert two[0].is_run
    (two[1].path / "mine.txt").touch()
    done = call("delete aa1 bb2 aa1", input="y\n")
    assert done.stdout.endswith("deleted runs/aa1\ndeleted runs/bb2; kept what is not the run's: mine.txt\n")
    assert not two[0].path.exists()
    assert [path.name for path in two[1].path.iterdir()] == ["mine.txt"]


def test_nothing_is_deleted_where_one_of_the_runs_is_in_progress(two: list[RunDirectory]) -> None:
    with two[1].locked():
        done = call("delete aa1 bb2 --yes")
    assert (done.exit_code, done.stderr) == (1, "Error: runs/bb2 is in progress: stop it first, then delete it\n")
    assert two[0].is_run
    assert call("delete aa1 bb2 --yes").exit_code == 0
    assert listed("--all") == []


def test_a_real_run_in_progress_is_tagged_and_not_deleted(tmp_path: Path) -> None:
    command = ["train", "--json", "--run-dir", "run", "--set", "env.worlds=24", "--set", "policy.hidden_sizes=[16]"]
    process = RattleProcess(*command, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert rattle("runs", "tag", "run", "--add", "live", cwd=tmp_path).stdout == "run: live\n"
    assert "in progress" in rattle("runs", "delete", "run", "--yes", cwd=tmp_path).stderr
    process.terminate()
    process.communicate(timeout=60)
    [row] = rattle("runs", "run", "--tag", "live", "--json", cwd=tmp_path).stdout.splitlines()
    assert (json.loads(row)["status"], json.loads(row)["tags"]) == ("interrupted", ["live"])
    assert rattle("runs", "delete", "run", "--yes", cwd=tmp_path).stdout == "deleted run\n"
    assert not (tmp_path / "run").exists()
