"""The command that looks at an environment."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap

import click

from rattle.cli.options import Range


@click.command(short_help="Describe an environment, and say what is wrong.")
@click.argument("environment", metavar="ENV_ID")
@click.option(
    "--seconds", type=Range(0, min_open=True), default=2.0, show_default=True, help="Play for about this many seconds."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
@click.pass_context
def inspect(ctx: click.Context, environment: str, seconds: float, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Describe an environment: its spaces, the settings of a training, its speed and its problems.

    ENV_ID is a value of env.id: snake, gym:ID, pettingzoo:MODULE, or module:Class. It is played with random actions.
    Exits with 1 if no policy can be trained in it.

    \b
    rattle inspect gym:CartPole-v1
    rattle inspect gym:Taxi-v4 --set env.max_episode_steps=50 --json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from rattle.output import claim_stdout, write_line
    from rattle.runs.inspection import inspect as look_at
    from rattle.settings.sources import load_settings

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    claim_stdout()
    found = look_at(load_settings(None, overrides, os.environ, flags={"env.id": environment}), seconds)
    if as_json:
        write_line(json.dumps(found.content()))
    else:
        for name, text in found.rows():
            write_line(f"{name:16}{_folded(text, width)}")
    ctx.exit(found.failed)


def _folded(text: str, width: int | None) -> str:
    """Return a text that fits between the names and the edge of a terminal; as it is where there is none."""
    if width is None:
        return text
    lines = textwrap.wrap(text, max(24, width - 16), break_long_words=False, break_on_hyphens=False)
    return ("\n" + 16 * " ").join(lines)
