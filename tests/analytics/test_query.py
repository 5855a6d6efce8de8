"""SQL over run directories: the tables, their types, safety, live runs and what errors say."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.csv
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet
import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.query import arrow, query, rows, save
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import DERIVED_COLUMNS, TABLES
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import (
    episode_row,
    make_run,
    record_snake,
    record_steps,
    steps_columns,
    update_row,
    write_rows,
)


@pytest.fixture
def full_run(run: RunDirectory) -> RunDirectory:
    write_rows(run, "updates", [update_row(run, version) for version in range(1, 21)])
    write_rows(run, "episodes", [episode_row(run, number) for number in range(100)])
    event = {"time": "2026-01-02T03:04:05.5Z", "level": "info", "event": "begun", "pid": 7, "fields": {"a": 1}}
    write_rows(run, "logs", [event])
    record_steps(run, steps_columns(run, 5))
    return run


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_its_columns_and_types(
    request: pytest.FixtureRequest, tmp_path: Path, table: str, filled: bool
) -> None:
    runs = [request.getfixturevalue("full_run")] if filled else [make_run(tmp_path, "empty")]
    described = {row["name"]: row["type"] for row in rows(f"DESCRIBE {table}", runs)}
    derived = {name: described.pop(name) for name in DERIVED_COLUMNS.get(table, {})}
    assert described == dict(TABLES[table])
    assert derived == ({"food": "Nullable(Float64)"} if table == "episodes" else {})
    expected = {"runs": 1, "updates": 20, "episodes": 100, "steps": 5, "logs": 1} if filled else {"runs": 1}
    assert len(rows(f"SELECT * FROM {table}", runs)) == expected.get(table, 0)  # noqa: S608


def test_values_arrive_unchanged(full_run: RunDirectory) -> None:
    (first,) = rows("SELECT * FROM episodes WHERE episode_id = 41", [full_run])
    stored = episode_row(full_run, 41)
    assert first == {**stored, "time": "2026-01-02 03:04:05.719901", "food": 2.0}
    (event,) = rows("SELECT time, event, pid, JSONExtractInt(fields, 'a') AS a FROM logs", [full_run])
    assert event == {"time": "2026-01-02 03:04:05.500000", "event": "begun", "pid": 7, "a": 1}
    assert rows("SELECT mean_return FROM updates WHERE policy_version = 1", [full_run]) == [{"mean_return": None}]


def test_an_environment_without_food_has_none(run: RunDirectory) -> None:
    write_rows(run, "episodes", [episode_row(run, 0, metrics={})])
    assert rows("SELECT food FROM episodes", [run]) == [{"food": None}]


def test_a_killed_run_is_interrupted_here_too(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", status="running"), make_run(tmp_path, "b")]
    assert rows("SELECT run_id, status FROM runs ORDER BY run_id", runs) == [
        {"run_id": "a", "status": "interrupted"},
        {"run_id": "b", "status": "finished"},
    ]


def test_formats(full_run: RunDirectory) -> None:
    sql = "SELECT world, count() AS n FROM episodes WHERE world < 2 GROUP BY world ORDER BY world"
    assert query(sql, [full_run]).splitlines() == [
        "┌─world─┬──n─┐",
        "│     0 │ 13 │",
        "│     1 │ 13 │",
        "└───────┴────┘",
    ]
    assert query(sql, [full_run], "csv") == '"world","n"\n0,13\n1,13\n'
    assert query(sql, [full_run], "json") == '{"world":0,"n":13}\n{"world":1,"n":13}\n'
    assert query("SELECT NULL AS x, 2 AS y", [], "csv") == '"x","y"\n,2\n'
    assert query("SELECT 1 FROM logs WHERE 0", [full_run]) == "(no rows)\n"
    assert query("SELECT 1 FROM logs WHERE 0", [full_run], "csv") == '"1"\n'
    assert query("SELECT 1 AS x FORMAT TSV", []) == "1\n"
    with pytest.raises(AnalyticsError, match="leave the FORMAT clause out"):
        rows("SELECT 'x' FORMAT TSV", [])


def test_nothing_is_printed(full_run: RunDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    query("SELECT * FROM steps", [full_run])
    with pytest.raises(AnalyticsError):
        query("SELECT nothing FROM steps", [full_run])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["it's", 'quo"te', "{a,b}*?[x]", "back\\slash", "per%cent", "sp ace;--", "ünï"])
def test_runs_may_have_any_name(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / name, name)
    write_rows(run, "updates", [update_row(run, 1)])
    assert rows("SELECT run_id FROM updates", [run]) == [{"run_id": name}]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "SELECT retrun FROM episodes",
            r"no column 'retrun' \(did you mean 'return'\?\); episodes has time, .*metrics, food",
        ),
        ("SELECT fod FROM episodes", r"did you mean 'food'"),
        ("SELECT e.x FROM episodes e", r"e\.x"),
        ("SELECT 1 FROM episods", r"no table 'episods' \(did you mean 'episodes'\?\); the tables are runs, updates"),
        ("SELECT count( FROM runs", r"the query fails: Syntax error: .*'\(' at position 13 is never closed"),
        ("SELECT nofun(1)", r"Function with name `nofun` does not exist"),
        ("", r"give one SQL statement"),
        ("-- only a comment", r"give one SQL statement"),
        ("SELECT 1; SELECT 2", r"give one SQL statement, not several"),
        ("SELECT 1 INTO OUTFILE 'x'", r"a query can only read: leave out INTO OUTFILE"),
        ("SELECT * FROM `url`('http://localhost:1/')", r"may read only runs and files: leave out url\(\)"),
        ("DROP VIEW runs", r"a query can only read: begin it with SELECT, .* not 'DROP'"),
        ("SELECT 1 SETTINGS readonly = 0", r"a query can only read"),
        ("EXPLAIN AST SELECT 1", None),
        ("SELECT 1 # ; a comment", None),
        ("SELECT 1 #! ; INSERT INTO x", None),
        ("SELECT 1 /* /* nested; */ INTO OUTFILE 'x' */", None),
        ("SELECT 'INSERT INTO x; INTO OUTFILE', $t$ it's INTO OUTFILE 'x' ; $t$, 'it''s', 'a\\\\'", None),
        ('SELECT 1 AS `INTO OUTFILE`, 2 AS "INSERT INTO", 3 AS insert, 4 AS `url`', None),
        ("SELECT * FROM (EXPLAIN SELECT 1)", None),
        ("SELECT sum(number) FROM numbers(3)", None),
        ("FROM runs SELECT 1", None),
        ("DESCRIBE TABLE runs", None),
        ("/* ; */ SELECT ';' -- ;", None),
        ("SELECT 1;", None),
        ("(SELECT 1) UNION ALL (SELECT 2)", None),
    ],
)
def test_errors_are_one_clear_line(run: RunDirectory, sql: str, message: str | None) -> None:
    if message is None:
        assert query(sql, [run])
        return
    with pytest.raises(AnalyticsError, match=message) as raised:
        query(sql, [run])
    assert "\n" not in str(raised.value)
    assert "DB::Exception" not in str(raised.value)


@pytest.mark.parametrize("name", ["answer.jsonl", "answer.parquet", "answer.arrow"])
def test_two_columns_of_one_name_are_named(run: RunDirectory, tmp_path: Path, name: str) -> None:
    message = r"^two columns of the answer are named '1': rename one with AS$"
    with pytest.raises(AnalyticsError, match=message):
        save("SELECT 1, 1", [run], tmp_path / name)
    with pytest.raises(AnalyticsError, match=message):
        query("SELECT 1, 1", [run], "json")
    assert query("SELECT 1, 1", [run], "csv") == '"1","1"\n1,1\n'
    with pytest.raises(AnalyticsError, match="are named 'a'"):  # as JSON both would have to be named anew
        query("SELECT [1] AS a, a", [run], "csv")


def test_queries_change_nothing(full_run: RunDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("1\nwrong\n")
    before = content_of(tmp_path)
    victim, new = next(path for path in before if path.suffix == ".jsonl"), tmp_path / "new.csv"
    insert = f"INSERT INTO FUNCTION file('{victim}', 'JSONEachRow', 'a Int32') VALUES (1)"  # noqa: S608
    write = f"INSERT INTO FUNCTION file('{new}') SELECT 1 AS a"
    read = f"SELECT * FROM file('{other}', CSV, 'a Int32')"  # noqa: S608
    statements = (
        "INSERT INTO episodes (world) VALUES (1)",
        insert,
        f"SELECT 1; {insert}",
        f"WITH x AS (SELECT 1 AS a) INSERT INTO FUNCTION file('{new}') SELECT * FROM x",  # noqa: S608
        f"WITH x AS (SELECT 1 AS a) insert/* */INTO/* */FUNCTION file('{new}') SELECT * FROM x",  # noqa: S608
        f"EXPLAIN PIPELINE {write}",
        f"EXPLAIN AST {write}",
        f"SELECT 1 PARALLEL WITH {write}",
        "TRUNCATE TABLE episodes",
        "ALTER TABLE episodes DELETE WHERE 1",
        "CREATE TABLE t (a Int32) ENGINE = Memory",
        "CREATE TEMPORARY TABLE t (a Int32) ENGINE = Memory",
        f"CREATE TEMPORARY TABLE t (a Int32) ENGINE = File(CSV, '{new}')",
        f"ATTACH TABLE t FROM '{tmp_path}' (a Int32) ENGINE = File(CSV)",
        f"BACKUP TABLE system.one TO File('{tmp_path / 'backup'}')",
        "SYSTEM FLUSH LOGS",
        "SET readonly = 0",
        f"{read} SETTINGS input_format_allow_errors_num = 9, `input_format_record_errors_file_path` = '{new}'",
        f"{read.replace('Int32', 'String')} SETTINGS rename_files_after_processing = 'done_%f%e'",
        f"SELECT * FROM sqlite('{new}', 't')",  # noqa: S608
        "SELECT * FROM executable('x.sh', TSV, 'a String')",
        "SELECT * FROM URL/**/('http://127.0.0.1:1/', CSV, 'a String')",
        "SELECT * FROM \"remote\"('127.0.0.1:1', 'system', 'one')",
        "DESCRIBE s3('http://127.0.0.1:1/b/x.csv')",
        "SELECT * FROM eval('SELECT 1')",
        "SELECT * FROM python('x')",
    )
    for statement in statements:
        with pytest.raises(AnalyticsError):
            query(statement, [full_run])
    assert content_of(tmp_path) == before


@pytest.mark.parametrize(
    "reading",
    [
        "SELECT 1",
        "(SELECT 1)",
        "WITH 1 AS a SELECT a",
        "FROM runs SELECT 1",
        "EXPLAIN SELECT 1",
        "EXPLAIN AST SELECT 1",
        "DESCRIBE runs",
        "EXISTS runs",
        "SHOW TABLES",
        "SHOW DATABASES",
        "SHOW COLUMNS FROM runs",
        "SHOW INDEX FROM runs",
        "SHOW CREATE TABLE runs",
        "SHOW SETTINGS LIKE 'readonly'",
        "SHOW FUNCTIONS",
        "SHOW ENGINES",
        "SHOW PROCESSLIST",
        "SHOW GRANTS",
    ],
)
def test_no_answer_goes_into_a_file(full_run: RunDirectory, tmp_path: Path, reading: str) -> None:
    before = content_of(tmp_path)
    for into in ("INTO OUTFILE", "into/* ; */outfile", "INTO # '\n -- ;\n OUTFILE"):
        for path, how in ((full_run.config, "TRUNCATE"), (tmp_path / "new.csv", "")):
            with suppress(AnalyticsError):
                query(f"{reading} {into} '{path}' {how}", [full_run])
            assert content_of(tmp_path) == before


def test_damaged_files_are_named(run: RunDirectory) -> None:
    path = write_rows(run, "episodes", [episode_row(run, number) for number in range(3)])
    path.write_bytes(path.read_bytes().replace(b'"world":1', b'"world"!1'))
    with pytest.raises(AnalyticsError, match=rf"{path} is damaged near row 2: Cannot parse input"):
        query("SELECT * FROM episodes", [run])
    parquet = run.table("steps") / "train-000000.parquet"
    parquet.parent.mkdir()
    parquet.write_bytes(b"PAR1 no more than that")
    with pytest.raises(AnalyticsError, match=rf"{parquet} is damaged: Not a Parquet file"):
        query("SELECT * FROM steps", [run])


def test_half_a_line_left_by_a_killed_run_is_skipped(run: RunDirectory) -> None:
    path = write_rows(run, "episodes", [episode_row(run, number) for number in range(3)])
    whole = path.read_bytes()
    last = whole.splitlines()[-1]
    for cut in (1, 2, len(last) - last.index(b'"episode_id":') - 13, len(last) - 1, len(last)):
        path.write_bytes(whole[:-cut])
        assert rows("SELECT count() AS n, max(episode_id) AS last FROM episodes", [run]) == [{"n": 2, "last": 1}]


APPENDING = """
import sys, time
from pathlib import Path
from rattle.analytics.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
line = sys.argv[2].encode() + b"\\n"
with run.locked(), (run.table("episodes") / "train.jsonl").open("ab", buffering=0) as file:
    print("begun", flush=True)
    while True:
        file.write(line[:17])
        time.sleep(0.001)
        file.write(line[17:] + line * 3)
"""


def test_a_run_in_progress_can_be_asked(run: RunDirectory) -> None:
    write_rows(run, "episodes", [episode_row(run, 0)])
    line = msgspec.json.encode(episode_row(run, 1)).decode()
    command = [sys.executable, "-c", APPENDING, str(run.path), line]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        counts: list[Any] = [
            rows("SELECT count() AS n, sum(episode_id) AS ones FROM episodes", [run])[0] for _ in range(20)
        ]
        writer.kill()
    assert [count["n"] for count in counts] == sorted(count["n"] for count in counts)
    assert counts[-1]["n"] > counts[0]["n"] > 0
    assert all(count["ones"] == count["n"] - 1 for count in counts)


def test_settings_are_queried(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"r{n}", config={"algorithm": {"learning_rate": n / 10}}, mean_return=n) for n in (1, 2)]
    sql = "SELECT config.algorithm.learning_rate AS rate, max(mean_return) AS best FROM runs GROUP BY 1 ORDER BY 1"
    assert rows(sql, runs) == [{"rate": 0.1, "best": 1.0}, {"rate": 0.2, "best": 2.0}]


def test_csv_has_json_for_maps_and_lists(run: RunDirectory) -> None:
    text = query("SELECT map('a', 1.5) AS m, [1, 2] AS l, tuple(1, 'x') AS t, NULL AS n, 'b,c' AS s", [run], "csv")
    (line,) = csv.DictReader(io.StringIO(text))
    assert {name: json.loads(line[name]) for name in "mlt"} == {"m": {"a": 1.5}, "l": [1, 2], "t": [1, "x"]}
    assert (line["n"], line["s"]) == ("", "b,c")


@pytest.fixture
def configured(tmp_path: Path) -> list[RunDirectory]:
    """Runs that differ in the type of one setting."""
    values: list[Any] = ["a, b", 0.5, 3, True, None, [1, "x"], 'say "x"']
    return [make_run(tmp_path, f"r{n}", config={"env": {"x": value}}) for n, value in enumerate(values)]


MIXED = "SELECT config.env.x, [config.env.x] AS l, 'z'::Variant(String, Array(UInt8)) AS v FROM runs ORDER BY run_id"


def test_settings_are_what_they_are_in_csv(configured: list[RunDirectory]) -> None:
    text = query(MIXED, configured, "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["config.env.x"] for line in lines] == ["a, b", "0.5", "3", "true", "", '[1,"x"]', 'say "x"']
    assert json.loads(lines[0]["l"]) == ["a, b"]
    assert {line["v"] for line in lines} == {"z"}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_settings_of_several_types_are_text_in_columns_of_one(
    configured: list[RunDirectory], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"answer{suffix}"
    save(MIXED, configured, path)
    read = pyarrow.parquet.read_table(path) if suffix == ".parquet" else pyarrow.ipc.open_file(path).read_all()
    column = read.column("config.env.x").to_pylist()
    assert column == ["a, b", "0.5", "3", "true", None, '[1,"x"]', 'say "x"']
    assert read.column("l").to_pylist()[:2] == ['["a, b"]', "[0.5]"]
    assert arrow(MIXED, configured).column("config.env.x").to_pylist() == column


def test_arrow_reads_what_csv_says(run: RunDirectory) -> None:
    sql = "SELECT number AS n, if(number = 0, NULL, number / 2) AS half, number = 1 AS one FROM numbers(3)"
    table = pyarrow.csv.read_csv(io.BytesIO(query(sql, [run], "csv").encode()))
    assert table.to_pydict() == {"n": [0, 1, 2], "half": [None, 0.5, 1.0], "one": [0, 1, 0]}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow"])
def test_answers_are_written_to_files(run: RunDirectory, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answer{suffix}"
    save("SELECT number AS n, concat('x', toString(number)) AS s FROM numbers(2)", [run], path)
    read = {
        ".csv": pyarrow.csv.read_csv,
        ".jsonl": pyarrow.json.read_json,
        ".parquet": pyarrow.parquet.read_table,
        ".arrow": lambda file: pyarrow.ipc.open_file(file).read_all(),
    }[suffix]
    assert read(path).to_pylist() == [{"n": 0, "s": "x0"}, {"n": 1, "s": "x1"}]


def test_bytes_that_are_no_text_hide_no_rows(run: RunDirectory) -> None:
    path = write_rows(run, "logs", [{"event": "first"}])
    path.write_bytes(path.read_bytes() + b'{"event":"second \xff"}\n')
    sql = "SELECT event FROM logs ORDER BY event"
    assert rows(sql, [run]) == [{"event": "first"}, {"event": "second \N{REPLACEMENT CHARACTER}"}]
    assert query(sql, [run], "csv") == '"event"\n"first"\n"second \N{REPLACEMENT CHARACTER}"\n'
    assert "second \N{REPLACEMENT CHARACTER}" in query(sql, [run])


def test_a_table_of_text_holds_nothing_that_steers_a_terminal(run: RunDirectory) -> None:
    answer = query(r"SELECT 'a\x1b[31m', 'b\rc', 'd\x7f', 'e\xc2\x9b', 'f\tä'", [run])
    for shown in ("a\ufffd[31m", "b\ufffdc", "d\ufffd", "e\ufffd", "f\tä"):
        assert shown in answer
    assert "\x1b" in query(r"SELECT 'a\x1b' FORMAT TSVRaw", [run]), "what is asked for stays as it is"


def test_what_is_no_text_and_no_known_file_is_explained(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(AnalyticsError, match=r"the answer is no text: leave FORMAT out .* --output answer\.parquet"):
        query("SELECT number FROM numbers(300) FORMAT Parquet", [run])
    with pytest.raises(AnalyticsError, match=r"cannot write .*answer\.xls: the name of an answer ends in \.csv"):
        save("SELECT 1", [run], tmp_path / "answer.xls")
    with pytest.raises(AnalyticsError, match="leave FORMAT out"):
        save("SELECT 1 AS a format CSV ;", [run], tmp_path / "answer.parquet")
    save("SELECT 'FORMAT CSV' AS a", [run], tmp_path / "answer.csv")
    with pytest.raises(AnalyticsError, match="not UTF-8"):
        query("SELECT '\udcfc'", [run])


@pytest.mark.parametrize("table", ["updates", "episodes", "steps"])
def test_a_damaged_file_is_left_out_unless_its_run_was_named(tmp_path: Path, table: str) -> None:
    sound, damaged = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    for run in (sound, damaged):
        write_rows(run, "updates", [update_row(run, 1)])
        write_rows(run, "episodes", [episode_row(run, 1)])
        record_snake(run, SnakeSettings(max_steps=5))
    (path,) = damaged.table(table).iterdir()
    path.write_bytes(b"not what it should be\n" * 20)
    sql = f"SELECT DISTINCT run_id FROM {table}"  # noqa: S608
    told: list[str] = []
    assert query(sql, [sound, damaged], "csv", told.append) == '"run_id"\n"a"\n'
    assert len(told) == 1
    assert f"{path} is damaged" in told[0]
    with pytest.raises(AnalyticsError, match="is damaged"):
        query(sql, [sound, damaged])


def test_a_file_that_cannot_be_read_is_left_out_unless_its_run_was_named(tmp_path: Path) -> None:
    sound, other = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    for run in (sound, other):
        write_rows(run, "updates", [update_row(run, 1)])
    (path,) = other.table("updates").iterdir()
    path.unlink()
    path.symlink_to(tmp_path / "gone.jsonl")
    told: list[str] = []
    assert query("SELECT DISTINCT run_id FROM updates", [sound, other], "csv", told.append) == '"run_id"\n"a"\n'
    assert told == [f"cannot read {path}: No such file or directory: it is left out"]
    with pytest.raises(AnalyticsError, match="cannot read"):
        query("SELECT 1", [sound, other])


def test_ctrl_c_stops_a_query(tmp_path: Path) -> None:
    slow = "SELECT sleepEachRow(1) FROM numbers(300) SETTINGS max_block_size=1"
    script = (  # the signal comes from within, once the engine is busy
        "import os, signal, threading, chdb\n"
        "import rattle.analytics.query as module\n"
        "from rattle.cli import main\n"
        "ask = module._ask\n"
        "def asking(*arguments):\n"
        "    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    return ask(*arguments)\n"
        "module._ask = asking\n"
        f"main(['query', {slow!r}])\n"
    )
    make_run(tmp_path / "runs")
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "Aborted!\n")


def test_copies_of_a_run_are_counted_once_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path, "r1")
    write_rows(run, "updates", [update_row(run, 1), update_row(run, 2)])
    shutil.copytree(run.path, tmp_path / "copy")
    (tmp_path / "link").symlink_to(run.path)
    runs = [run, RunDirectory(tmp_path / "copy"), run, RunDirectory(tmp_path / "link")]
    assert rows("SELECT count() AS n, (SELECT count() FROM runs) AS runs FROM updates", runs) == [{"n": 2, "runs": 1}]
    assert caplog.text.count("copy is left out: it holds the same run as") == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Cannot open epoll descriptor: , errno: 24, strerror: Too many open files. (EPOLL_ERROR)", "with 'ulimit -n'"),
        ("Error initializing EmbeddedServer", "the query fails: Error initializing EmbeddedServer"),
    ],
)
def test_an_engine_that_cannot_start_is_one_line(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    def connect(_where: str) -> None:
        raise RuntimeError(f"Code: 573. DB::Exception: {said}")

    monkeypatch.setattr("chdb.connect", connect)
    with pytest.raises(AnalyticsError, match=told):
        query("SELECT 1", [run])
