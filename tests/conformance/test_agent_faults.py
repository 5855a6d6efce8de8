"""`rattle mock-env` with each of its faults fails the check that is meant for it, and without one fails none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rattle.conformance.table import CHECKS
from rattle.services.mock_env.faults import FAULTS
from tests.conformance.agent_faults import FAULTS as OTHER_FAULTS
from tests.conformance.broken_env import Broken, Fault
from tests.conformance.running import RATTLE, asgi_server, rattle_server, results

pytestmark = pytest.mark.integration

#: The check that is meant for each fault.
CHECK_OF = {
    "late": "agent.moves.prompt",
    "late-lines": "agent.stream.first",
    "cut-stream": "agent.stream.last_line",
    "cut-answer": "agent.health.answer",
    "malformed-answer": "agent.health.answer",
    "missing-field": "agent.stream.fields",
    "wrong-type": "agent.stream.fields",
    "out-of-order": "agent.stream.order",
    "repeated-line": "agent.stream.order",
    "skipped-tick": "agent.stream.all_lines",
    "after-end": "agent.stream.nothing_after",
    "malformed-line": "agent.stream.lines",
    "no-end": "agent.stream.last_line",
    "error-500": "agent.moves.answer",
    "plain-errors": "agent.errors.problem",
    "accepts-bad-moves": "agent.errors.moves",
    "accepts-unknown-snakes": "agent.moves.unknown",
    "wrong-window": "agent.stream.window",
    "no-head": "agent.stream.window",
    "shared-script": "agent.stream.own",
    "sticky-reset": "agent.resets.world",
    "not-repeatable": "agent.resets.determinism",
}
#: Faults that break what another check is about, too.
AND_OF = {"not-repeatable": "agent.stream.readers", "accepts-unknown-snakes": "agent.resets.snake_unknown"}
#: Checks that a server fails by breaking down, which none of these can be made to do.
BREAKDOWNS = {
    "agent.stream.join",
    "agent.stream.apart",
    "agent.stream.half_close",
    "agent.errors.cut",
    "agent.errors.garbage",
    "agent.errors.many",
}
#: Three snakes that see little and starve soon.
SMALL = (
    "env.num_snakes=3",
    "env.vision_radius=2",
    "env.max_steps_without_food=25",
    "env_service.clock=turns",
    "env_service.turn_seconds=0.2",
)


def test_every_fault_has_its_check() -> None:
    assert set(CHECK_OF) == set(FAULTS)


def test_every_check_but_those_of_breakdowns_has_a_server_that_fails_it() -> None:
    covered = {*CHECK_OF.values(), *AND_OF.values(), *OTHER_FAULTS}
    assert {check.id for check in CHECKS if check.face == "agent"} - covered == BREAKDOWNS


def test_the_small_game_passes_unbroken() -> None:
    with asgi_server(Broken(Fault(), *SMALL)) as url:
        found = results(url, "agent")
    assert [result for result in found.values() if result.result != "pass"] == []


@pytest.mark.parametrize("name", OTHER_FAULTS)
def test_a_broken_game_fails_the_check_that_is_meant_for_it(name: str) -> None:
    with asgi_server(Broken(OTHER_FAULTS[name], *SMALL)) as url:
        result = results(url, name, timeout=3.0)[name]
    assert result.result == "fail", result.sentence
    assert "not of the shape" not in result.sentence, "the check stumbled instead of judging"
    assert result.evidence


@pytest.mark.parametrize(("fault", "name"), [*CHECK_OF.items(), *AND_OF.items()])
def test_a_fault_fails_the_check_that_is_meant_for_it(fault: str, name: str) -> None:
    with rattle_server("mock-env", "--fault", fault) as url:
        result = results(url, name)[name]
    assert result.result == "fail", result.sentence
    assert "not of the shape" not in result.sentence, "the check stumbled instead of judging"
    assert result.evidence


@pytest.mark.whole(suite="slow")
def test_without_a_fault_nothing_fails_and_what_is_skipped_says_why() -> None:
    with rattle_server("mock-env") as url:
        found = results(url, "agent")
    assert [result for result in found.values() if result.result == "fail"] == []
    assert [name for name, result in found.items() if result.result == "skip"] == [
        "agent.moves.steers",
        "agent.moves.forward",
    ]


@pytest.mark.whole(suite="slow")
def test_one_snake_is_enough() -> None:
    with rattle_server("mock-env", "--snakes", "1") as url:
        found = results(url, "agent")
    assert [result for result in found.values() if result.result == "fail"] == []


def test_the_command_says_what_is_wrong_and_writes_it_down(tmp_path: Path) -> None:
    junit = tmp_path / "report.xml"
    with rattle_server("mock-env", "--fault", "no-head") as url:
        command = [*RATTLE, "check-env", url, "--only", "agent.stream", "--skip", "*.readers", "--junit", str(junit)]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert listed.returncode == as_json.returncode == 1
    assert "FAIL  agent.stream.window" in listed.stdout
    assert "hold HEAD 0 times, not once" in listed.stdout
    assert "\x1b" not in listed.stdout
    report = json.loads(as_json.stdout)
    assert report["url"] == url
    assert report["summary"]["fail"] == 1
    assert "agent.stream.readers" not in {check["id"] for check in report["checks"]}
    assert 'classname="agent.stream" name="window"' in junit.read_text()
