"""Queries are answered in a process of their own, within bounds, and can only read runs."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.services.dashboard import sql_process
from rattle.services.dashboard.source import Busy
from tests.analytics.build import make_run, update_row, write_rows
from tests.services.dashboard.build import Client


@pytest.fixture
def two(root: Path) -> Path:
    for name in ("a-run", "b-run"):
        run = make_run(root, name)
        write_rows(run, "updates", [update_row(run, version) for version in range(1, 1201)])
    return root


def ask(client: Client, sql: str, **params: Any) -> str:
    answer = client.ask("/sql", q=sql, **params)
    assert answer.status_code == 200
    return html.unescape(answer.text)


def problem(text: str) -> str:
    found = re.search(r'<p class="problem" role="alert">([^<]*)</p>', text)
    return found[1] if found else ""


def chart(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])["answer"]
    return content


def test_an_answer_is_a_table_of_at_most_a_thousand_rows(client: Client, two: Path) -> None:
    text = ask(client, "SELECT run_id, policy_version, metrics, NULL AS nothing FROM updates ORDER BY ALL")
    assert text.count("<td>a-run</td>") == 1000
    assert "The first 1,000 rows are shown" in text
    assert '<span class="soft">NULL</span>' in text
    assert "<td>{}</td>" in text


def test_an_answer_is_a_chart_with_a_line_for_each_text(client: Client, two: Path) -> None:
    sql = "SELECT run_id, env_steps, mean_return FROM updates WHERE policy_version <= 20"
    drawn = chart(ask(client, sql, show="line"))
    assert sorted(line["name"] for line in drawn["data"]) == ["a-run", "b-run"]
    assert [len(line["x"]) for line in drawn["data"]] == [20, 20]
    bars = chart(ask(client, "SELECT run_id, count() AS updates FROM updates GROUP BY 1 ORDER BY 1", show="bars"))
    assert [(trace["type"], trace["x"], trace["y"]) for trace in bars["data"]] == [
        ("bar", ["a-run", "b-run"], [1200, 1200])
    ]


def test_what_cannot_be_drawn_is_a_table_with_a_reason(client: Client, two: Path) -> None:
    text = ask(client, "SELECT run_id FROM runs", show="line")
    assert "a chart needs a column for each axis" in problem(text)
    assert "<td>a-run</td>" in text
    assert "no column 'nope'" in problem(ask(client, "SELECT run_id, seed FROM runs", show="line", x="nope"))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT nope FROM runs", "no column 'nope'"),
        ("DROP TABLE runs", "can only read"),
        ("SELECT * FROM file('/etc/passwd', 'LineAsString')", "leave out file()"),
        ("SELECT * FROM `/etc/passwd`", "no table '/etc/passwd'"),
        ("SELECT * FROM runs SETTINGS max_execution_time = 0", "leave out SETTINGS"),
        ("SELECT * FROM `system`.user_directories", "leave out the database 'system'"),
        ("SELECT run_id IN system.one FROM runs", "leave out the database 'system'"),
        ("EXPLAIN SELECT * FROM view(SELECT * FROM system.one)", "leave out the database 'system'"),
        ("WITH 1 AS `'` SELECT * FROM system.one WHERE '' = '`'", "leave out the database 'system'"),
        ("SELECT '`', * FROM file(concat('/etc', '/passwd'), LineAsString) WHERE '`' != ''", "leave out file()"),
        ("SELECT 1 AS `'`, * FROM file(concat(char(47), char(47)), 'LineAsString')", "leave out file()"),
        ("SELECT arrayMap(file, ['/etc/passwd'])", "leave out file()"),
        ("SELECT 1 AS file, arrayMap(file, ['/etc/passwd'])", "leave out file()"),
        ("SELECT COLUMNS('run_id') APPLY `file` FROM runs", "leave out file()"),
        ("SELECT * FROM merge('system', '^one$')", "leave out merge()"),
        ("SELECT dictGetString('system.any', 'name', 1)", "leave out dictGetString()"),
        ("SHOW TABLES FROM system", "it may be SHOW TABLES"),
        ("SHOW TABLES IN system", "it may be SHOW TABLES"),
        ("SHOW COLUMNS FROM users FROM system", "it may be SHOW TABLES"),
        ("EXISTS DATABASE system", "it may be SHOW TABLES"),
        ("SELECT 1 FORMAT CSV", "leave FORMAT out"),
        ("SELECT x'ff'", "write them as unhex('FF')"),
        ("SELECT 1; SELECT 2", "not several"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(root: Path, sql: str, said: str) -> None:
    make_run(root, "a-run")
    with pytest.raises(AnalyticsError, match=re.escape(said)):
        sql_process.ask(sql, root)


def test_names_with_points_are_no_databases(root: Path) -> None:
    make_run(root, "a-run", config={"system": {"one": 3}})
    columns = "r.run_id, rattle.runs.seed, r.config.system.one, tuple(5).1, 'system.one' AS `system.one`"
    answer = sql_process.ask(f"SELECT {columns} FROM rattle.runs JOIN runs AS r ON r.run_id = runs.run_id", root)  # noqa: S608
    assert answer.rows == [["a-run", 1, 3, 5, "system.one"]]
    named = "WITH file AS (SELECT run_id AS file FROM runs) SELECT count() AS file FROM file GROUP BY ALL ORDER BY file"
    assert sql_process.ask(named, root).rows == [[1]]
    assert ["runs"] in sql_process.ask("SHOW TABLES LIKE '%run%'", root).rows
    assert sql_process.ask("EXISTS TABLE runs", root).rows == [[1]]


def test_the_process_of_a_query_imports_what_it_needs_alone() -> None:
    script = f"import sys, {sql_process.__name__}; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"numpy", "pydantic"}.isdisjoint(ended.stdout.split())


def test_a_query_that_takes_too_long_is_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(root, "a-run")
    monkeypatch.setattr(sql_process, "QUERY_SECONDS", 0.0)
    monkeypatch.setattr(sql_process, "_START_SECONDS", 0.5)
    with pytest.raises(AnalyticsError, match="took longer than"):
        sql_process.ask("SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", root)


def test_queries_wait_for_their_turn_and_not_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_process, "_turns", threading.BoundedSemaphore(1))
    monkeypatch.setattr(sql_process, "_PATIENCE_SECONDS", 0.01)
    with sql_process._turns, pytest.raises(Busy, match="queries are running"):
        sql_process.ask("SELECT 1", root)


def test_without_a_query_the_page_shows_tables_and_examples(client: Client) -> None:
    text = client.ask("/sql").text
    assert "policy_version" in text
    assert "What went wrong?" in text
    assert "learning_curve, " in text


def test_the_examples_work(client: Client, two: Path) -> None:
    for address in re.findall(r'<li><a href="([^"]+)"', client.ask("/sql").text):
        assert problem(html.unescape(client.ask(html.unescape(address)).text)) == ""
