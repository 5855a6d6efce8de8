"""Dashboards ask for what there is: each SQL statement runs, and each number of Prometheus is described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rattle.analytics.query import rows
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import TABLES
from rattle.analytics.stored_runs import StoredRuns, opened_runs
from rattle.services.utils.measures import HistogramMeasure, measures
from tests.analytics.build import episode_row, evaluation_row, load_runs, make_run, update_row, write_rows
from tests.clickhouse import ClickHouse

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("dashboards/*.json"))}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets(key: str) -> Iterator[Any]:
    """Yield the panels' questions in a language, `rawSql` or `expr`."""
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                if key in target:
                    yield pytest.param(target, id=f"{name}: {panel['title']} {target['refId']}")


def variables() -> Iterator[Any]:
    for name, board in BOARDS.items():
        for variable in board["templating"]["list"]:
            if "clickhouse" in variable["datasource"]["type"]:
                yield pytest.param(variable["query"], id=f"{name}: ${variable['name']}")


@pytest.fixture(scope="module", params=["run directories", "store"])
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunDirectory] | StoredRuns]:
    """Return a run where it was written, and in a store."""
    run = make_runs(tmp_path_factory.mktemp("runs"))
    if request.param == "run directories":
        yield [run]
        return
    with ClickHouse(tmp_path_factory.mktemp("clickhouse")) as server:
        load_runs(server.url, run.path.parent)
        with opened_runs(server.url) as found:
            yield found


def make_runs(folder: Path) -> RunDirectory:
    made = make_run(folder, "one")
    write_rows(made, "updates", [update_row(made, version, metrics={"approx_kl": 0.5}) for version in range(1, 60)])
    write_rows(made, "episodes", [episode_row(made, number) for number in range(100)])
    write_rows(made, "evaluations", [evaluation_row(made, version) for version in (20, 40)])
    common = {"time": "2026-01-02T03:04:05Z", "experiment": "snake", "run_id": "one", "host": "a", "pid": 7}
    load = {"process_cpu_percent": 50.0, "process_memory_bytes": 10, "process_threads": 3, "cpu_percent": 20.0}
    load |= {"memory_percent": 3.0, "disk_free_bytes": 4, "gpu_percent": 1.0, "gpu_memory_bytes": 5}
    events = [
        {**common, "level": "WARNING", "service": "up", "event": "service_died", "fields": "{}"},
        {**common, "level": "INFO", "service": "train", "event": "system_metrics", "fields": json.dumps(load)},
    ]
    write_rows(made, "logs", events)
    return made


def as_asked(sql: str) -> str:
    """Return a statement as the plugin sends it, for all of time and all choices."""
    sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= toDateTime('2020-01-01') AND \1 <= toDateTime('2100-01-01')", sql)
    sql = re.sub(r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 60 second)", sql)
    chosen = {"run": "'one', 'two'", "experiment": "'snake'", "service": "'up', 'train'"}
    for name, values in chosen.items():
        sql = sql.replace(f"${{{name}:singlequote}}", values)
    assert "$" not in sql
    return sql


@pytest.mark.parametrize("target", [*targets("rawSql")])
def test_every_statement_has_an_answer_that_its_panel_can_show(
    target: dict[str, Any], runs: list[RunDirectory] | StoredRuns
) -> None:
    found = rows(as_asked(target["rawSql"]), runs)
    assert found
    if target["queryType"] == "timeseries":
        first, *_, last = found[0]
        assert first == "time"
        assert isinstance(found[0][last], float | int)
    if target["queryType"] == "logs":
        assert {"timestamp", "body", "level"} <= set(found[0])


@pytest.mark.parametrize("query", [*variables()])
def test_every_choice_is_filled(query: str, runs: list[RunDirectory] | StoredRuns) -> None:
    assert rows(as_asked(query), runs)


def described() -> dict[str, set[str]]:
    """Return the labels of each series that Prometheus has of the services."""
    found: dict[str, set[str]] = {}
    for measure in (one for of_service in measures().values() for one in of_service):
        for end in ("_bucket", "_sum", "_count") if isinstance(measure, HistogramMeasure) else ("",):
            labels = {*measure.labels, "job", "instance", *(("le",) if end == "_bucket" else ())}
            found.setdefault(f"{measure.shown_as}{end}", set()).update(labels)
    return found


@pytest.mark.parametrize("target", [*targets("expr")])
def test_every_number_of_prometheus_is_described(target: dict[str, Any]) -> None:
    expression, known = target["expr"], described()
    assert expression.count("(") == expression.count(")")
    names = re.findall(r"\brattle_\w+", expression)
    assert names
    assert set(names) <= set(known)
    labels = set.intersection(*(known[name] for name in names))
    used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    used |= {label for chosen in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)=~?\"", chosen)}
    assert used <= labels
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert shown <= (used if "by (" in expression else labels)
    for name in names:
        counts = name.endswith(("_total", "_bucket", "_sum", "_count"))
        assert counts == (f"rate({name}" in expression)


def test_most_numbers_are_on_a_dashboard() -> None:
    shown = " ".join(target.values[0]["expr"] for target in targets("expr"))
    left_out = [name for name in described() if name.removesuffix("_sum").removesuffix("_count") not in shown]
    assert len(left_out) < len(described()) / 3


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_board_is_what_grafana_takes(board: dict[str, Any]) -> None:
    assert board["title"].startswith("Rattle: ")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not own & cells, panel["title"]
        cells |= own
    for panel in panels(board):
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {panel["datasource"]["uid"]}
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(board["panels"]))) <= names


def test_boards_and_sources_fit_together() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/rattle.yaml").read_text())["datasources"]
    known = {(source["uid"], source["type"]) for source in sources}
    used = {(p["datasource"]["uid"], p["datasource"]["type"]) for board in BOARDS.values() for p in panels(board)}
    assert used == known
    page = (GRAFANA / "README.md").read_text()
    text = (GRAFANA / "provisioning/datasources/rattle.yaml").read_text()
    assert all(f"`{variable}`" in page for variable in re.findall(r"\$([A-Z_]+)", text))
    assert all(f"dashboards/{name}.json" in page for name in BOARDS)
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/rattle.yaml").read_text())["providers"]
    assert provider["options"]["path"] in page


def test_statements_ask_tables_that_a_store_has_too() -> None:
    for target in targets("rawSql"):
        asked = set(re.findall(r"(?:FROM|JOIN) (\w+)", target.values[0]["rawSql"])) - {"mapKeys"}
        assert asked <= set(TABLES)
