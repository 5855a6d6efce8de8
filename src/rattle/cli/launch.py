"""The commands that start services."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from rattle.cli.options import ALLOW_CHANGED_CODE, EXPERIMENT, FILE, FOLDER, Range
from rattle.output import claim_stdout


class _Interval(Range):
    """Seconds, which may be written as 10, 10s or 2m."""

    name = "interval"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, or fail."""
        text, factor = str(value).strip(), 1
        if text.endswith("m"):
            text, factor = text[:-1], 60
        return super().convert(text.removesuffix("s"), param, ctx) * factor


class _Counts(click.ParamType[tuple[int, ...]]):
    """Numbers of processes, separated by commas."""

    name = "n,n,…"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers, or fail."""
        one = click.IntRange(1, 64)
        return tuple(one(part, param, ctx) for part in str(value).split(","))


def _prepare(purpose: str) -> None:
    """Load what talks to services; raises AnalyticsError where it is not installed."""
    from rattle.analytics.extras import require

    for module in ("grpc", "httptools", "tenacity"):  # services say themselves what they lack
        require(module, "inference", purpose)
    from rattle.launch import template

    template.begin(click.get_current_context().find_root().command)


@click.command("from-pipe", hidden=True)
def from_pipe() -> None:
    """Become the service that `rattle up` asks for over standard input, through a command of topology.prefix."""
    from rattle.launch.far_end import run

    run()


@click.command("up", short_help="Train with services in separate processes.")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--steps", type=click.IntRange(1), help="Stop after this many environment steps in all.")
@click.option("--seconds", type=Range(0, min_open=True), help="Stop after this many seconds of training.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Decides every random draw of the run.")
@click.option("--run-dir", type=FOLDER, help="Store the run here instead of in runs/RUN_ID.")
@click.option("--from", "origin", metavar="RUN|POLICYFILE", help="Begin with what this run, or policy, has learnt.")
@click.option("--resume", "resume_run", metavar="RUN", help="Continue a run from its last checkpoint.")
@ALLOW_CHANGED_CODE
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
    origin: str | None,
    resume_run: str | None,
    allow_changed_code: bool,
    as_json: bool,
    kill_every: float | None,
    overrides: tuple[str, ...],
) -> None:
    """Train with Env, Inference and Training services in separate processes, which restart when they crash.

    The section `topology` of the experiment says how many. Ctrl-C stops them all, with a checkpoint, and exits
    with 0. With --kill-every a random service is killed (kill -9) at this interval, to show that it does not matter.
    """
    _prepare("rattle up")
    from rattle.launch.up import resume
    from rattle.launch.up import up as start
    from rattle.runs.first_policy import load_settings_from
    from rattle.services.utils.logger import publish_by_environment

    publish_by_environment(click.get_current_context().find_root().obj)  # it starts threads: after the template
    if as_json:
        claim_stdout()
    if resume_run is not None:
        if experiment or run_dir or origin or overrides or seed is not None:
            raise click.UsageError(
                "--resume uses the run's own settings: only --steps, --seconds, --kill-every, "
                "--allow-changed-code and --json fit"
            )
        resume(
            resume_run,
            steps,
            seconds,
            kill_every=kill_every,
            as_json=as_json,
            allow_changed_code=allow_changed_code,
        )
        return
    if allow_changed_code:
        raise click.UsageError("--allow-changed-code goes with --resume: a new run begins with the code as it is")
    flags = {"train.steps": steps, "train.seconds": seconds, "seed": seed}
    settings = load_settings_from(origin, experiment, overrides, os.environ, flags)
    start(settings, run_dir, kill_every=kill_every, as_json=as_json)


@click.command("manifests", short_help="Print values or manifests for a cluster.")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--name", help="The run's name on the volume. [default: the release's name]")
@click.option("--registry", help="Where the images are, such as registry.example.org/team.")
@click.option("--tag", help="The images' tag. [default: the chart's version]")
@click.option("--plain", is_flag=True, help="Print manifests for kubectl instead; needs Helm on this machine.")
@click.option("--release", metavar="NAME", help="With --plain: what their names begin with.  [default: rattle]")
@click.option("--namespace", help="With --plain: where they belong.  [default: default]")
@click.option("--chart", type=FOLDER, help="With --plain: the chart's folder.  [default: k8s/platform of the sources]")
@click.option("--values", "files", type=FILE, multiple=True, help="With --plain: more values; may be repeated.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def manifests(
    experiment: Path | None,
    name: str | None,
    registry: str | None,
    tag: str | None,
    plain: bool,
    files: tuple[Path, ...],
    overrides: tuple[str, ...],
    **own: Any,
) -> None:
    """Print values or manifests that start the services of `rattle up` on Kubernetes.

    By default these are values of the chart k8s/platform. Install them with:

    \b
    rattle manifests EXPERIMENT | helm install RELEASE k8s/platform --values -

    With --plain they are manifests, which Helm makes from the chart and these values. The Secret with the token is not
    among them, so they may be kept in a repository:

    \b
    rattle manifests EXPERIMENT --plain | kubectl apply -f -

    Training is a Job, which is complete when the run has ended, unless the run has no end.
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from rattle.launch.manifests import chart_values, plain_manifests
    from rattle.settings.sources import load_settings
    from rattle.settings.yaml_values import dump

    values = chart_values(load_settings(experiment, overrides, os.environ), name=name, registry=registry, tag=tag)
    chosen = {key: value for key, value in own.items() if value is not None}
    if not plain:
        if chosen or files:
            raise click.UsageError("--release, --namespace, --chart and --values go with --plain: give Helm the others")
        click.echo(dump(values), nl=False)
        return
    click.echo(plain_manifests(values, more=files, **chosen), nl=False)
    secret, where = f"{chosen.get('release', 'rattle')}-token", chosen.get("namespace", "default")
    click.echo(
        f"The pods read their token from the Secret {secret}. Make it once, of a file called token, with "
        f"kubectl --namespace {where} create secret generic {secret} --from-file=token",
        err=True,
    )


@click.command("verify-determinism", short_help="Run an experiment several times and compare the runs.")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--runs", type=click.IntRange(2), help="[default: 2, or as many as --inference says]")
@click.option("--ticks", type=click.IntRange(1), default=2000, show_default=True, help="Ticks of a run.")
@click.option("--loss", type=Range(0, 0.9), default=0.2, show_default=True, help="Lose this fraction of datagrams.")
@click.option(
    "--delay",
    type=Range(0, 10),
    default=0.002,
    show_default=True,
    metavar="SECONDS",
    help="Delay each datagram by a random time, up to this many seconds.",
)
@click.option("--inference", type=_Counts(), help="Inference processes of run 1, 2, … in turn, such as 1,2,4.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option("--keep", type=FOLDER, help="Keep the runs in this folder.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def verify_determinism(
    experiment: Path | None,
    runs: int | None,
    ticks: int,
    loss: float,
    delay: float,
    inference: tuple[int, ...] | None,
    as_json: bool,
    keep: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Run an experiment several times in lockstep, and say whether all runs were the same.

    Each run starts all services; datagrams are lost and delayed at random, so that no two runs have the same timing.
    Then the histories of all worlds and agents are compared, and the policies. Without an experiment, four snakes play
    in one world. Only the environment snake can be played in lockstep, with any network and algorithm. Exits with 0
    when all runs agree, 1 when they do not, with the first tick and agent that differ, 2 when they could not be
    compared.
    """
    from rattle.errors import RattleError

    try:
        _prepare("rattle verify-determinism")
        from rattle.launch.verify import Trial, verify
        from rattle.launch.verify_view import Reporter

        if as_json:
            claim_stdout()
        counts = inference or ()
        trial = Trial(runs or max(2, len(counts)), ticks, loss, delay, counts)
        status = verify(experiment, overrides, os.environ, trial, keep, Reporter(as_json=as_json))
    except RattleError as error:
        click.echo(f"Error: {error}", err=True)
        status = 2
    sys.exit(status)
