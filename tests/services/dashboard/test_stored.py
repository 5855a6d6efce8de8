"""Pages over a store show what pages over the run directories show that were loaded into it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.store.connection import StoreError
from rattle.envs.snake.settings import SnakeSettings
from rattle.services.dashboard.directories import RunDirectories
from rattle.services.dashboard.source import NotThere
from rattle.services.dashboard.stored import StoreRuns
from tests.analytics.build import load_runs, record_snake
from tests.clickhouse import ClickHouse
from tests.services.dashboard.build import Client, log, make_full_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("it's a run", 0.001), ("b-run", 0.01)):
        run = make_full_run(folder, name, rate=rate, updates=40)
        log(run, "service_died", "WARNING", service="actor", reason="killed")
        log(run, "service_restarted", service="actor", second=1)
    long = make_full_run(folder, "long", updates=1100)
    record_snake(long, SnakeSettings())
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
def source(request: pytest.FixtureRequest) -> Iterator[StoreRuns]:
    source = StoreRuns(str(request.getfixturevalue(request.param)))
    yield source
    source.close()


def shown(text: str) -> str:
    """Return a page without what says where runs lie, and whether files or a store told of policies."""
    return re.sub(r'<span class="where".*?</span>|in \d+\.\d\d s', "", text)


@pytest.mark.parametrize(
    "path",
    [
        "/?sort=run_id&column=algorithm.learning_rate",
        "/?where=algorithm.learning_rate+>+0.005",
        "/run?run=it%27s+a+run",
        "/run?run=b-run&x=seconds",
        "/run?run=b-run&level=troubles",
        "/compare?run=it%27s+a+run&run=b-run&y=entropy",
        "/compare?run=it%27s+a+run&run=b-run&group=*",
        "/episodes?run=long",
        "/replay?run=long",
        "/sql?q=SELECT+run_id,+count()+FROM+updates+GROUP+BY+1+ORDER+BY+1",
    ],
)
def test_pages_are_those_of_run_directories(root: Path, source: StoreRuns, path: str) -> None:
    ours, theirs = Client(RunDirectories(root)).ask(path), Client(source).ask(path)
    assert ours.status_code == theirs.status_code == 200
    assert shown(theirs.text) == shown(ours.text)


@pytest.mark.parametrize("table", ["updates", "episodes"])
def test_long_runs_are_thinned_to_the_same_intervals(root: Path, source: StoreRuns, table: str) -> None:
    ours, theirs = getattr(RunDirectories(root), table)("long"), getattr(source, table)("long")
    assert ours.rows == theirs.rows
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_query_leaves_no_bounds_behind(source: StoreRuns) -> None:
    assert len(source.ask("SELECT * FROM updates").rows) == 1000
    assert source.updates("long").rows == 1100
    assert source.ask("SELECT count() FROM updates").rows == [[1180]]


@pytest.mark.parametrize("sql", ["DROP TABLE stored_runs", "INSERT INTO stored_runs (run_id) VALUES ('x')"])
def test_queries_only_read(source: StoreRuns, sql: str) -> None:
    with pytest.raises(Exception, match="only read"):
        source.ask(sql)


def test_queries_read_no_other_database(source: StoreRuns) -> None:
    for name in ("system.tables", "information_schema.tables"):
        with pytest.raises(AnalyticsError, match=f"leave out the database '{name.partition('.')[0]}'"):
            source.ask(f"SELECT r.run_id FROM runs AS r, {name}")  # noqa: S608
    for table in ("runs AS r", "stored_runs AS r"):
        answer = source.ask(f"SELECT r.run_id FROM {table} ORDER BY 1")  # noqa: S608
        assert answer.rows == [["b-run"], ["it's a run"], ["long"]]


def test_a_run_that_is_not_there_is_said(source: StoreRuns) -> None:
    with pytest.raises(NotThere, match="no run 'nobody'"):
        source.run("nobody")
    assert source.updates("nobody").rows == 0


def test_a_store_that_dies_is_said_and_found_again(root: Path, tmp_path: Path) -> None:
    with ClickHouse(tmp_path) as server:
        load_runs(server.url, root)
        source = StoreRuns(server.url)
        client = Client(source)
        assert client.ask("/").status_code == client.ask("/readyz").status_code == 200
        server.kill()
        answer = client.ask("/")
        assert answer.status_code == 503
        assert "does not answer" in answer.text
        assert client.ask("/readyz").json()["code"] == "not_ready"
        server.start()
        assert client.ask("/").status_code == 200
        source.close()


def test_a_store_without_tables_is_said() -> None:
    source = StoreRuns("http://127.0.0.1:1/default")
    with pytest.raises(StoreError, match="connection refused"):
        source.check()
    assert "there is no store" in Client(StoreRuns("chdb:///nowhere/at/all")).ask("/").text
