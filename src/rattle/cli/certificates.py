"""The command that makes certificates."""

from __future__ import annotations

from pathlib import Path

import click

from rattle.cli.options import FOLDER


@click.command(short_help="Make certificates and keys for services and clients.")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="Name or address by which clients reach it; may be repeated."
)
def certificates(folder: Path, hosts: tuple[str, ...]) -> None:
    """Make certificates and keys for services and clients in DIR, and print the settings that use them.

    Your own authority, a certificate for the services of the machine that --host names, and one for clients, each
    with its key. Services are also known as localhost, 127.0.0.1 and ::1. Run it again with the names of another
    machine to add that: the authority of DIR signs for it, too. Existing files are never changed.
    """
    from rattle.analytics.extras import require
    from rattle.analytics.writer import storing

    require("cryptography", "certificates", "rattle certificates")
    from rattle.certificates import make_set
    from rattle.settings.yaml_values import dump

    with storing(folder):
        authority, certificate, key = make_set(folder, hosts)
    signing, client = authority.with_suffix(".key"), authority.with_name("client.pem")
    click.echo(
        f"# For the services of {certificate.stem}. Keep {signing} away from them: it adds machines.\n"
        f"# Add 'mutual: true' to ask clients for a certificate: {client} and its key are one for them."
    )
    made = {"authority": authority, "certificate": certificate, "private_key": key}
    click.echo(dump({"security": {name: str(path.absolute()) for name, path in made.items()}}), nl=False)
