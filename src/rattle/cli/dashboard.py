"""The command that shows runs in a browser."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import click

from rattle.cli.options import ADVERTISE, FOLDER, SECURITY, STORE


@click.command(short_help="Show runs, or a store, on a page in the browser.")
@click.argument("root", type=FOLDER, required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@ADVERTISE
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@STORE
@SECURITY
def dashboard(
    root: Path | None,
    host: str,
    advertise: str | None,
    port: int,
    store_url: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Show the runs in ROOT (default: runs), or those of a store, in a browser.

    Shows runs as a table, learning curves, runs in progress, recorded episodes tick by tick, and SQL. It only
    reads, and it needs no network. Anyone who reaches its address sees all of these runs.
    The first line printed is JSON with the address; SIGTERM or Ctrl-C stops it.
    """
    if root is not None and store_url is not None:
        raise click.UsageError("show the runs in ROOT, or those of a store, not both")
    from rattle.analytics.extras import require

    for module in (
        "jinja2",
        "plotly",
        "prometheus_client",
        "starlette",
        "uvicorn",
        "uvloop",
        "httptools",
        "websockets",
    ):
        require(module, "dashboard", "the dashboard")
    from rattle.output import claim_stdout
    from rattle.services.dashboard.directories import RunDirectories
    from rattle.services.dashboard.serve import run
    from rattle.settings.sources import load_security

    security = load_security(overrides, os.environ)
    claim_stdout()
    if store_url is None:
        run(RunDirectories(root or Path("runs")), host, port, security, advertise)
        return
    from rattle.analytics.store.connection import StoreAway
    from rattle.services.dashboard.stored import StoreRuns

    source = StoreRuns(store_url)
    with suppress(StoreAway):  # it may come later
        source.check()
    run(source, host, port, security, advertise)
