"""End-to-end training speed beside its floor, and what writing things down costs.

The floor is the time of the bare parts for the same samples on the same two threads: the compiled step alone, the
compiled forward pass alone, and PyTorch's forward, backward and Adam step alone on inputs that are encoded already.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import median_seconds, report, side_by_side, table

from rattle.envs.snake import kernel as snake_kernel
from rattle.learning.algorithms.algorithm import Batch
from rattle.rollouts.worlds import build_worlds
from rattle.runs.new_runs import name_run, store_beginning
from rattle.runs.run_clock import RunLimits
from rattle.samples.rollout import as_tensors
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings
from rattle.trainer.display import JsonDisplay
from rattle.trainer.loop import TrainingRun, train_together

THREADS = 2
SECONDS = 12.0
REPEATS = 5


class QuietDisplay(JsonDisplay):
    """Does all that the JSON display does, but keeps the lines from the screen."""

    @staticmethod
    def _print(content: dict[str, Any]) -> None:
        str(content)


def train(settings: ExperimentSettings, seconds: float) -> tuple[TrainingRun, float, float]:
    """Train for some seconds; return the run, its steps a second and the share of time spent writing things down."""
    with tempfile.TemporaryDirectory() as folder:
        directory, run_id, environments = name_run(settings, Path(folder))
        [environment] = environments.values()
        store_beginning(directory, run_id, settings, environment)
        run = TrainingRun(settings, directory, run_id)
        run.start()
        display = QuietDisplay()
        writing = 0.0

        def timed(work: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*arguments: Any) -> Any:
                nonlocal writing
                began = time.perf_counter()
                try:
                    return work(*arguments)
                finally:
                    writing += time.perf_counter() - began

            return wrapper

        run.recorder.write_down = timed(run.recorder.write_down)  # type: ignore[method-assign]
        run.recorder.checkpoint = timed(run.recorder.checkpoint)  # type: ignore[method-assign]
        display.update = timed(display.update)  # type: ignore[method-assign]
        [summary] = train_together([run], RunLimits(None, seconds), display, lambda: False)
        run.close()
    return run, summary.env_steps_per_second, writing / summary.seconds


def bare_act(run: TrainingRun) -> list[Callable[[], object]]:
    """Return for each thread the forward passes of a rollout alone, on what the run observed last."""
    settings, policy, buffer = run.settings, run.policy, run.collector.buffer
    half = settings.env.worlds // THREADS
    outputs = [(np.zeros(half, np.int64), *np.zeros((2, half), np.float32)) for _ in range(THREADS)]

    def act(thread: int) -> None:
        action, log_prob, value = outputs[thread]
        for tick in range(settings.algorithm.ticks):  # type: ignore[union-attr]
            observation = buffer.observation[tick, half * thread : half * (thread + 1)]
            policy.act(observation, tick=tick, action=action, log_prob=log_prob, value=value)

    return [lambda: act(0), lambda: act(1)]


def bare_learn(run: TrainingRun, pool: ThreadPoolExecutor) -> Callable[[], object]:
    """Return PyTorch's forward, backward and Adam step alone, for one rollout whose inputs are encoded already."""
    algorithm, network = run.settings.algorithm, run.learner._network
    batch = algorithm.prepare(as_tensors(run.collector.buffer))  # type: ignore[union-attr]
    encoded = run.learner.spec.observation.encode(batch.observation)
    weights, samples = list(network.parameters()), len(batch)
    optimiser = torch.optim.Adam(weights, lr=1e-6, fused=True)

    def gradient(thread: int) -> tuple[torch.Tensor, ...]:
        torch.set_num_threads(1)
        rows = slice(samples // THREADS * thread, samples // THREADS * (thread + 1))
        part = Batch(
            batch.observation[rows],
            batch.action[rows],
            batch.advantage[rows],
            batch.target[rows],
            batch.log_prob[rows],
            batch.value[rows],
            batch.weight[rows],
        )
        hidden = encoded[rows]
        for layer in network.trunk:
            hidden = network.activation(layer(hidden))
        policy = run.learner.spec.action.distribution(network.policy(hidden))
        loss = algorithm.loss(policy, network.value(hidden).squeeze(1), part).total  # type: ignore[union-attr]
        return torch.autograd.grad(loss / samples, weights)

    def learn() -> None:
        gradients = list(pool.map(gradient, range(THREADS)))
        for weight, one, other in zip(weights, *gradients, strict=True):
            weight.grad = one + other
        optimiser.step()

    return learn


def bare_parts(run: TrainingRun, step: Callable[[int], None]) -> dict[str, float]:
    """Return the seconds that each bare part takes for one rollout; `step` steps a thread's worlds through one."""
    with ThreadPoolExecutor(THREADS) as pool:
        steps = [lambda: step(0), lambda: step(1)]
        return {
            "step": median_seconds(side_by_side(pool, steps), 40),
            "act": median_seconds(side_by_side(pool, bare_act(run)), 40),
            "learn": median_seconds(bare_learn(run, pool), 40),
        }


def floor_parts(run: TrainingRun) -> dict[str, float]:
    """Return the seconds that each bare part takes for one rollout of the run's policy."""
    settings, collector = run.settings, run.collector
    ticks, half = settings.algorithm.ticks, settings.env.worlds // THREADS  # type: ignore[union-attr]
    buffer = collector.buffer
    worlds = [build_worlds(settings, half, half * thread) for thread in range(THREADS)]
    for thread, part in enumerate(worlds):
        part.restore(collector.batches[thread].state())

    def step(thread: int) -> None:
        part = worlds[thread]
        for tick in range(ticks):
            action = buffer.action[tick, half * thread : half * (thread + 1)]
            snake_kernel.step(part._worlds, action, part._outputs, part._rules, part._tables)  # type: ignore[attr-defined]

    return bare_parts(run, step)


def main() -> None:
    """Measure floor and training in turn, several times, and report medians."""
    torch.set_num_threads(1)
    settings = load_settings(None)
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"actors": THREADS})})
    train(settings, 3.0)
    ratios, speeds, shares, floors = [], [], [], []
    for seed in range(REPEATS):
        run, speed, share = train(settings.model_copy(update={"seed": seed}), SECONDS)
        parts = floor_parts(run)
        samples = settings.env.worlds * settings.algorithm.ticks  # type: ignore[union-attr]
        floor = samples / sum(parts.values())
        floors.append({**parts, "all": samples / floor, "speed": floor})
        speeds.append(speed)
        ratios.append(speed / floor)
        shares.append(share)
        print(f"seed {seed}: {speed:,.0f} steps/s, floor {floor:,.0f}, ratio {speed / floor:.2f}, writing {share:.2%}")
    middle = {name: statistics.median(parts[name] for parts in floors) for name in floors[0]}
    rows = [
        ("floor: bare kernel", f"{samples / middle['step']:,.0f}"),
        ("floor: bare forward pass", f"{samples / middle['act']:,.0f}"),
        ("floor: bare forward, backward and Adam", f"{samples / middle['learn']:,.0f}"),
        ("floor: the three in turn", f"{middle['speed']:,.0f}"),
        ("**`rattle train`, end to end**", f"**{statistics.median(speeds):,.0f}**"),
    ]
    report(
        "training",
        "Training, end to end",
        f"The default experiment, one process, {THREADS} threads ({settings.env.worlds} worlds, network 120-64-64-4); "
        f"medians of {REPEATS} runs of {SECONDS:.0f} seconds, each followed by its floor.",
        table(("", "environment steps/s"), rows),
        f"End to end, the median run reaches **{statistics.median(ratios):.0%}** of the floor measured beside it "
        f"(least {min(ratios):.0%}, most {max(ratios):.0%}). Writing tables, recordings, checkpoints and the display "
        f"takes **{statistics.median(shares):.1%}** of the time (most {max(shares):.1%}).",
    )


if __name__ == "__main__":
    main()
