"""The command `rattle runs`: lists runs, and keeps what people say of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from rattle.cli.options import FOLDER, STORE
from rattle.text import nearest, one_line

if TYPE_CHECKING:
    from rattle.analytics.annotations import Annotations
    from rattle.analytics.run_directory import RunDirectory


def warn(line: str) -> None:
    """Print a warning of what is left out of an answer."""
    click.echo(f"Warning: {line}", err=True)


class _Runs(click.Group):
    """Lists runs where the first argument is no command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] [ROOT] | COMMAND RUN...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Command.format_options(self.commands["list"], ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_Runs, short_help="List runs, or tag, note, archive or delete some.")
def runs() -> None:
    """List the runs in ROOT (default: runs), or tag, note, archive or delete some."""


@runs.command("list")
@click.argument("root", type=FOLDER, default=Path("runs"))
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="List runs with this tag only; may be repeated.")
@click.option("--all", "with_archived", is_flag=True, help="List archived runs too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run.")
@STORE
def list_all(root: Path, tags: tuple[str, ...], with_archived: bool, as_json: bool, store_url: str | None) -> None:
    """List the runs in ROOT (default: runs), or in a store."""
    from rattle.analytics.runs import json_lines, table

    rows = _rows_of(root) if store_url is None else _rows_of_store(store_url)
    tagged = [row for row in rows if set(tags) <= set(row["tags"])]
    chosen = [row for row in tagged if with_archived or not row["archived"]]
    if as_json:
        click.echo(json_lines(chosen), nl=False)
        return
    where, start = (f"{root}/", ": start one with 'rattle train'") if store_url is None else ("the store", "")
    if chosen:
        click.echo(table(chosen))
    elif not rows:
        click.echo(f"no runs in {where} yet{start}")
    if hidden := len(tagged) - len(chosen):
        click.echo(f"{hidden} archived: --all lists them too", err=True)
    elif rows and not chosen:
        click.echo(f"none of the {len(rows)} runs in {where} has the tags {', '.join(tags)}", err=True)


def _rows_of(root: Path) -> list[dict[str, Any]]:
    from rattle.analytics.run_directory import list_runs, without_copies
    from rattle.analytics.runs import directory_rows

    if not root.exists() and (near := nearest(str(root), runs.commands)):
        raise click.UsageError(f"there is no folder {root}{near}")
    return directory_rows(without_copies(list_runs(root, warn), warn))


def _rows_of_store(url: str) -> list[dict[str, Any]]:
    from rattle.analytics.runs import stored_rows
    from rattle.analytics.stored_runs import opened_runs

    with opened_runs(url) as found:
        return stored_rows(found)


_NAMES = click.argument("names", metavar="RUN...", nargs=-1, required=True)


class _Annotated(NamedTuple):
    """A run that something is said of, wherever it lies."""

    name: str
    read: Callable[[], Annotations]
    change: Callable[[Callable[[Annotations], Annotations]], Annotations]


@contextmanager
def _annotated(names: Sequence[str], store_url: str | None) -> Iterator[list[_Annotated]]:
    """Yield the runs of these names, each once."""
    if store_url is None:
        from rattle.analytics.annotations import annotate, read_annotations

        yield [
            _Annotated(one_line(run.path), partial(read_annotations, run), partial(annotate, run))
            for run in _find(names)
        ]
        return
    from rattle.analytics.store.annotations import annotate_stored, read_stored
    from rattle.analytics.stored_runs import opened_runs

    with opened_runs(store_url) as found:
        chosen, store = dict.fromkeys(found.find(name).run_id for name in names), found.store
        yield [
            _Annotated(run_id, partial(read_stored, store, run_id), partial(annotate_stored, store, run_id))
            for run_id in chosen
        ]


def _find(names: Sequence[str]) -> list[RunDirectory]:
    """Return the runs of these names, each once."""
    from rattle.analytics.run_directory import distinct, find_run

    return distinct(find_run(name) for name in names)


@runs.command()
@_NAMES
@click.option("--add", "-a", multiple=True, metavar="TAG", help="Give the runs this tag; may be repeated.")
@click.option("--remove", "-r", multiple=True, metavar="TAG", help="Take this tag from the runs; may be repeated.")
@STORE
def tag(names: tuple[str, ...], add: tuple[str, ...], remove: tuple[str, ...], store_url: str | None) -> None:
    """Add or remove tags of runs, and print what tags they have.

    \b
    rattle runs tag latest --add baseline --remove draft
    rattle runs --tag baseline
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from rattle.analytics.annotations import Annotations

    Annotations().with_tags(add)  # wrong ones change no run
    with _annotated(names, store_url) as chosen:
        for run in chosen:
            tagged = run.change(lambda said: said.with_tags(add, remove)) if add or remove else run.read()
            click.echo(f"{run.name}: {', '.join(tagged.tags) or 'no tags'}")


@runs.command(short_help="Write a note on a run, or print its note.")
@click.argument("name", metavar="RUN")
@click.argument("text", metavar="[TEXT|-]", required=False)
@STORE
def note(name: str, text: str | None, store_url: str | None) -> None:
    """Write a note on a run, or print its note; "" deletes it, and - reads it from standard input."""
    with _annotated([name], store_url) as (run,):
        if text is None:
            click.echo(run.read().note)
            return
        written = sys.stdin.buffer.read().decode(errors="replace") if text == "-" else text
        run.change(lambda said: said.with_note(written.strip()))


@runs.command(short_help="Hide runs from 'rattle runs'; nothing is deleted.")
@_NAMES
@click.option("--undo", is_flag=True, help="List them again.")
@STORE
def archive(names: tuple[str, ...], undo: bool, store_url: str | None) -> None:
    """Hide runs from 'rattle runs'; nothing is deleted, and other commands find them."""
    with _annotated(names, store_url) as chosen:
        for run in chosen:
            run.change(lambda said: said.with_archived(not undo))


@runs.command()
@_NAMES
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@STORE
def delete(names: tuple[str, ...], yes: bool, store_url: str | None) -> None:
    """Delete runs, with their tables, checkpoints and policies.

    Files that do not belong to a run stay. A run in progress is refused.
    """
    if store_url is not None:
        _delete_stored(names, store_url, yes=yes)
        return
    from rattle.analytics.delete_run import check_deletable, delete_run, size_of
    from rattle.analytics.runs import directory_rows, table

    found = _find(names)
    for run in found:
        check_deletable(run)
    if not yes:
        _confirm(table(directory_rows(found)), len(found), f", {sum(map(size_of, found)) / 1e6:,.1f} MB")
    for run in found:
        left = delete_run(run)
        kept = f"; kept what is not the run's: {', '.join(left)}" if left else ""
        click.echo(f"deleted {one_line(run.path)}{kept}")


def _delete_stored(names: Sequence[str], url: str, *, yes: bool) -> None:
    from rattle.analytics.runs import stored_rows, table
    from rattle.analytics.store.delete_run import check_deletable, delete_stored
    from rattle.analytics.stored_runs import opened_runs

    with opened_runs(url) as found:
        chosen = list(dict.fromkeys(found.find(name).run_id for name in names))
        for run_id in chosen:
            check_deletable(found.store, run_id)
        if not yes:
            shown = [row for row in stored_rows(found) if row["run_id"] in chosen]
            _confirm(table(shown), len(chosen), " from the store")
        for run_id in chosen:
            delete_stored(found.store, run_id)
            click.echo(f"deleted {one_line(run_id)}")


def _confirm(table: str, count: int, what: str) -> None:
    """Show runs and ask whether they should be deleted; ends the command where they are not."""
    click.echo(table)
    which = "this run" if count == 1 else f"these {count} runs"
    click.confirm(f"Delete {which}{what} permanently?", abort=True)
