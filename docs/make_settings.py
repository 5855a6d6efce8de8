"""Make docs/settings.md from the settings' definitions."""

from __future__ import annotations

from pathlib import Path

from rattle.policies.own.inputs import COLUMNS, OWN_INPUTS
from rattle.settings.defaults import ALGORITHMS
from rattle.settings.defaults import SECTIONS as DEFAULTS
from rattle.settings.reference import SECTIONS, Table, metrics_of, plain, settings_of_section

PAGE = Path(__file__).with_name("settings.md")

INTRODUCTION = """# Settings

Made from their definitions by `python docs/make_settings.py`.

Settings come from the experiment's YAML file, then from environment variables, then from `--set`; the later wins. The
key `train.steps` is `train: {steps: 1000}` in YAML, `RATTLE_TRAIN__STEPS=1000` in the environment and
`--set train.steps=1000` on the command line. `--steps`, `--seconds` and `--seed` are short for the settings of these
names. Write numbers as 1000000, 1_000_000 or 1e6, lists as `[64, 64]`, no value as `null`, and put text that looks like
one of these in quotes. An empty variable, or a key of the file without a value, is ignored; `--set` needs a value.

A Gymnasium environment (`gym:ID`) takes the keyword arguments of `gymnasium.make` next to `id` and `worlds`, a
PettingZoo module (`pettingzoo:MODULE`) those of its `parallel_env`, or of its `env`, whose agents take turns.

Settings that are not given depend on the environment: on what agents observe. The next two tables replace the
defaults in the tables of the sections, the first one where agents observe cells, as in `snake`, the second one where
they observe numbers, as in most environments of Gymnasium, or one of several states, as in FrozenLake, except that a
state has no scale. Setting `algorithm.id` alone takes them too. If you set `policy.network` to another one than theirs,
the rows of the policy do not apply. The run's `config.yaml` holds the chosen settings, and a resume keeps them.
"""


def of_observations(kind: str, observed: str) -> str:
    """Return the table of the defaults that follow from a kind of observations."""
    named = [(f"{name}.{key}", value) for name, part in DEFAULTS[kind].items() for key, value in part.items()]
    named += [
        (f"algorithm.{key}` of `{algorithm}", value)
        for algorithm, part in ALGORITHMS[kind].items()
        for key, value in part.items()
    ]
    lines = [f"| `{key}` | `{plain(value)}` |" for key, value in named]
    return "\n".join([f"## Defaults where {observed} are observed", "", "| key | default |", "|---|---|", *lines, ""])


def of_own_past() -> str:
    """Return the tables of what a policy may see of its own past."""
    inputs = [f"| `{name}` | {described.meaning} |" for name, described in OWN_INPUTS.items()]
    columns = [
        f"| `{name}` | {', '.join(f'`{one}`' for one, described in OWN_INPUTS.items() if name in described.columns)} | "
        f"{meaning} |"
        for name, meaning in COLUMNS.items()
    ]
    head = ["## Inputs of the own past", "", "`policy.inputs` names some of these:", ""]
    head += ["| input | what a network sees |", "|---|---|"]
    state = ["They are made of columns, which come first in a policy's `state`, in this order:", ""]
    state += ["| column | is there with | what it holds |", "|---|---|---|"]
    return "\n".join([*head, *inputs, "", *state, *columns, ""])


def markdown(table: Table) -> list[str]:
    """Return a table as lines; keys and defaults are code."""
    head, *_ = table.head
    lines = [f"| {' | '.join(table.head)} |", "|---" * len(table.head) + "|"]
    for first, second, third in table.rows:
        code = f"`{second}`" if head == "key" and second != "-" else second
        lines.append(f"| `{first}` | {code} | {third} |")
    return lines


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, of_observations("codes", "cells"), of_observations("floats", "numbers or states")]
    for prefix, title, model in SECTIONS:
        reported = metrics_of(model)
        more = ["", "It reports of each update:", "", *markdown(reported)] if reported else []
        parts.append("\n".join([f"## {title}", "", *markdown(settings_of_section(prefix, model)), *more, ""]))
    parts.append(of_own_past())
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
