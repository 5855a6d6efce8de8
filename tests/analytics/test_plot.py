"""Learning curves are drawn from whatever a run has so far."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rattle.analytics.curves import smoothed
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.plot import _style, plot_learning_curves
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.updates import NUMBERS, read_evaluations, read_updates
from rattle.analytics.writer import storing
from tests.analytics.build import evaluation_row, make_run, update_row, write_rows


def trained(root: Path, name: str, updates: int) -> RunDirectory:
    run = make_run(root, name)
    if updates:
        write_rows(run, "updates", [update_row(run, version) for version in range(1, updates + 1)])
    return run


def test_updates_are_read_as_arrays_in_order(run: RunDirectory) -> None:
    path = write_rows(run, "updates", [update_row(run, version) for version in (3, 1, 2)])
    path.with_name("other.jsonl").write_bytes(path.read_bytes().splitlines(keepends=True)[0][:-30])
    curve = read_updates(run)
    assert tuple(curve) == NUMBERS
    assert curve["policy_version"].tolist() == [1, 2, 3]
    assert curve["env_steps"].tolist() == [8192, 16384, 24576]
    assert np.isnan(curve["mean_return"]).tolist() == [True, False, False]


@pytest.mark.parametrize("content", ['{"policy_version": 1}\n', "nonsense\n", '{"policy_version": "x"}\n'])
def test_damaged_updates_are_named(run: RunDirectory, content: str) -> None:
    run.table("updates").mkdir()
    (run.table("updates") / "w.jsonl").write_text(content)
    with pytest.raises(AnalyticsError, match=r"updates/w\.jsonl is damaged"):
        read_updates(run)


def test_several_runs_in_one_figure(tmp_path: Path) -> None:
    runs = [trained(tmp_path, name, updates) for name, updates in [("long", 60), ("short", 1), ("new", 0)]]
    output = tmp_path / "curves.png"
    plot_learning_curves(runs, output)
    with Image.open(output) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1560, 840)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(0x34, 0x65, 0xC0), (0xD1, 0x49, 0x5B), (0x2A, 0x9D, 0x8F)} <= colours


def test_text_says_which_run_is_which(tmp_path: Path) -> None:
    runs = [trained(tmp_path, name, updates) for name, updates in [("long", 30), ("new", 0)]]
    output = tmp_path / "curves.svg"
    plot_learning_curves(runs, output, "seconds")
    assert "<!-- long: mean return " in output.read_text()
    assert "<!-- new: no updates yet -->" in output.read_text()
    assert "<!-- seconds of training -->" in output.read_text()


@pytest.mark.parametrize("group_by", [(), ("seed",)])
def test_evaluations_are_dots_beside_the_learning_curve(tmp_path: Path, group_by: tuple[str, ...]) -> None:
    run, output = trained(tmp_path, "run", 30), tmp_path / "curves.svg"
    write_rows(run, "evaluations", [evaluation_row(run, version) for version in (20, 10, 30)])
    assert read_evaluations(run)["policy_version"].tolist() == [10, 20, 30]
    plot_learning_curves([run], output, group_by=group_by)
    drawn = output.read_text()
    assert "<!-- mean return of the last 100 episodes (dots: of evaluations) -->" in drawn
    without = tmp_path / "without.svg"
    plot_learning_curves([trained(tmp_path, "other", 30)], without, group_by=group_by)
    dot = "fill: #3465c0; stroke: #2b2f36"
    assert (drawn.count(dot), without.read_text().count(dot)) == (3, 0)
    assert "<!-- mean return of the last 100 episodes -->" in without.read_text()


@pytest.mark.parametrize("kind", ["updates", "evaluations"])
def test_a_damaged_table_is_named(tmp_path: Path, kind: str) -> None:
    run = trained(tmp_path, "run", 3)
    write_rows(run, kind, [{"policy_version": "x"}])
    with pytest.raises(AnalyticsError, match=rf"{kind}/train\.jsonl is damaged"):
        plot_learning_curves([run], tmp_path / "curves.png")


def test_a_run_before_its_first_finished_episode(run: RunDirectory, tmp_path: Path) -> None:
    write_rows(run, "updates", [update_row(run, 1, mean_return=None, mean_episode_length=None)])
    plot_learning_curves([run], tmp_path / "curves.png")


def test_runs_without_updates_and_wrong_names_are_explained(tmp_path: Path) -> None:
    new = trained(tmp_path, "new", 0)
    with pytest.raises(AnalyticsError, match="nothing to plot: new has no updates yet"):
        plot_learning_curves([new], tmp_path / "curves.png")
    with pytest.raises(AnalyticsError, match="the name of a figure ends in"):
        plot_learning_curves([new], tmp_path / "curves.xls")
    with pytest.raises(AnalyticsError, match=r"cannot write .*no/such/curves\.png: there is no folder"):
        plot_learning_curves([trained(tmp_path, "old", 2)], tmp_path / "no" / "such" / "curves.png")


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS])
def test_another_place_is_suggested_where_nothing_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refusing(path: Path) -> AbstractContextManager[Path]:
        with storing(path):
            raise OSError(reason, os.strerror(reason))

    old = trained(tmp_path, "old", 2)
    monkeypatch.setattr("rattle.analytics.writer.replacing", refusing)
    with pytest.raises(AnalyticsError, match=r"cannot write .*/curves\.png: .*; choose another place with --output"):
        plot_learning_curves([old], tmp_path / "curves.png")


def test_smoothing_keeps_a_constant_and_passes_gaps() -> None:
    np.testing.assert_allclose(smoothed(np.full(50, 3.0), 10), 3.0)
    np.testing.assert_allclose(smoothed(np.array([1.0, np.nan, 1.0]), 3), [1.0, np.nan, 1.0])
    noisy = np.random.default_rng(0).normal(size=1000)
    assert smoothed(noisy, 40)[100:].std() < 0.3


def configured(root: Path, name: str, updates: int, returns: float, **settings: object) -> RunDirectory:
    run = make_run(root, name)
    run.config.write_text(yaml.safe_dump(settings))
    write_rows(run, "updates", [update_row(run, version, mean_return=returns) for version in range(1, updates + 1)])
    return run


def legend(picture: Path) -> list[str]:
    """Return the texts of the legend, which come last in an SVG."""
    texts = [line.strip()[5:-4] for line in picture.read_text().splitlines() if line.strip().startswith("<!-- ")]
    return [text for text in texts if "mean return " in text and "of the last" not in text]


def test_runs_that_differ_in_other_settings_only_are_averaged(tmp_path: Path) -> None:
    runs = [
        configured(tmp_path, f"r{seed}{rate}", updates, returns, seed=seed, algorithm={"learning_rate": rate})
        for seed, rate, updates, returns in [(1, 0.1, 30, 2.0), (2, 0.1, 30, 4.0), (1, 0.2, 30, 8.0)]
    ]
    output = tmp_path / "groups.svg"
    plot_learning_curves(runs, output, group_by=["algorithm.learning_rate"])
    assert legend(output) == [
        "learning_rate=0.1 (2 runs): mean return 3.00",
        "learning_rate=0.2 (1 run): mean return 8.00",
    ]


def test_a_mean_ends_where_fewer_than_half_of_the_runs_go_on(tmp_path: Path) -> None:
    returns = {"a": (60, 100.0), "b": (20, 1.0), "c": (20, 3.0)}
    runs = [configured(tmp_path, name, updates, value, seed=7) for name, (updates, value) in returns.items()]
    output = tmp_path / "groups.svg"
    plot_learning_curves(runs, output, group_by=["seed"])
    assert legend(output) == [f"seed=7 (3 runs): mean return {104 / 3:.2f}"]


def test_runs_are_labelled_by_settings(tmp_path: Path) -> None:
    runs = [
        configured(tmp_path, name, 5, 1.0, seed=seed, env={"size": [2, 3]})
        for name, seed in zip("abc", (1, 2, 2), strict=True)
    ]
    output = tmp_path / "labels.svg"
    plot_learning_curves(runs, output, label_by=["seed", "env.size"])
    assert [text.partition(": mean")[0] for text in legend(output)] == [
        "seed=1, size=[2, 3]",
        "seed=2, size=[2, 3] (b)",
        "seed=2, size=[2, 3] (c)",
    ]


@pytest.mark.parametrize("role", ["group_by", "label_by"])
def test_a_setting_that_no_run_has_is_explained(tmp_path: Path, role: str) -> None:
    run = configured(tmp_path, "a", 5, 1.0, algorithm={"learning_rate": 0.1})
    with pytest.raises(AnalyticsError, match=r"no run here has a setting 'algorithm\.learning_rat': did you mean"):
        plot_learning_curves([run], tmp_path / "x.svg", **{role: ["algorithm.learning_rat"]})


def test_links_keep_their_own_names(tmp_path: Path) -> None:
    run = configured(tmp_path, "20260102-snake-1", 5, 1.0, seed=1)
    (tmp_path / "baseline").symlink_to(run.path)
    output = tmp_path / "links.svg"
    plot_learning_curves([RunDirectory(tmp_path / "baseline")], output)
    assert legend(output) == ["baseline: mean return 1.00"]


def test_forty_runs_have_lines_of_their_own_and_room_for_the_curves(tmp_path: Path) -> None:
    assert len({(style["color"], str(style["linestyle"])) for style in (_style(n, 1.0) for n in range(40))}) == 40
    runs = [configured(tmp_path, f"run-{number}", 3, 1.0, seed=number) for number in range(30)]
    plot_learning_curves(runs, tmp_path / "many.png")
    with Image.open(tmp_path / "many.png") as picture:
        width, height = picture.size
    assert width == 1560
    assert 840 < height < 1.3 * 840


def test_a_run_is_drawn_once_under_all_its_names_and_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trained(tmp_path, "long", 5)
    trained(tmp_path, "other", 5)
    shutil.copytree(run.path, tmp_path / "copy")
    (tmp_path / "link").symlink_to(run.path)
    names = ("long", "copy", "other", "link", "long")
    plot_learning_curves([RunDirectory(tmp_path / name) for name in names], tmp_path / "curves.svg")
    assert [line.split(":")[0] for line in legend(tmp_path / "curves.svg")] == ["long", "other"]
    assert "copy is left out" in caplog.text
