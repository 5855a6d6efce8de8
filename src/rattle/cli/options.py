"""Types of options that several commands take."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from rattle.errors import RattleError
from rattle.settings.experiment_files import find_experiment


class _Experiment(click.Path):
    """A YAML file, or the name of an experiment that comes with Rattle; a file of that name wins."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the file, or fail with the names that there are."""
        try:
            path = find_experiment(str(value))
        except RattleError as error:
            self.fail(str(error), param, ctx)
        return Path(str(super().convert(path, param, ctx)))


EXPERIMENT = _Experiment()
ALLOW_CHANGED_CODE = click.option(
    "--allow-changed-code", is_flag=True, help="Continue a run although your code has changed since."
)
STORE = click.option(
    "--store", "store_url", metavar="URL", help="Read runs of this store: http://HOST:8123/DATABASE or chdb:///FOLDER."
)
SECURITY = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="security.KEY=VALUE",
    help="Change a setting of the section security; may be repeated.",
)


def _keep_token(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    from rattle.tokens import keep_token, read_token

    if path is not None:
        keep_token(read_token(str(path), "--token-file"))


FILE = click.Path(dir_okay=False, path_type=Path)
TOKEN_FILE = click.option(
    "--token-file",
    type=FILE,
    expose_value=False,
    callback=_keep_token,
    help="File with the token that the server requires.  [default: what RATTLE_SECURITY__TOKEN_FILE names]",
)


def _keep_authority(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    from rattle.tls import keep_tls, read_certificates, tls_files

    if path is not None:
        read_certificates(str(path), "--authority")
        keep_tls(replace(tls_files(), authority=str(path)))


AUTHORITY = click.option(
    "--authority",
    type=FILE,
    expose_value=False,
    callback=_keep_authority,
    help="File of the authority that signed the server's certificate.  [default: what RATTLE_SECURITY__AUTHORITY "
    "names]",
)
ADVERTISE = click.option(
    "--advertise",
    metavar="HOST",
    help="Name or address by which others reach it, for its first line.  [default: its own address]",
)
FOLDER = click.Path(file_okay=False, path_type=Path)


class Range(click.FloatRange):
    """A number in a range, which NaN is not: it compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("NaN is no number to work with", param, ctx)
        return number
