"""Tasks that need memory: their optimum is reached by who remembers, and by nobody else."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

from tests.trainer.conftest import last_json, rattle

FOLDER = Path(__file__).parents[2] / "examples" / "memory"
sys.path.append(str(FOLDER))
from memory_tasks import CountRecall, MemoryTask, RepeatPrevious, TMaze  # noqa: E402

TASKS = [RepeatPrevious(), RepeatPrevious(2, 1, 8), CountRecall(), CountRecall(2, 3), TMaze(), TMaze(3)]
IDS = [f"{type(task).__name__}-{number}" for number, task in enumerate(TASKS)]
EXPERIMENTS = sorted(FOLDER.glob("*.yaml"))
#: What was observed in an episode so far, to an action.
Play = Callable[[list[int]], int]


def played(task: MemoryTask, play: Play, seed: int) -> list[tuple[int, float]]:
    """Return what was observed in the ticks of an episode, and what each earned."""
    observation, _ = task.reset(seed=seed)
    seen, earned, is_over = [observation], list[tuple[int, float]](), False
    while not is_over:
        observation, reward, terminated, truncated, _ = task.step(play(seen))
        earned.append((seen[-1], reward))
        seen.append(observation)
        is_over = terminated or truncated
    return earned


def best(task: MemoryTask) -> Play:
    """Return how somebody plays who remembers everything."""
    match task:
        case RepeatPrevious():
            return lambda seen: seen[-1 - task.delay] if len(seen) > task.delay else 0
        case CountRecall():
            return lambda seen: [each // task.values for each in seen].count(seen[-1] % task.values)
    return lambda seen: seen[0] if seen[-1] == 3 else 2


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_who_remembers_reaches_the_optimum_in_every_episode(task: MemoryTask) -> None:
    assert {sum(reward for _, reward in played(task, best(task), seed)) for seed in range(100)} == {task.optimum}


@pytest.mark.parametrize("task", [task for task in TASKS if not isinstance(task, TMaze)], ids=lambda task: str(task))
def test_the_best_answers_to_what_is_seen_now_alone_stay_at_chance(task: MemoryTask) -> None:
    """Actions change nothing that comes, so each answer to each observation is judged by itself."""
    episodes, actions = 1500, range(int(task.action_space.n))
    earned: Counter[tuple[int, int]] = Counter()
    for action, seed in itertools.product(actions, range(episodes)):
        for observation, reward in played(task, lambda _, action=action: action, seed):  # type: ignore[misc]
            earned[observation, action] += int(reward)
    observations = range(int(task.observation_space.n))
    found = sum(max(earned[observation, action] for action in actions) for observation in observations) / episodes
    assert found == pytest.approx(task.without_memory, rel=0.06)
    assert found < 0.65 * task.optimum


def test_every_way_to_walk_a_maze_without_memory_stays_at_chance() -> None:
    maze, signs = TMaze(3), {}
    for seed in range(20):
        signs[maze.reset(seed=seed)[0]] = seed
    assert set(signs) == {0, 1}
    found = [
        sum(sum(reward for _, reward in played(maze, lambda seen: ways[seen[-1]], seed)) for seed in signs.values()) / 2  # noqa: B023
        for ways in itertools.product(range(3), repeat=4)
    ]
    assert max(found) == maze.without_memory


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_they_are_what_gymnasium_asks_for(task: MemoryTask) -> None:
    check_env(task, skip_render_check=True)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_trained_for_a_moment(experiment: Path, tmp_path: Path) -> None:
    smaller = ("--set", "env.worlds=4", "--set", "env.processes=1", "--steps", "1000")
    trained = rattle("train", experiment, *smaller, "--run-dir", tmp_path / "run", "--json", cwd=FOLDER)
    assert trained.returncode == 0, trained.stderr
    assert last_json(trained.stdout)["status"] == "finished"
    assert f"]({experiment.name})" in (FOLDER / "README.md").read_text()
