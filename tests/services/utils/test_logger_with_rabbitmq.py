"""The logs of a program reach RabbitMQ once each, whatever becomes of the broker and of the program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.rabbitmq import PASSWORD, USER, RabbitMQ, needs_rabbitmq
from tests.services.utils.logging_program import LINES

pytestmark = needs_rabbitmq

PROGRAM = (sys.executable, "-m", "tests.services.utils.logging_program")
ROOT = Path(__file__).parents[3]


def run(way: str, folder: Path, **named: str) -> str:
    """Run the program with these variables, and return what it has written to its console."""
    environ = {**os.environ, "XDG_STATE_HOME": str(folder), "LOG_FORMAT": "json", **named}
    done = subprocess.run([*PROGRAM, way], cwd=ROOT, env=environ, check=False, timeout=120, capture_output=True)
    assert done.returncode == (-signal.SIGTERM if way == "terminate" else 0)
    return done.stderr.decode()


def variables(rabbitmq: RabbitMQ, exchange: str) -> dict[str, str]:
    host, port = rabbitmq.url().rpartition("@")[2].partition("/")[0].split(":")
    return {
        "ENABLE_RABBITMQ": "true",
        "RABBITMQ_HOST": host,
        "RABBITMQ_PORT": port,
        "RABBITMQ_USERNAME": USER,
        "RABBITMQ_PASSWORD": PASSWORD,
        "RABBITMQ_EXCHANGE": exchange,
        "EXPERIMENT_NAME": "mine",
    }


def rows_in(rabbitmq: RabbitMQ, queue: str) -> list[dict[str, Any]]:
    bodies = [body for properties, body in rabbitmq.messages(queue) if properties.type == "logs"]
    rows = [json.loads(line) for body in bodies for line in body.splitlines()]
    return list({(row["writer"], row["number"]): row for row in rows}.values())


def test_each_line_is_published_once_however_the_program_ends(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    named = variables(rabbitmq, exchange)
    run("terminate", tmp_path, **named)
    run("end", tmp_path, **named)  # which publishes what the first may have left
    rows = [row for row in rows_in(rabbitmq, f"{exchange}.rows") if row["event"] == "log"]
    told = Counter(json.loads(row["fields"])["number"] for row in rows)
    assert told == dict.fromkeys(range(LINES), 2)
    assert {(row["service"], row["experiment"], row["level"]) for row in rows} == {("mine", "mine", "INFO")}


def test_what_is_logged_while_the_broker_is_away_waits_for_it(
    rabbitmq: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    named = variables(rabbitmq, exchange)
    shown = run("close", tmp_path, **{**named, "RABBITMQ_PORT": "1"})
    assert [json.loads(line)["event"] for line in shown.splitlines()] == ["broker_trouble", "rows_left"]
    assert PASSWORD not in shown
    run("end", tmp_path, **named)
    rows = rows_in(rabbitmq, f"{exchange}.rows")
    told = Counter(json.loads(row["fields"])["number"] for row in rows if row["event"] == "log")
    assert told == dict.fromkeys(range(LINES), 2)


def test_a_broker_that_cannot_be_is_an_event(tmp_path: Path) -> None:
    (said,) = run("end", tmp_path, ENABLE_RABBITMQ="perhaps").splitlines()
    assert json.loads(said)["event"] == "log_not_written"
    assert "ENABLE_RABBITMQ" in json.loads(said)["message"]
