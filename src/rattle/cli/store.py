"""The commands about stores, where a cluster keeps its runs."""

from __future__ import annotations

import click


@click.command("create-tables")
@click.argument("url")
def create_tables(url: str) -> None:
    """Make the tables of runs in the store at URL, or bring those of an earlier version up to date.

    URL is http://USER:PASSWORD@HOST:8123/DATABASE of a ClickHouse server, or chdb:///FOLDER for a folder on this
    machine. To run it again changes nothing. A store of a newer version of Rattle is refused.
    """
    from rattle.analytics.store import SCHEMA_VERSION, open_store
    from rattle.analytics.store import create_tables as create

    with open_store(url, create=True) as store:
        steps = create(store)
        done = f"brought to schema {SCHEMA_VERSION}" if steps else f"has schema {SCHEMA_VERSION} already"
        click.echo(f"{store.url} {done}")
