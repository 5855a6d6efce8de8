"""The command that looks at an environment."""

from __future__ import annotations

import json
import os

import click

from rattle.cli.options import Range


@click.command()
@click.argument("environment", metavar="ENV_ID")
@click.option(
    "--seconds", type=Range(0, min_open=True), default=2.0, show_default=True, help="Play it for about so long."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
@click.pass_context
def inspect(ctx: click.Context, environment: str, seconds: float, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Say what an environment is, how it would be trained, how fast it is and what is wrong with it.

    ENV_ID is what env.id takes: snake, gym:ID, pettingzoo:MODULE, or module:Class. It is played with random actions.
    Exits with 1 where it cannot be trained.

    \b
    rattle inspect gym:CartPole-v1
    rattle inspect gym:Taxi-v4 --set env.max_episode_steps=50 --json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from rattle.output import claim_stdout, write_line
    from rattle.runs.inspection import inspect as look_at
    from rattle.settings.sources import load_settings

    claim_stdout()
    found = look_at(load_settings(None, overrides, os.environ, flags={"env.id": environment}), seconds)
    if as_json:
        write_line(json.dumps(found.content()))
    else:
        for name, text in found.rows():
            write_line(f"{name:16}{text}")
    ctx.exit(found.failed)
