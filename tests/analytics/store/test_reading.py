"""The same questions to run directories, to a store over HTTP and to one in a folder: they get the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from rattle.analytics.derived_views import VIEWS
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.plot import plot_learning_curves
from rattle.analytics.query import Bounds, Output, arrow, bounded, query, save
from rattle.analytics.replay import list_episodes, load_episode
from rattle.analytics.run_directory import RunDirectory, list_runs
from rattle.analytics.run_settings import described
from rattle.analytics.runs import directory_rows, json_lines, row, stored_rows, table
from rattle.analytics.schema import TABLES
from rattle.analytics.store import create_tables, open_store
from rattle.analytics.stored_runs import StoredRun, StoredRuns, opened_runs
from rattle.analytics.updates import read_evaluations, read_updates
from rattle.cli import main
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import (
    START,
    episode_row,
    evaluation_row,
    load_runs,
    make_run,
    record_snake,
    update_row,
    write_rows,
)
from tests.clickhouse import ClickHouse

Open = Callable[[], Any]


def _fill(run: RunDirectory, updates: int) -> None:
    rows = [update_row(run, version, metrics={"clip_fraction": version / 64}) for version in range(1, updates + 1)]
    write_rows(run, "updates", [{**rows[0], "policy_loss": None, "max_policy_age": None}, *rows[1:]])
    write_rows(run, "episodes", [episode_row(run, number) for number in range(5 * updates)])
    write_rows(run, "episodes", [episode_row(run, 5 * updates, metrics={}, terminated=False)])
    write_rows(run, "evaluations", [evaluation_row(run, version) for version in range(0, updates, 5)])
    events = [
        ("INFO", "training", {"rollouts_per_second": 8.5}),
        ("ERROR", "env", {"error": 'it\'s "broken"\n'}),
        ("error", "env", {}),
    ]
    common = {"time": START, "event": "happened", "experiment": "snake", "run_id": run.path.name, "host": "h", "pid": 7}
    logs = [
        {**common, "level": level, "service": name, "fields": str(msgspec.json.encode(own), "utf-8")}
        for level, name, own in events
    ]
    write_rows(run, "logs", logs)
    for episode in range(3):
        record_snake(run, SnakeSettings(max_steps=7 + episode), episode=episode, seed=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("it's-a", "b", "b2")):
        env = {"id": "snake", **SnakeSettings().model_dump()}
        config = {
            "name": "snake",
            "seed": number,
            "env": env,
            "algorithm": {"id": "a2c", "learning_rate": [0.1, "adaptive", 0.1][number], "net": {"layers": [64, 64]}},
        }
        known = {
            "config": config,
            "best_mean_return": 10.0 + number,
            "status": "running" if number == 1 else "finished",
        }
        _fill(make_run(folder, name, env=env, **known), 4 + 8 * number)
    return folder


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ClickHouse(tmp_path_factory.mktemp("store")) as server:
        load_runs(server.url, root)
        yield server.url


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"chdb://{tmp_path_factory.mktemp('folder')}/store"
    load_runs(url, root)
    return url


@pytest.fixture(scope="module", params=["served", "folder"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def _in_order(table: str) -> str:
    return f"SELECT * FROM {table} ORDER BY toString(tuple(*))"


QUESTIONS = (
    *(_in_order(table) for table in (*TABLES, *VIEWS)),
    *(f"DESCRIBE {table}" for table in (*TABLES, *VIEWS)),
    "SELECT policy_version, avg(food) FROM episodes GROUP BY 1 ORDER BY 1 LIMIT 5",
    "SELECT run_id, max(mean_return) FROM updates GROUP BY 1 ORDER BY 1",
    "SELECT run_id, config.algorithm.learning_rate AS rate, config.env.width FROM runs ORDER BY run_id",
    "SELECT e.run_id, r.status, count() FROM episodes e JOIN runs r USING (run_id) GROUP BY 1, 2 ORDER BY 1",
    "SELECT time, `return`, metrics['food'] FROM episodes WHERE run_id = 'it''s-a' AND terminated ORDER BY episode_id",
    "SELECT JSONExtractString(fields, 'error') FROM logs WHERE level = 'ERROR' ORDER BY run_id",
    "SELECT arraySum(observation), state != '' FROM steps WHERE run_id = 'b' ORDER BY world_episode, tick",
    "SELECT quantile(0.5)(value_loss), argMax(policy_version, mean_return) FROM updates",
    "SELECT max(time) - min(time) FROM episodes SETTINGS max_threads = 1",
    "SELECT count() > 0 FROM (EXPLAIN AST SELECT 1)",
    "SELECT 1 AS x FORMAT TSV",
)
MISTAKES = (
    "SELECT retrun FROM episodes",
    "SELECT fod FROM episodes",
    "SELECT 1 FROM episods",
    "SELECT count( FROM runs",
    "",
    "SELECT 1; SELECT 2",
    "INSERT INTO episodes (world) VALUES (1)",
    "DROP VIEW runs",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a String')",
    "SELECT 1 INTO OUTFILE 'x'",
    "SELECT throwIf(1, 'so be it')",
)


@pytest.fixture(scope="module")
def answers(root: Path) -> dict[str, str]:
    runs = list_runs(root)
    return {sql: query(sql, runs, "csv") for sql in QUESTIONS}


def test_questions(answers: dict[str, str], url: str) -> None:
    with opened_runs(url) as stored:
        assert {sql: query(sql, stored, "csv") for sql in QUESTIONS} == answers


@pytest.mark.parametrize("output", ["pretty", "json"])
def test_formats(root: Path, url: str, output: Any) -> None:
    sql = "SELECT * FROM updates WHERE run_id = 'b' ORDER BY policy_version LIMIT 3"
    expected = query(sql, list_runs(root), output)
    with opened_runs(url) as stored:
        assert query(sql, stored, output) == expected
        assert "SelectQuery" in query("EXPLAIN AST SELECT 1", stored, output)


def test_mistakes_are_told_alike(root: Path, url: str) -> None:
    def told(runs: Any) -> list[str]:
        answers = []
        for sql in MISTAKES:
            with pytest.raises(AnalyticsError) as raised:
                query(sql, runs)
            answers.append(str(raised.value))
        return answers

    expected = told(list_runs(root))
    with opened_runs(url) as stored:
        assert told(stored) == expected
        assert query("SELECT count() FROM episodes", stored, "csv") == '"count()"\n183\n'


def test_some_runs_only(root: Path, url: str) -> None:
    sums = "(SELECT count() FROM runs) AS runs, (SELECT count() FROM steps) AS steps"
    sql = f"SELECT {sums}, run_id, count() FROM updates GROUP BY run_id ORDER BY ALL"
    chosen = [RunDirectory(root / name) for name in ("it's-a", "b2")]
    expected, nothing = query(sql, chosen, "csv"), query(sql, [], "csv")
    with opened_runs(url) as stored:
        assert query(sql, stored.chosen(["it's", "b2"]), "csv") == expected
    with opened_runs(url) as stored:
        assert query(sql, stored.chosen([]), "csv") == nothing


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow"])
def test_answers_in_files_and_as_arrow(root: Path, url: str, tmp_path: Path, suffix: str) -> None:
    sql = _in_order("runs")
    here, there = tmp_path / f"here{suffix}", tmp_path / f"there{suffix}"
    save(sql, list_runs(root), here)
    expected = arrow(sql, list_runs(root))
    with opened_runs(url) as stored:
        save(sql, stored, there)
        assert arrow(sql, stored).to_pylist() == expected.to_pylist()
    assert suffix in (".parquet", ".arrow") or there.read_bytes() == here.read_bytes()


def test_bounded_questions_of_strangers(root: Path, url: str) -> None:
    bounds = Bounds(rows=3, seconds=20.0, memory_bytes=2**30)
    sql = "SELECT policy_version FROM updates WHERE run_id = 'b' ORDER BY 1"
    expected = msgspec.json.decode(bounded(sql, list_runs(root), bounds))
    with opened_runs(url) as stored:
        found = msgspec.json.decode(bounded(sql, stored, bounds))
        for wrong in ("SELECT 1 SETTINGS limit = 100", "SELECT * FROM file('/etc/passwd', LineAsString)"):
            with pytest.raises(AnalyticsError, match="leave out"):
                bounded(wrong, stored, bounds)
        assert query("SELECT number FROM numbers(5)", stored, "csv").count("\n") == 6
    assert found["meta"] == expected["meta"]
    assert found["data"] == expected["data"] == [["1"], ["2"], ["3"]] or found["data"] == [[1], [2], [3]]


def test_runs_are_found_as_in_a_folder(root: Path, url: str) -> None:
    with opened_runs(url) as stored:
        assert stored.find("it").run_id == "it's-a"
        assert stored.find("b").run_id == "b"
        assert stored.find("latest").run_id == "it's-a"
        for name, said in (("x", "no run 'x' in "), ("", r"is the beginning of 3 runs \(b, b2, it's-a\): type more")):
            with pytest.raises(AnalyticsError, match=said):
                stored.find(name)


def test_lists_of_runs(root: Path, url: str) -> None:
    runs = sorted(list_runs(root), key=lambda run: run.path.name)
    expected = [{**row(run), "tags": []} for run in runs]
    with opened_runs(url) as stored:
        found = stored_rows(stored)
    assert found[0].keys() == expected[0].keys()
    for mine, theirs in zip(found, expected, strict=True):
        assert {name: mine[name] for name, value in theirs.items() if value is not None} == {
            name: value for name, value in theirs.items() if value is not None
        }
    lines = [line.rsplit("  ", 1)[0].rstrip() for line in table(directory_rows(runs)).splitlines()]
    assert [line.rstrip() for line in table(found).splitlines()] == lines
    assert len(json_lines(found).splitlines()) == len(json_lines(directory_rows(runs)).splitlines())


def test_curves_and_settings(root: Path, url: str) -> None:
    directories = [RunDirectory(root / name) for name in ("it's-a", "b", "b2")]
    keys = ["algorithm.learning_rate", "seed", "algorithm.net.layers"]
    with opened_runs(url) as stored:
        runs = [stored.find(run.path.name) for run in directories]
        assert described(runs, keys[:2]) == [
            "learning_rate=0.1, seed=0",
            "learning_rate=adaptive, seed=1",
            "learning_rate=0.1, seed=2",
        ]
        for here, there in zip(directories, runs, strict=True):
            for reader in (read_updates, read_evaluations):
                expected, found = reader(here), reader(there)
                assert expected.keys() == found.keys()
                for name in expected:
                    np.testing.assert_array_equal(found[name], expected[name])


def test_pictures(url: str, tmp_path: Path) -> None:
    with opened_runs(url) as stored:
        runs = [stored.find(name) for name in ("it's-a", "b", "b2", "b")]
        plot_learning_curves(runs, tmp_path / "curves.png", group_by=["algorithm.learning_rate"])
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_recorded_episodes(root: Path, url: str) -> None:
    here = RunDirectory(root / "b")
    expected = list_episodes(here)
    with opened_runs(url) as stored:
        there = stored.find("b")
        assert list_episodes(there) == expected
        for which in ("last", "best", expected[0].id):
            first, second = load_episode(here, which), load_episode(there, which)
            assert (first.run_id, first.summary, first.states) == (second.run_id, second.summary, second.states)
            np.testing.assert_equal(first.agents[0].__dict__, second.agents[0].__dict__)
            assert dict(first.env) == dict(second.env)
        with pytest.raises(AnalyticsError, match=r"no recorded episode 'x' in b in .*://.*: choose last, best"):
            load_episode(there, "x")


def test_commands(root: Path, url: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        ended = CliRunner().invoke(main, [*arguments, "--store", url], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    assert run("query", "SELECT run_id FROM runs ORDER BY 1", "--format", "csv").split() == [
        '"run_id"',
        '"b"',
        '"b2"',
        '"it\'s-a"',
    ]
    assert run("query", "SELECT run_id FROM runs", "--run", "b", "--format", "csv").split() == ['"run_id"', '"b"']
    assert "it's-a" in run("runs")
    assert [msgspec.json.decode(line)["run_id"] for line in run("runs", "--json").splitlines()] == ["b", "b2", "it's-a"]
    assert "0-2" in run("replay", "b", "--list")
    assert "fog" not in run("replay", "b", "--output", str(tmp_path / "r.gif"))
    assert (tmp_path / "r.gif").read_bytes().startswith(b"GIF8")
    assert str(tmp_path / "c.svg") in run("plot", "latest", "--output", str(tmp_path / "c.svg"))
    ended = CliRunner().invoke(main, ["plot", "latest", "--store", url])
    assert ended.exit_code == 2
    assert "a run in a store has no directory: name the file with --output" in ended.stderr


def test_a_store_of_a_newer_schema_is_not_read(served: str) -> None:
    with open_store(served) as store:
        store.command("CREATE DATABASE IF NOT EXISTS newer")
    newer = served.replace("/default", "/newer")
    with open_store(newer) as store:
        create_tables(store)
        store.command("INSERT INTO schema_migrations (version) VALUES (999)")
    ended = CliRunner().invoke(main, ["query", "SELECT 1", "--store", newer])
    assert ended.exit_code == 1
    assert "has schema 999, and this version of Rattle knows" in ended.stderr


class _Event(msgspec.Struct):
    event: str
    level: str


def test_bytes_that_are_no_text_hide_no_rows(url: str) -> None:
    with open_store(url) as store:
        rows = b'{"run_id":"odd","level":"A","event":"e"}\n{"run_id":"odd","level":"B","event":"\xff"}\n'
        store.insert("stored_logs", rows, "JSONEachRow", {})
    with opened_runs(url) as stored:
        found = StoredRun(stored.store, "odd").rows("logs", _Event, "level")
        assert [event.event for event in found] == ["e", "\N{REPLACEMENT CHARACTER}"]
        for output in get_args(Output):
            assert "\N{REPLACEMENT CHARACTER}" in query("SELECT event FROM logs", stored, output)
    with open_store(url) as store:
        store.command("DELETE FROM stored_logs WHERE run_id = 'odd'")


def test_stored_runs_answer_while_a_writer_goes_on(served: str) -> None:
    with open_store(served) as store, opened_runs(served) as stored:
        assert isinstance(stored, StoredRuns)
        store.insert("stored_logs", b'{"run_id":"other","event":"e"}', "JSONEachRow", {})
        assert query("SELECT event FROM logs WHERE run_id = 'other'", stored, "csv") == '"event"\n"e"\n'
        store.command("DELETE FROM stored_logs WHERE run_id = 'other'")
