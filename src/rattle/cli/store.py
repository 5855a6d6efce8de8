"""The commands about stores, where a cluster keeps its runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from rattle.cli.options import ADVERTISE, FOLDER
from rattle.cli.runs import warn


@click.command("create-tables", short_help="Make the tables of runs in a store, or update them.")
@click.argument("url")
def create_tables(url: str) -> None:
    """Make the tables of runs in the store at URL, or bring those of an earlier version up to date.

    URL is http://USER:PASSWORD@HOST:8123/DATABASE of a ClickHouse server, or chdb:///FOLDER for a folder on this
    machine. Running it again changes nothing. A store of a newer version of Rattle is refused.
    """
    from rattle.analytics.store import SCHEMA_VERSION, open_store
    from rattle.analytics.store import create_tables as create

    with open_store(url, create=True) as store:
        steps = create(store)
        done = f"brought to schema {SCHEMA_VERSION}" if steps else f"has schema {SCHEMA_VERSION} already"
        click.echo(f"{store.url} {done}")


@click.command("ingest", short_help="Take rows from the broker, or load run directories.")
@click.argument("directories", metavar="[RUN_DIR]...", nargs=-1, type=FOLDER)
@click.option("--broker", metavar="URL", help="amqp[s]://USER:PASSWORD@HOST:PORT/VHOST of the broker.")
@click.option("--store", metavar="URL", help="http[s]://USER:PASSWORD@HOST:8123/DATABASE, or chdb:///FOLDER.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@ADVERTISE
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port of status and metrics; 0: any free one.  [default: 8006]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def ingest(
    directories: tuple[Path, ...], broker: str | None, store: str | None, overrides: tuple[str, ...], **own: Any
) -> None:
    """Take rows from the broker into a store, or load run directories into it.

    Without RUN_DIR it continues until it is stopped: rows are acknowledged when they are stored, so no row is lost
    if any process crashes, and duplicates count once. Several may run at a time. The first line printed is JSON with
    the address of its status. A RUN_DIR may be a run, or a folder of runs; loading it again adds new rows.
    """
    from rattle.analytics.extras import require
    from rattle.settings.sources import load_settings

    require("clickhouse_connect", "ingest", "ingest")
    named = {"telemetry.broker": broker, "telemetry.store": store}
    flags = {**named, **{f"ingest.{key}": value for key, value in own.items()}}
    settings = load_settings(None, overrides, os.environ, flags=flags)
    if settings.telemetry.store is None:
        raise click.UsageError("name the store with --store")
    if directories:
        _load(directories, settings.telemetry.store)
        return
    for module in ("uvicorn", "uvloop", "httptools", "prometheus_client", "tenacity", "pika"):
        require(module, "ingest", "ingest")
    from rattle.services.ingest.serve import run

    found = settings.telemetry.find_broker()
    if found is None:
        raise click.UsageError("name the broker with --broker, or run directories to load")
    run(settings, found, settings.telemetry.store)


def _load(directories: tuple[Path, ...], url: str) -> None:
    """Load run directories, or all in a folder, into a store; one that cannot be read does not keep others out."""
    from rattle.analytics.errors import AnalyticsError
    from rattle.analytics.run_directory import list_runs, without_copies
    from rattle.analytics.store import StoreError, check_tables, open_store
    from rattle.analytics.store.load import load_run

    found = without_copies([run for root in directories for run in list_runs(root, warn)], warn)
    if not found:
        raise click.UsageError(f"there is no run in {', '.join(map(str, directories))}")
    failed = 0
    with open_store(url) as store:
        check_tables(store)
        for run in found:
            try:
                load_run(store, run)
            except StoreError:
                raise
            except AnalyticsError as error:
                failed += 1
                click.echo(f"Warning: {error}: {run.path} is left out", err=True)
            else:
                click.echo(f"loaded {run.path}")
    if failed:
        sys.exit(1)
