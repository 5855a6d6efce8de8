"""Make docs/commands.md from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import click

from rattle.cli import main

PAGE = Path(__file__).with_name("commands.md")

INTRODUCTION = """# Commands

Made from the commands by `python docs/make_commands.py`. `rattle COMMAND --help` says the same.
"""


def commands(group: click.Group, name: str) -> Iterator[tuple[click.Context, click.Command]]:
    """Yield the commands of a group and of the groups in it, each with the context that it is called in."""
    context = click.Context(group, info_name=name)
    found = ((one, group.get_command(context, one)) for one in group.list_commands(context))
    for one, command in ((one, command) for one, command in found if command and not command.hidden):
        below = click.Context(command, info_name=f"{name} {one}")
        yield below, command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {one}")


def section(context: click.Context, command: click.Command) -> str:
    """Return what the page says of a command: its usage, its help, its options."""
    usage = " ".join([str(context.info_name), *command.collect_usage_pieces(context)])
    about = "\n\n".join(paragraph(text) for text in inspect.cleandoc(command.help or "").split("\n\n"))
    told = (parameter.get_help_record(context) for parameter in command.params)
    rows = [f"| `{record[0]}` | {plain(record[1])} |" for record in told if record and record[1]]
    table = ["", "| option | meaning |", "|---|---|", *rows] if rows else []
    return "\n".join([f"## `{context.info_name}`", "", f"    {usage}", "", about, *table, ""])


def paragraph(text: str) -> str:
    """Return a paragraph of a help text; one that click is told to leave as it is, is a block of code."""
    text = text.strip("\n ")
    return indent(text.removeprefix("\b").strip("\n"), "    ") if text.startswith("\b") else text


def plain(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", r"\|")


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(section(context, command) for context, command in commands(main, "rattle"))])


if __name__ == "__main__":
    PAGE.write_text(page())
