"""Tags and notes: written beside the run, by several at a time, also while it is in progress."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rattle.analytics.annotations import Annotations, annotate, read_annotations
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.query import rows
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.runs import directory_rows, row, table
from tests.analytics.build import make_run


def test_nobody_has_said_anything(run: RunDirectory) -> None:
    assert read_annotations(run) == Annotations()
    assert (row(run)["tags"], row(run)["note"], row(run)["archived"]) == ((), "", False)


def test_what_is_said_is_in_lists_and_queries_while_the_run_goes_on(tmp_path: Path) -> None:
    run, other = make_run(tmp_path, "a", status="running"), make_run(tmp_path, "b")
    before = run.run.read_bytes()
    with run.locked():
        annotate(run, lambda said: said.with_tags(["good", "x"]).with_note("first\nsecond").with_archived(True))
        annotate(run, lambda said: said.with_tags(["good", "new"], ["x"]))
        assert row(run)["status"] == "running"
    assert run.run.read_bytes() == before
    [found] = rows("SELECT run_id, note FROM runs WHERE has(tags, 'good') AND archived", [run, other])
    assert found == {"run_id": "a", "note": "first\nsecond"}
    assert "tags" in table(directory_rows([run, other]))
    assert "good, new, (archived)" in table(directory_rows([run, other]))


def test_old_runs_say_nothing_of_where_they_began(run: RunDirectory) -> None:
    [found] = rows("SELECT host, command, git_commit, git_dirty, length(packages) AS packages FROM runs", [run])
    assert found == {"host": "", "command": "", "git_commit": "", "git_dirty": None, "packages": 0}


def test_nothing_is_lost_where_several_speak_at_once(run: RunDirectory) -> None:
    names = [f"tag-{number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: annotate(run, lambda said: said.with_tags([name])), names))
    assert sorted(read_annotations(run).tags) == sorted(names)


@pytest.mark.parametrize("tag", ["", "a b", "a,b", "a\nb", "\x1b[2J", "x" * 65])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(AnalyticsError, match="cannot be a tag") as refused:
        Annotations().with_tags([tag])
    assert str(refused.value).isprintable()


def test_there_are_bounds() -> None:
    with pytest.raises(AnalyticsError, match="at most 64 tags"):
        Annotations().with_tags(map(str, range(65)))
    with pytest.raises(AnalyticsError, match="at most 10,000 characters"):
        Annotations().with_note("x" * 10_001)


@pytest.mark.parametrize("content", [b"", b"{", b'{"tags": 3}', b"\xff"])
def test_a_damaged_file_hides_no_run_and_is_not_overwritten(run: RunDirectory, content: bytes) -> None:
    run.annotations.write_bytes(content)
    assert row(run)["tags"] == ()
    assert run.path.name in table(directory_rows([run]))
    with pytest.raises(AnalyticsError, match=r"annotations\.json is damaged"):
        annotate(run, lambda said: said.with_note("new"))
    assert run.annotations.read_bytes() == content
