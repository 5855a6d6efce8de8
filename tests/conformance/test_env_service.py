"""`rattle env` passes: one snake and four, on both clocks, and an environment without an agent API."""

from __future__ import annotations

import pytest

from tests.conformance.running import rattle_server, results

pytestmark = pytest.mark.integration

#: A server with so few sessions that the checker fills it, and without the processes that sessions would start, one
#: after another.
FEW = ("env", "--set", "env_service.max_sessions=64", "--set", "env_service.processes=1")
ONE_SNAKE = {"agent.resets.snake_alone", "vector.steps.inactive", "vector.steps.last_observation"}
#: No snake is truncated without a time limit.
ALWAYS = {
    "vector.state.absent",
    "vector.steps.last_observation",
    "vector.actions.bounds",
    "vector.actions.numbers",
}


@pytest.mark.parametrize("clock", ["realtime", "turns"])
@pytest.mark.parametrize("snakes", [1, 4])
def test_snake_passes_on_both_faces(clock: str, snakes: int) -> None:
    # The vector API has no clock: it is checked once for each number of snakes.
    faces = ("agent", "vector") if clock == "turns" else ("agent",)
    with rattle_server(*FEW, "--clock", clock, "--set", f"env.num_snakes={snakes}") as url:
        found = results(url, *faces)
    assert [result for result in found.values() if result.result == "fail"] == []
    skipped = {name for name, result in found.items() if result.result == "skip"}
    assert skipped <= (ONE_SNAKE if snakes == 1 else set()) | ALWAYS


def test_one_batch_passes_and_has_no_state() -> None:
    with rattle_server(*FEW, "--set", "env.id=gym:CartPole-v1", "--set", "env.vector=auto") as url:
        found = results(url, "vector")
    assert [result for result in found.values() if result.result == "fail"] == []
    assert {"vector.state.restore", "vector.determinism.width"} <= {
        name for name, result in found.items() if result.result == "skip"
    }
    assert {found[f"vector.steps.{name}"].result for name in ("autoreset", "inactive", "time_limit")} == {"pass"}


def test_pendulum_passes() -> None:
    with rattle_server(*FEW, "--set", "env.id=gym:Pendulum-v1") as url:
        found = results(url, "vector")
    assert [result for result in found.values() if result.result == "fail"] == []
    assert found["vector.actions.bounds"].result == "pass"


def test_an_environment_whose_actions_are_several_numbers_passes() -> None:
    with rattle_server(*FEW, "--set", "env.id=tests.envs.combination_lock:CombinationLock") as url:
        found = results(url, "vector")
    assert [result for result in found.values() if result.result == "fail"] == []
    assert found["vector.actions.numbers"].result == found["vector.actions.integers"].result == "pass"


def test_cartpole_passes_and_has_no_agent_api() -> None:
    with rattle_server(*FEW, "--set", "env.id=gym:CartPole-v1") as url:
        found = results(url, "agent", "vector")
    assert [result for result in found.values() if result.result == "fail"] == []
    agent = {result.sentence for name, result in found.items() if name.startswith("agent.")}
    assert len(agent) == 1
    assert "no agent API" in agent.pop()
    skipped = {name for name, result in found.items() if result.result == "skip" and name.startswith("vector.")}
    assert skipped <= {*ONE_SNAKE, *ALWAYS, "vector.steps.metrics"}


def test_games_whose_agents_wait_for_each_other_pass() -> None:
    game = "env={id: 'pettingzoo:tests.envs.countdown', players: 3, heap: 16, limit: 9, leaves: [1], late: [2]}"
    with rattle_server(*FEW, "--set", game) as url:
        found = results(url, "vector")
    assert [result for result in found.values() if result.result == "fail"] == []
    skipped = {name for name, result in found.items() if result.result == "skip"}
    assert skipped <= {*ALWAYS, "vector.steps.metrics", "vector.steps.time_limit"}


def test_worlds_in_worker_processes_pass() -> None:
    chosen = ("vector.steps.fields", "vector.state.restore", "vector.determinism.seed", "vector.numbers.repeated")
    with rattle_server(*FEW, "--set", "env.id=gym:CartPole-v1", "--set", "env_service.processes=2") as url:
        found = results(url, *chosen)
    assert {name: found[name].result for name in chosen} == dict.fromkeys(chosen, "pass")
