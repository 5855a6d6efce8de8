"""The command that starts services."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rattle.cli.options import EXPERIMENT, FOLDER, Range


class _Interval(Range):
    """Seconds, which may be written as 10, 10s or 2m."""

    name = "interval"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, or fail."""
        text, factor = str(value).strip(), 1
        if text.endswith("m"):
            text, factor = text[:-1], 60
        return super().convert(text.removesuffix("s"), param, ctx) * factor


@click.command("up")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--steps", type=click.IntRange(1), help="Stop after this many environment steps in all.")
@click.option("--seconds", type=Range(0, min_open=True), help="Stop after this many seconds of training.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Decides every random draw of the run.")
@click.option("--run-dir", type=FOLDER, help="Store the run here instead of in runs/RUN_ID.")
@click.option("--resume", "resume_run", metavar="RUN", help="Go on with a run from its last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines; the last is a summary.")
@click.option(
    "--kill-every", type=_Interval(0, min_open=True), metavar="INTERVAL", help="Kill a random service each 10s, say."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def up(
    experiment: Path | None,
    steps: int | None,
    seconds: float | None,
    seed: int | None,
    run_dir: Path | None,
    resume_run: str | None,
    as_json: bool,
    kill_every: float | None,
    overrides: tuple[str, ...],
) -> None:
    """Train with Env, Inference and Training services, each a process of its own, that are started again when they die.

    How many there are is the section `topology` of the experiment. Ctrl-C stops them all, with a checkpoint, and exits
    with 0. With --kill-every a random service is killed (kill -9) at this interval, to show that it does not matter.
    """
    from rattle.analytics.extras import require

    # Read by gRPC when it is imported: it would write of every connection that breaks, here and in services.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for module in ("grpc", "tenacity"):  # services say themselves what they lack
        require(module, "inference", "rattle up")
    from rattle.launch.up import resume
    from rattle.launch.up import up as start
    from rattle.trainer.settings_sources import load_settings

    if resume_run is not None:
        if experiment or run_dir or overrides or seed is not None:
            raise click.UsageError(
                "--resume goes on with the run's own settings: only --steps, --seconds, --kill-every and --json fit"
            )
        resume(resume_run, steps, seconds, kill_every=kill_every, as_json=as_json)
        return
    flags = {"train.steps": steps, "train.seconds": seconds, "seed": seed}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    settings = load_settings(experiment, [*overrides, *given], os.environ)
    start(settings, run_dir, kill_every=kill_every, as_json=as_json)
