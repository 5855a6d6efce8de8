"""A deleted run has gone, and what is not its own is still there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rattle.analytics import delete_run as deletion
from rattle.analytics.annotations import annotate
from rattle.analytics.delete_run import delete_run, size_of
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory, find_run, list_runs
from tests.analytics.build import make_run, update_row, write_rows


@pytest.fixture
def full(tmp_path: Path) -> RunDirectory:
    run = make_run(tmp_path / "runs")
    write_rows(run, "updates", [update_row(run, 1)])
    annotate(run, lambda said: said.with_note("x"))
    for name in ("checkpoints", "tensorboard", "service-logs", "steps"):
        (run.path / name).mkdir()
        (run.path / name / "file").write_bytes(bytes(100))
    for name in ("policy.safetensors", "policy-best.safetensors", "history-1.jsonl", "replay.gif", ".77.run.json"):
        (run.path / name).write_bytes(bytes(100))
    return run


def test_a_run_goes_with_its_directory(full: RunDirectory) -> None:
    assert size_of(full) > 900
    assert delete_run(full) == []
    assert not full.path.exists()
    assert list_runs(full.path.parent) == []


def test_what_is_not_its_own_stays(full: RunDirectory) -> None:
    (full.path / "code.py").write_text("mine")
    (full.path / "data").mkdir()
    assert delete_run(full) == ["code.py", "data"]
    assert sorted(path.name for path in full.path.iterdir()) == ["code.py", "data"]


def test_a_run_in_progress_is_refused(full: RunDirectory) -> None:
    with full.locked(), pytest.raises(AnalyticsError, match="is in progress"):
        delete_run(full)
    with full.launching(), pytest.raises(AnalyticsError, match="is in progress"):
        delete_run(full)
    assert full.run.exists()


def test_a_link_goes_with_what_it_leads_to(full: RunDirectory, tmp_path: Path) -> None:
    link = RunDirectory(tmp_path / "link")
    link.path.symlink_to(full.path)
    assert delete_run(link) == []
    assert not full.path.exists()
    assert not link.path.is_symlink()


def test_links_within_a_run_lead_to_what_stays(full: RunDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    (full.path / "episodes").symlink_to(other)
    assert delete_run(full) == []
    assert (other / "mine").exists()


def test_a_deletion_that_was_broken_off_can_be_repeated(full: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    real = deletion._delete

    def stop_at_the_settings(path: Path) -> None:
        if path == full.config:
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(deletion, "_delete", stop_at_the_settings)
    with pytest.raises(KeyboardInterrupt):
        delete_run(full)
    monkeypatch.undo()
    assert delete_run(find_run(str(full.path))) == []
