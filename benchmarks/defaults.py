"""How fast environments are learnt with nothing set but `env.id`, and with settings that are tuned for each."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

from measure import report, table

RATTLE = [sys.executable, "-P", "-m", "rattle.cli"]
SEEDS = (0, 1, 2)
SECONDS = 180

#: The mean return over 100 episodes at which each counts as learnt.
TARGETS = {"CartPole-v1": 475, "Acrobot-v1": -100, "LunarLander-v3": 200}
#: PPO's settings in cartpole-ppo.yaml and, elsewhere, RL Baselines3 Zoo; batches of 64 samples are minibatches here.
TUNED = {
    "CartPole-v1": "passes=4 minibatches=4 learning_rate=0.004",
    "Acrobot-v1": "worlds=16 ticks=256 minibatches=64 passes=4 learning_rate=0.0003 trace_decay=0.94",
    "LunarLander-v3": "worlds=16 ticks=1024 minibatches=256 passes=4 learning_rate=0.0003 discount=0.999 "
    "trace_decay=0.98 entropy_weight=0.01",
}


def settings(environment: str, *, tuned: bool) -> list[str]:
    """Return the settings of a run."""
    own = TUNED[environment].split() if tuned else []
    named = [f"{'env' if setting.startswith('worlds') else 'algorithm'}.{setting}" for setting in own]
    return [f"env.id=gym:{environment}", f"train.stop_at_return={TARGETS[environment]}", *named]


def learn(folder: str, environment: str, seed: int, *, tuned: bool) -> tuple[str, ...]:
    """Train from the start of the process until the environment is learnt; return a row of the table."""
    run = f"{folder}/{environment}-{seed}-{tuned}"
    command = [*RATTLE, "train", "--seed", str(seed), "--seconds", str(SECONDS), "--run-dir", run, "--json"]
    for setting in settings(environment, tuned=tuned):
        command += ["--set", setting]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    took = time.perf_counter() - began
    summary = json.loads(done.stdout.splitlines()[-1])
    is_learnt = summary["mean_return"] is not None and summary["mean_return"] >= TARGETS[environment]
    return (
        environment,
        "tuned" if tuned else "env.id only",
        str(seed),
        f"{took:.1f}" if is_learnt else "never",
        f"{summary['seconds']:.1f}",
        f"{summary['env_steps']:,}",
        f"{summary['mean_return']:.1f}",
    )


def main() -> None:
    """Learn each environment that is installed, three seeds each."""
    environments = [name for name in TARGETS if name != "LunarLander-v3" or all(map(find_spec, ("Box2D", "pygame")))]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            learn(folder, environment, seed, tuned=tuned)
            for environment in environments
            for tuned in (False, True)
            for seed in SEEDS
        ]
    heading = ("environment", "settings", "seed", "seconds from the start", "training", "steps", "mean return")
    targets = ", ".join(f"{name} {target}" for name, target in TARGETS.items() if name in environments)
    report(
        "defaults",
        "Learning with the defaults",
        f"`rattle train --set env.id=gym:ID` until the mean return of the last 100 episodes is: {targets}. From the "
        f"start of the process, with imports; never: not within {SECONDS} seconds of training. Beside it, PPO with "
        "settings for the environment: those of cartpole-ppo.yaml and, elsewhere, of RL Baselines3 Zoo.",
        table(heading, rows),
        *(() if "LunarLander-v3" in environments else ["LunarLander-v3 needs Box2D, which is not installed here."]),
    )


if __name__ == "__main__":
    main()
