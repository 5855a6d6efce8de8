"""The `rattle` command: parses, calls, prints. What a command needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

import click

from rattle.cli.analytics import plot, query, replay
from rattle.cli.certificates import certificates
from rattle.cli.dashboard import dashboard
from rattle.cli.inspect import inspect
from rattle.cli.launch import from_pipe, manifests, up, verify_determinism
from rattle.cli.learning import evaluate, export, train
from rattle.cli.runs import runs
from rattle.cli.services import check_env, env_service, inference_service, mock_env, sync_service, training_service
from rattle.cli.settings import settings
from rattle.cli.store import create_tables, ingest
from rattle.errors import RattleError
from rattle.output import hush_libraries
from rattle.text import one_line, printable

#: Commands that serve until they are stopped: what they log is for programs, where no terminal shows it.
_SERVICES = ("env", "training", "inference", "sync", "mock-env", "ingest", "dashboard")
#: How a standard output says that it takes no more.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF)


class _Group(click.Group):
    """Prints errors that a user can mend as one line, without a traceback, and exits with 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command; what the system refuses, such as to write to a full disk, is an error like others."""
        _open_standard_streams()
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be UTF-8
        try:
            return super().main(*args, **extra)
        except OSError as error:
            click.echo(f"Error: {_refused(error)}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RattleError as error:
            _tell(ctx, error)
            raise click.ClickException(one_line(printable(error))) from error  # it may quote strangers
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise
        except Exception as error:
            _tell_of_crash(ctx, error)
            raise
        except KeyboardInterrupt:  # while a command starts; what has begun ends in its own way
            ctx.exit(128 + signal.SIGINT)


def _tell(ctx: click.Context, error: RattleError) -> None:
    """Write down why a command ends, and leave it at that where that is shown as JSON."""
    from rattle.events import About, emit, of_services

    logs, kind = ctx.obj, getattr(error, "event", of_services.Error)
    if logs is not None:
        emit(kind(error=str(error)), about=About(quiet=logs.console != "json"))
        if logs.console == "json":
            ctx.exit(1)


def _tell_of_crash(ctx: click.Context, error: Exception) -> None:
    """Write down an error that nobody thought of, and leave it at that where that is shown as JSON."""
    from rattle.events import About, emit, of_services

    said = of_services.Crashed(where="the command", error=one_line(f"{type(error).__name__}: {error}"))
    emit(said, error=error, about=About(quiet=ctx.obj is None or ctx.obj.console != "json"))
    if ctx.obj is not None and ctx.obj.console == "json":
        ctx.exit(1)


def _open_standard_streams() -> None:
    """Have closed ones lead nowhere: files and sockets that are opened later would take their places."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))  # the lowest that is free: its own


def _refused(error: OSError) -> str:
    """Return in one line what the system has refused."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{one_line(os.fsdecode(error.filename), 200)}: {reason}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{reason}: raise the limit with ulimit -n"
    if error.errno not in _OF_WRITING:
        return reason
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer would fail once more
    return f"cannot write to standard output: {reason}"


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(None, "-V", "--version", package_name="rattle")
@click.option("--leash", is_flag=True, hidden=True)  # for the processes that `rattle up` starts
@click.pass_context
def main(ctx: click.Context, leash: bool) -> None:
    """Train agents, watch them play, and ask what happened.

    RUN below means a run directory, a run_id from 'rattle runs' (its beginning is enough), or 'latest'.
    EXPERIMENT means a YAML file, or the name of one that comes with Rattle, such as cartpole; a file of that name wins.
    """
    from rattle.services.utils.logger import setup

    hush_libraries()
    service = ctx.invoked_subcommand or "rattle"
    ctx.obj = setup(
        service,
        console="json" if leash or service == "from-pipe" else "auto" if service in _SERVICES else "brief",
        publish=service in (*_SERVICES, "train"),  # `up` forks first: see rattle.launch.template
    )
    ctx.call_on_close(ctx.obj.close)
    if leash:
        from rattle.cli.leash import hold

        hold(ctx.obj)


for command in (
    train,
    evaluate,
    export,
    up,
    from_pipe,
    manifests,
    verify_determinism,
    runs,
    query,
    plot,
    replay,
    settings,
    inspect,
):
    main.add_command(command)
for command in (
    env_service,
    training_service,
    inference_service,
    sync_service,
    ingest,
    create_tables,
    dashboard,
    certificates,
    mock_env,
    check_env,
):
    main.add_command(command)
