"""The commands that train, judge and export policies."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from rattle.cli.options import ALLOW_CHANGED_CODE, AUTHORITY, EXPERIMENT, FILE, FOLDER, TOKEN_FILE, Range


@click.command(short_help="Train a policy in this process.")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--steps", type=click.IntRange(1), help="Stop after this many environment steps in all.")
@click.option("--seconds", type=Range(0, min_open=True), help="Stop after this many seconds of training.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Decides every random draw of the run.")
@click.option("--run-dir", type=FOLDER, help="Store the run here instead of in runs/RUN_ID.")
@click.option("--from", "origin", metavar="RUN|POLICYFILE", help="Begin with what this run, or policy, has learnt.")
@click.option("--resume", "resume_run", metavar="RUN", help="Continue a run from its last checkpoint.")
@ALLOW_CHANGED_CODE
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines; the last is a summary.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def train(
    experiment: Path | None,
    steps: int | None,
    seconds: float | None,
    seed: int | None,
    run_dir: Path | None,
    origin: str | None,
    resume_run: str | None,
    allow_changed_code: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train a policy in this process; without EXPERIMENT.yaml, a snake under fog of war.

    Settings come from the file, then from environment variables (RATTLE_TRAIN__STEPS=1000), then from --set
    (train.steps=1000), the later winning. Ctrl-C stops with a checkpoint, and exits with 0.
    """
    from rattle.analytics.extras import require
    from rattle.output import claim_stdout
    from rattle.rollouts.complete import complete
    from rattle.runs.first_policy import load_settings_from
    from rattle.trainer.display import choose_display

    if as_json:
        claim_stdout()
    if resume_run is not None and (experiment or run_dir or origin or overrides or seed is not None):
        raise click.UsageError(
            "--resume uses the run's own settings: only --steps, --seconds, --allow-changed-code and --json fit"
        )
    if allow_changed_code and resume_run is None:
        raise click.UsageError("--allow-changed-code goes with --resume: a new run begins with the code as it is")
    settings = None
    if resume_run is None:
        flags = {"train.steps": steps, "train.seconds": seconds, "seed": seed}
        given = load_settings_from(origin, experiment, overrides, os.environ, flags)
        settings = complete(given, say=partial(click.echo, err=True))
    # Importing PyTorch takes seconds: what is wrong with the settings, or their server, has been said before.
    for module in ("torch", "pyarrow"):
        require(module, "train", "training")
    from rattle.trainer.train import resume
    from rattle.trainer.train import train as start

    display = choose_display(as_json=as_json)
    if settings is not None:
        start(settings, run_dir, display)
    elif resume_run is not None:
        resume(resume_run, steps, seconds, display, allow_changed_code=allow_changed_code)


@click.command("eval", short_help="Play fresh episodes with a policy.")
@click.argument("policy", metavar="RUN|POLICYFILE")
@click.option("--episodes", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Worlds to play.")
@click.option(
    "--greedy",
    is_flag=True,
    help="Take the most likely action instead of drawing one: poor for policies that must search.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Decides the games.")
@click.option("--best", is_flag=True, help="Play the run's best policy instead of its newest.")
@click.option("--env", "environment", metavar="ID", help="Play this environment.  [default: what the policy names]")
@click.option("--url", help="Play in the environment server at this address.  [default: where the run has played]")
@TOKEN_FILE
@AUTHORITY
@click.option(
    "--max-ticks",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Cut episodes that last longer; they count as they are.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    policy: str,
    episodes: int,
    greedy: bool,
    seed: int,
    best: bool,
    environment: str | None,
    url: str | None,
    max_ticks: int,
    as_json: bool,
) -> None:
    """Play fresh episodes with a policy and show the results.

    For the policy file of others no module is imported for its environment, unless --env names it. If several policies
    played the agents of the same worlds, all of them play here, and each is shown.
    """
    from rattle.output import claim_stdout, write_line
    from rattle.rollouts.evaluate import evaluate as play
    from rattle.rollouts.evaluate import evaluate_together as play_together
    from rattle.runs.find_policy import find_policy
    from rattle.trainer.display import eval_progress

    if as_json:
        claim_stdout()
    found = find_policy(policy, best=best)
    path = found.path
    if url is None and (url := found.url_for(environment)) is not None:
        click.echo(f"playing at {url}, as the run has: --url names another server, and {path} plays here", err=True)
    how: dict[str, Any] = {"seed": seed, "greedy": greedy, "max_ticks": max_ticks}
    several = bool(found.together) and environment is None and url is None
    with eval_progress(max_ticks) as watch:
        if several:
            played = play_together(found.together, found.patterns, episodes, **how, watch=watch)
        else:
            how |= {"vector": found.vector if environment is None else "never", "allow_imports": found.may_import}
            one = play(found.policy, episodes, **how, environment=environment, url=url, watch=watch)
            played = {"": one}
    summaries = {name: evaluation.summary() for name, evaluation in played.items()}
    if cut := sum(summary["cut_episodes"] for summary in summaries.values()):
        click.echo(
            f"warning: {cut} episodes had not ended after {max_ticks:,} ticks and count as they stand: see --max-ticks",
            err=True,
        )
    if as_json:
        content = {"policies": summaries} if several else summaries[""]
        write_line(json.dumps({"policy": str(path), "seed": seed, "greedy": greedy, **content}))
        return
    for name, summary in summaries.items():
        _show_evaluation(name or path, summary, episodes, max_ticks)


def _show_evaluation(of: str | Path, summary: Mapping[str, Any], episodes: int, max_ticks: int) -> None:
    click.echo(f"{of}: version {summary['policy_version']} in {episodes} episodes of {summary['environment']}")
    if cut := summary["cut_episodes"]:
        click.echo(f"{cut} of the agents' episodes were cut after {max_ticks:,} ticks")
    click.echo(f"{'':12}{'mean':>12}{'deviation':>12}{'least':>12}{'most':>12}")
    for name in (key.removeprefix("mean_") for key in summary if key.startswith("mean_")):
        numbers = (summary[f"{kind}_{name}"] for kind in ("mean", "std", "min", "max"))
        click.echo(f"{name:12}" + "".join(f"{number:12.2f}" for number in numbers))


@click.command()
@click.argument("policy", metavar="RUN|POLICYFILE")
@click.option("--onnx", "output", type=FILE, required=True, help="Where to write the ONNX model.")
@click.option("--best", is_flag=True, help="Export the run's best policy instead of its newest.")
def export(policy: str, output: Path, best: bool) -> None:
    """Export a policy to ONNX, checked against ONNX Runtime."""
    from rattle.analytics.writer import write_atomically
    from rattle.policies.onnx import export_onnx
    from rattle.runs.find_policy import find_policy

    found = find_policy(policy, best=best)
    model = export_onnx(found.policy)
    write_atomically(output, model)

    import onnx  # export_onnx has said so if it is not installed

    graph = onnx.load_model_from_string(model).graph
    taken, given = (" and ".join(f"'{tensor.name}'" for tensor in side) for side in (graph.input, graph.output))
    click.echo(f"{found.path} as {output}: {taken} in, {given} out")
