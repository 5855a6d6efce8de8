"""The `rattle` command: parses, calls, prints. What a command needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click

from rattle.errors import RattleError

_EXPERIMENT = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


class _Range(click.FloatRange):
    """A number in a range, which NaN is not: it compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("NaN is no number to work with", param, ctx)
        return number


class _Group(click.Group):
    """Prints errors that a user can mend as one line, without a traceback, and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RattleError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rattle")
def main() -> None:
    """Train agents, watch them play, and ask what happened.

    RUN below means a run directory, a run_id from 'rattle runs' (its beginning is enough), or 'latest'.
    """


@main.command()
@click.argument("experiment", type=_EXPERIMENT, required=False)
@click.option("--steps", type=click.IntRange(1), help="Stop after this many environment steps in all.")
@click.option("--seconds", type=_Range(0, min_open=True), help="Stop after this many seconds of training.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Decides every random draw of the run.")
@click.option("--run-dir", type=_FOLDER, help="Store the run here instead of in runs/RUN_ID.")
@click.option("--resume", "resume_run", metavar="RUN", help="Go on with a run from its last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines; the last is a summary.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def train(
    experiment: Path | None,
    steps: int | None,
    seconds: float | None,
    seed: int | None,
    run_dir: Path | None,
    resume_run: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train a policy in this process; without EXPERIMENT.yaml, a snake under fog of war.

    Settings come from the file, then from environment variables (RATTLE_TRAIN__STEPS=1000), then from --set
    (train.steps=1000), the later winning. Ctrl-C stops with a checkpoint, and exits with 0.
    """
    from rattle.analytics.extras import require

    for module in ("torch", "pyarrow"):
        require(module, "train", "training")
    from rattle.trainer.display import choose_display
    from rattle.trainer.runs import resume
    from rattle.trainer.runs import train as start
    from rattle.trainer.settings_sources import load_settings

    if resume_run is not None:
        if experiment or run_dir or overrides or seed is not None:
            raise click.UsageError(
                "--resume goes on with the run's own settings: only --steps, --seconds and --json fit"
            )
        resume(resume_run, steps, seconds, choose_display(as_json=as_json))
        return
    flags = {"train.steps": steps, "train.seconds": seconds, "seed": seed}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    settings = load_settings(experiment, [*overrides, *given], os.environ)
    start(settings, run_dir, choose_display(as_json=as_json))


@main.command("eval")
@click.argument("policy", metavar="RUN|POLICY_FILE")
@click.option("--episodes", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Worlds to play.")
@click.option(
    "--greedy",
    is_flag=True,
    help="Take the likeliest action instead of drawing one: poor for policies that must search.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Decides the games.")
@click.option("--url", help="Play in the environment server at this address.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(policy: str, episodes: int, greedy: bool, seed: int, url: str | None, as_json: bool) -> None:
    """Play fresh episodes with a policy and show what they came to."""
    from rattle.trainer.evaluate import evaluate as play
    from rattle.trainer.evaluate import find_policy

    found, path, own = find_policy(policy)
    summary = play(found, episodes, seed=seed, greedy=greedy, allow_imports=own, url=url).summary()
    if as_json:
        click.echo(json.dumps({"policy": str(path), "seed": seed, "greedy": greedy, **summary}))
        return
    click.echo(f"{path}: version {summary['policy_version']} in {episodes} episodes of {summary['environment']}")
    click.echo(f"{'':12}{'mean':>12}{'deviation':>12}{'least':>12}{'most':>12}")
    for name in (key.removeprefix("mean_") for key in summary if key.startswith("mean_")):
        numbers = (summary[f"{kind}_{name}"] for kind in ("mean", "std", "min", "max"))
        click.echo(f"{name:12}" + "".join(f"{number:12.2f}" for number in numbers))


@main.command()
@click.argument("policy", metavar="RUN|POLICY_FILE")
@click.option("--onnx", "output", type=_FILE, required=True, help="Where to write the ONNX model.")
def export(policy: str, output: Path) -> None:
    """Export a policy to ONNX, checked against ONNX Runtime."""
    from rattle.analytics.writer import write_atomically
    from rattle.policies.onnx import export_onnx
    from rattle.trainer.evaluate import find_policy

    found = find_policy(policy)
    write_atomically(output, export_onnx(found.policy))
    click.echo(f"{found.path} as {output}: 'observation' in, 'logits' and 'value' out")


@main.command()
@click.argument("root", type=_FOLDER, default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a run.")
def runs(root: Path, as_json: bool) -> None:
    """List the runs in ROOT (default: runs)."""
    from rattle.analytics.run_directory import list_runs
    from rattle.analytics.runs import json_lines, table

    found = list_runs(root)
    if as_json:
        click.echo(json_lines(found), nl=False)
    else:
        click.echo(table(found) if found else f"no runs in {root}/ yet: start one with 'rattle train'")


@main.command()
@click.argument("sql")
@click.option("--run", "names", multiple=True, metavar="RUN", help="Ask these runs only; may be repeated.")
@click.option(
    "--format", "output", type=click.Choice(["pretty", "csv", "json"]), default="pretty", help="pretty, csv or json."
)
def query(sql: str, names: tuple[str, ...], output: Literal["pretty", "csv", "json"]) -> None:
    """Ask runs in SQL: the tables are runs, updates, episodes, steps and logs.

    \b
    rattle query "SELECT policy_version, avg(food) FROM episodes GROUP BY 1 ORDER BY 1 LIMIT 5"
    rattle query "SELECT run_id, max(mean_return) FROM updates GROUP BY 1" --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from rattle.analytics.query import query as ask
    from rattle.analytics.run_directory import find_run, list_runs

    click.echo(ask(sql, [find_run(name) for name in names] or list_runs(), output), nl=False)


@main.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option("--output", "-o", type=_FILE, help="The picture to write.  [default: learning_curve.png in the run]")
@click.option("--x", type=click.Choice(["env_steps", "seconds"]), default="env_steps", show_default=True)
def plot(names: tuple[str, ...], output: Path | None, x: Literal["env_steps", "seconds"]) -> None:
    """Draw learning curves, several runs in one figure."""
    from rattle.analytics.plot import plot_learning_curves
    from rattle.analytics.run_directory import find_run

    found = [find_run(name) for name in names]
    if output is None and len(found) > 1:
        raise click.UsageError("several runs belong to no run's directory: name the picture with --output")
    path = output or found[0].path / "learning_curve.png"
    plot_learning_curves(found, path, x)
    click.echo(f"learning curve: {path}")


@main.command()
@click.argument("name", metavar="RUN")
@click.option("--episode", default="last", show_default=True, help="last, best, or an id from --list.")
@click.option("--list", "as_list", is_flag=True, help="List the recorded episodes instead.")
@click.option("--json", "as_json", is_flag=True, help="With --list: one JSON object an episode.")
@click.option("--agent", type=click.IntRange(0), default=0, show_default=True, help="Whose fog is shown.")
@click.option("--fps", type=_Range(0, min_open=True), default=20.0, show_default=True, help="Ticks a second.")
@click.option("--gif", is_flag=True, help="Write replay.gif into the run instead.")
@click.option("--output", "-o", type=_FILE, help="Write this .gif or .mp4 instead.")
def replay(
    name: str,
    episode: str,
    as_list: bool,
    as_json: bool,
    agent: int,
    fps: float,
    gif: bool,
    output: Path | None,
) -> None:
    """Show a recorded episode in the terminal, with the fog, or write it as GIF or MP4."""
    from rattle.analytics.replay import json_lines, list_episodes, load_episode, play, save, table
    from rattle.analytics.run_directory import find_run

    run = find_run(name)
    if as_list:
        listed = list_episodes(run)
        click.echo(json_lines(listed) if as_json else table(listed) + "\n", nl=False)
        return
    loaded = load_episode(run, episode)
    path = output or (run.path / "replay.gif" if gif else None)
    if path is None:
        play(loaded, agent=agent, fps=fps)
    else:
        save(loaded, path, agent=agent, fps=fps)
        click.echo(f"replay: {path}")


@main.command("env")
@click.argument("experiment", type=_EXPERIMENT, required=False)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one.  [default: 5000]")
@click.option("--clock", type=click.Choice(["realtime", "turns", "sync"]), help="What advances the agent API's world.")
@click.option("--fps", type=_Range(0, min_open=True), help="Ticks a second of the clock realtime.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Decides the games of the agent API.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def env_service(
    experiment: Path | None,
    host: str | None,
    port: int | None,
    clock: str | None,
    fps: float | None,
    seed: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Serve an experiment's environment over REST.

    One agent in JSON, thousands of worlds in one binary request; watch and play at /watch, all routes are at /docs.
    The first line printed is JSON with the address. Settings come from the file, then from environment variables, then
    from --set (env.width=20, env_service.snakes=4).
    """
    from rattle.analytics.extras import require

    for module in ("fastapi", "fastapi_swagger", "uvicorn", "uvloop", "httptools", "websockets", "prometheus_client"):
        require(module, "env", "the Env service")
    from rattle.services.env.serve import run
    from rattle.trainer.settings_sources import load_settings

    flags = {"host": host, "port": port, "clock": clock, "fps": fps}
    given = [f"env_service.{key}={value}" for key, value in flags.items() if value is not None]
    given += [f"seed={seed}"] if seed is not None else []
    run(load_settings(experiment, [*overrides, *given], os.environ))


class _MockEnvCommand(click.Command):
    """Lists the faults below its options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from rattle.analytics.extras import require

        require("flask", "mock-env", "the mock environment service")
        from rattle.services.mock_env.faults import FAULTS

        with formatter.section("Faults"):
            formatter.write_dl(
                [(name, f"{fault.description} (the rule: {fault.rule})") for name, fault in FAULTS.items()]
            )


@main.command("mock-env", cls=_MockEnvCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen here; 0.0.0.0 for every interface.")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="0: any free one.")
@click.option(
    "--snakes", type=click.IntRange(1, 1000), default=8, show_default=True, help="Room for so many at a time."
)
@click.option("--length", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Moves of a script.")
@click.option(
    "--delay",
    type=_Range(0.001, 3600),
    default=0.1,
    show_default=True,
    help="Seconds that a snake waits for a move.",
)
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="Break a rule on purpose; may be repeated.")
@click.option(
    "--fault-every", type=click.IntRange(1), default=1, show_default=True, help="In every N-th line or answer."
)
@click.option("--access-log", is_flag=True, help="Write a line for each request to stderr.")
def mock_env(
    host: str,
    port: int,
    snakes: int,
    length: int,
    delay: float,
    faults: tuple[str, ...],
    fault_every: int,
    access_log: bool,
) -> None:
    """Serve a fixed script of states, for testing agents.

    It speaks the agent API and has no game. The first line on stdout is JSON that says where; SIGTERM or Ctrl-C
    stops it.
    """
    from rattle.analytics.extras import require

    require("flask", "mock-env", "the mock environment")
    from rattle.services.mock_env.server import MockSettings, serve

    serve(MockSettings(host, port, snakes, length, delay, faults, fault_every, access_log))


@main.command("check-env")
@click.argument("url", required=False)
@click.option("--timeout", type=_Range(0.1, 600), default=5.0, show_default=True, help="Seconds of a wait.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Run these checks: an id, its beginning, or with *.")
@click.option("--skip", "without", multiple=True, metavar="PATTERN", help="Leave these checks out.")
@click.option("--list", "as_list", is_flag=True, help="List the checks instead; needs no server.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a list.")
@click.option("--junit", type=_FILE, help="Write JUnit XML to this file as well.")
def check_env(
    url: str | None,
    timeout: float,
    only: tuple[str, ...],
    without: tuple[str, ...],
    as_list: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Play against the server at URL and say what is wrong.

    The server may be written in any language: docs/env-api.md is what is checked, docs/check-env.md lists the checks.
    Every game on the server is reset. Exits with 0 when nothing failed, 1 when something did, 2 when it could not run.
    """
    from rattle.analytics.extras import require

    for module in ("httpx", "websockets"):
        require(module, "clients", "check-env")
    from rattle.conformance.report import listing
    from rattle.conformance.runner import choose
    from rattle.conformance.session import check
    from rattle.conformance.table import CHECKS

    chosen = choose(CHECKS, only, without)
    if not chosen:
        raise click.UsageError("no check fits these patterns: --list lists them all")
    if as_list:
        click.echo(listing(chosen))
    elif url is None:
        raise click.UsageError("name the server, for example http://127.0.0.1:5000")
    else:
        sys.exit(check(url, timeout, chosen, as_json=as_json, junit=junit))


if __name__ == "__main__":
    sys.exit(main())
