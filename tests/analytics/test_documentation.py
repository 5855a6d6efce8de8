"""docs/analytics.md says what is true: the same columns as the code, and examples that run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rattle.analytics.query import query, rows
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import DERIVED_COLUMNS, TABLES
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import episode_row, evaluation_row, make_run, record_snake, update_row, write_rows

PAGE = (Path(__file__).parents[2] / "docs" / "analytics.md").read_text()
EXAMPLES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
PYTHON = re.findall(r"```python(?: run)?\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def used_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = make_run(tmp_path_factory.mktemp("used") / "runs")
    write_rows(run, "updates", [update_row(run, version) for version in range(1, 101)])
    write_rows(run, "episodes", [episode_row(run, number) for number in range(200)])
    write_rows(run, "evaluations", [evaluation_row(run, version) for version in (20, 40)])
    logged = {"time": "2026-01-02T03:04:05Z", "fields": "{}"}
    events = [{"level": "ERROR", "event": "run_failed"}, {"level": "INFO", "event": "system_metrics"}]
    write_rows(run, "logs", [{**logged, **event} for event in events])
    record_snake(run, SnakeSettings(max_steps=30))
    return run


def documented(table: str) -> dict[str, str]:
    section = PAGE.split(f"### `{table}`\n")[1].split("\n### ")[0]
    lines = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+) \|$", section, re.MULTILINE)
    assert all(len(meaning) > 5 for _, _, meaning in lines)
    return {name: kind for name, kind, _ in lines}


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_documented(table: str) -> None:
    derived = dict.fromkeys(DERIVED_COLUMNS.get(table, {}), "Nullable(Float64)")
    assert list(documented(table).items()) == list({**TABLES[table], **derived}.items())


def test_every_part_of_a_run_directory_is_documented(run: RunDirectory) -> None:
    for name in (run.config.name, run.run.name, run.policy.name, f"{run.checkpoints.name}/", *TABLES):
        assert name in PAGE


@pytest.mark.parametrize("sql", EXAMPLES)
def test_examples_have_answers(used_run: RunDirectory, sql: str) -> None:
    assert rows(sql, [used_run])
    assert "│" in query(sql, [used_run])


def test_the_python_example_runs(
    used_run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(used_run.path.parents[1])
    (example,) = PYTHON
    exec(example, {})  # noqa: S102
    assert capsys.readouterr().out == f"{used_run.path.name} finished 38.25\n"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


def test_an_environment_step_is_a_tick_of_a_world() -> None:
    assert "a tick of one world, however many agents act in it" in " ".join(PAGE.split())
    assert "one agent's part in a tick" not in PAGE
    assert "steps of agents" not in PAGE
