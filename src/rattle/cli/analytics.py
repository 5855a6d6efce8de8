"""The commands that ask what happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rattle.cli.options import FILE, STORE, Range
from rattle.cli.runs import warn

if TYPE_CHECKING:
    from rattle.analytics.query import Runs
    from rattle.analytics.stored_runs import AnyRun


@click.command(short_help="Query runs with SQL.")
@click.argument("sql", metavar="SQL|-")
@click.option("--run", "names", multiple=True, metavar="RUN", help="Query these runs only; may be repeated.")
@click.option(
    "--format", "output", type=click.Choice(["pretty", "csv", "json"]), default="pretty", help="pretty, csv or json."
)
@click.option(
    "--output", "-o", "file", type=FILE, help="Write the answer to this .csv, .jsonl, .parquet or .arrow file instead."
)
@STORE
def query(
    sql: str,
    names: tuple[str, ...],
    output: Literal["pretty", "csv", "json"],
    file: Path | None,
    store_url: str | None,
) -> None:
    """Query runs with SQL: the tables are runs, updates, episodes, evaluations, steps and logs.

    Views such as learning_curve, run_comparison and errors_by_service answer common questions. With - the statement
    is read from standard input.

    \b
    rattle query "SELECT policy_version, avg(food) FROM episodes GROUP BY 1"
    rattle query --format json "SELECT run_id, max(mean_return) FROM updates GROUP BY 1"
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from rattle.analytics.query import query as ask
    from rattle.analytics.query import save

    statement = sys.stdin.buffer.read().decode(errors="surrogateescape") if sql == "-" else sql
    lenient = None if names else warn  # what was asked for by name is an error where it cannot be read
    try:
        with _asked(names, store_url) as chosen:
            if file is None:
                click.echo(ask(statement, chosen, output, lenient), nl=False)
            else:
                save(statement, chosen, file, lenient)
    except KeyboardInterrupt:
        click.echo("Aborted!", err=True)
        os._exit(130)  # the engine's threads would hold up an ordinary end


@contextmanager
def _asked(names: Sequence[str], store_url: str | None) -> Iterator[Runs]:
    """Give the runs of these names, or all, here or in a store."""
    from rattle.analytics.run_directory import find_run, list_runs, without_copies
    from rattle.analytics.stored_runs import opened_runs

    if store_url is None:
        yield without_copies([find_run(name) for name in names] or list_runs(warn=warn), warn)
        return
    with opened_runs(store_url) as runs:
        yield runs.chosen(names) if names else runs


@contextmanager
def _named(names: Sequence[str], store_url: str | None) -> Iterator[list[AnyRun]]:
    """Give the runs of these names, each once, here or in a store."""
    from rattle.analytics.run_directory import find_run
    from rattle.analytics.stored_runs import each_once, opened_runs

    if store_url is None:
        yield each_once([find_run(name) for name in names], warn)
        return
    with opened_runs(store_url) as runs:
        yield each_once([runs.find(name) for name in names])


def _place(run: AnyRun, output: Path | None, name: str) -> Path:
    """Return the file to write: `output`, or else `name` in the run's directory."""
    from rattle.analytics.run_directory import RunDirectory

    if output is not None:
        return output
    if isinstance(run, RunDirectory):
        return run.path / name
    raise click.UsageError("a run in a store has no directory: name the file with --output")


@click.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option("--output", "-o", type=FILE, help="The picture to write.  [default: learning_curve.png in the run]")
@click.option("--x", type=click.Choice(["env_steps", "seconds"]), default="env_steps", show_default=True)
@click.option(
    "--group-by",
    multiple=True,
    metavar="SETTING",
    help="Draw the mean of the runs that agree in this setting, in a band of one standard deviation; may be repeated.",
)
@click.option(
    "--label", multiple=True, metavar="SETTING", help="Name the runs by this setting in the legend; may be repeated."
)
@STORE
def plot(
    names: tuple[str, ...],
    output: Path | None,
    x: Literal["env_steps", "seconds"],
    group_by: tuple[str, ...],
    label: tuple[str, ...],
    store_url: str | None,
) -> None:
    """Draw learning curves, several runs in one figure.

    \b
    rattle plot latest
    rattle plot runs/* --group-by algorithm.learning_rate --output seeds.png
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from rattle.analytics.plot import plot_learning_curves

    with _named(names, store_url) as found:
        if output is None and len(found) > 1:
            raise click.UsageError("several runs belong to no run's directory: name the picture with --output")
        path = _place(found[0], output, "learning_curve.png")
        plot_learning_curves(found, path, x, group_by=group_by, label_by=label)
    click.echo(f"learning curve: {path}")


@click.command(short_help="Show a recorded episode in the terminal, or film it.")
@click.argument("name", metavar="RUN")
@click.option("--episode", default="last", show_default=True, help="last, best, or an id from --list.")
@click.option("--list", "as_list", is_flag=True, help="List the recorded episodes instead.")
@click.option("--json", "as_json", is_flag=True, help="With --list: one JSON object per episode.")
@click.option("--agent", type=click.IntRange(0), default=0, show_default=True, help="Whose fog is shown.")
@click.option("--fps", type=Range(0, min_open=True), default=20.0, show_default=True, help="Ticks per second.")
@click.option("--gif", is_flag=True, help="Write replay.gif into the run instead.")
@click.option("--output", "-o", type=FILE, help="Write this .gif or .mp4 instead; MP4 needs ffmpeg.")
@STORE
def replay(
    name: str,
    episode: str,
    as_list: bool,
    as_json: bool,
    agent: int,
    fps: float,
    gif: bool,
    output: Path | None,
    store_url: str | None,
) -> None:
    """Show a recorded episode in the terminal, with the fog, or write it as GIF or MP4.

    Environments of Gymnasium and PettingZoo that have the render mode rgb_array draw their own pictures, as the
    episode is played again; of others, curves are drawn.
    """
    from rattle.analytics.replay import json_lines, list_episodes, load_episode, play, table

    with _named([name], store_url) as (run,):
        if as_list:
            listed = list_episodes(run)
            click.echo(json_lines(listed) if as_json else table(listed) + "\n", nl=False)
            return
        path = _place(run, output, "replay.gif") if gif or output else None
        loaded = load_episode(run, episode)
    if path is None:
        play(loaded, agent=agent, fps=fps)
    else:
        from rattle.runs.filming import save_replay

        if (why := save_replay(run, loaded, path, agent=agent, fps=fps)) is not None:
            click.echo(f"curves are drawn: {why}", err=True)
        click.echo(f"replay: {path}")
