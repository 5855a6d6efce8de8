"""The command that lists settings."""

from __future__ import annotations

import click


@click.command(short_help="List the settings of experiments, with defaults.")
@click.argument("name", metavar="[NAME]", required=False)
def settings(name: str | None) -> None:
    """List the settings of experiments, with their defaults and meanings.

    NAME is a section, such as train, what comes with Rattle, such as ppo, or your own class, as module:Class: an
    algorithm, an environment, a hook or a network.
    """
    from rattle.output import write_line
    from rattle.settings.reference import SECTIONS, Table, describe, metrics_of, settings_of_section

    def show(table: Table) -> None:
        if not table.rows:
            write_line("  (no settings of its own)")
            return
        rows = [table.head, *table.rows]
        first, second = (min(40, max(len(row[column]) for row in rows)) for column in (0, 1))
        for row in rows:
            write_line(f"  {row[0]:{first}}  {row[1]:{second}}  {row[2]}".rstrip())

    chosen = describe(name) if name is not None else [(one, metrics_of(one.model)) for one in SECTIONS]
    for number, (section, reported) in enumerate(chosen):
        write_line(("\n" if number else "") + section.title.replace("`", ""))
        show(settings_of_section(section.prefix, section.model))
        if reported is not None:
            show(reported)
