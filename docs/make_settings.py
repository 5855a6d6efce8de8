"""Make docs/settings.md from the settings' definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rattle.envs.snake.settings import Rewards, SnakeSettings
from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
from rattle.settings.defaults import ALGORITHMS
from rattle.settings.defaults import SECTIONS as DEFAULTS
from rattle.settings.experiment import (
    CodeSection,
    EnvironmentSection,
    EvaluationSection,
    ExperimentSettings,
    HookSection,
    LogSection,
    PolicySection,
    RecordSection,
    TrainSection,
)
from rattle.settings.services import EnvServiceSection, InferenceSection, SyncSection, TopologySection, TrainingSection

PAGE = Path(__file__).with_name("settings.md")

SECTIONS: list[tuple[str, str, type[BaseModel]]] = [
    ("", "An experiment", ExperimentSettings),
    ("env.", "Environment", EnvironmentSection),
    ("env.", "Environment `snake`", SnakeSettings),
    ("env.rewards.", "What a tick pays in `snake`", Rewards),
    ("env_service.", "The Env service", EnvServiceSection),
    ("training.", "The Training service", TrainingSection),
    ("inference.", "The Inference service", InferenceSection),
    ("sync.", "The Sync service and its members", SyncSection),
    ("topology.", "What `rattle up` starts", TopologySection),
    ("policy.", "Policy", PolicySection),
    ("algorithm.", "Algorithm `a2c`", A2C),
    ("algorithm.", "Algorithm `ppo`", PPO),
    ("algorithm.", "Algorithm `reinforce`", Reinforce),
    ("train.", "Training", TrainSection),
    ("evaluation.", "Evaluation in fresh games", EvaluationSection),
    ("record.", "Recording", RecordSection),
    ("log.", "Logging", LogSection),
    ("hooks.N.", "Hooks", HookSection),
    ("code.N.", "Code of users", CodeSection),
]

INTRODUCTION = """# Settings

Made from their definitions by `python docs/make_settings.py`.

Settings come from the experiment's YAML file, then from environment variables, then from `--set`; the later wins. The
key `train.steps` is `train: {steps: 1000}` in YAML, `RATTLE_TRAIN__STEPS=1000` in the environment and
`--set train.steps=1000` on the command line. `--steps`, `--seconds` and `--seed` are short for the settings of these
names. Numbers are written 1000000, 1_000_000 or 1e6, lists `[64, 64]`, nothing `null`, and text that looks like one of
these in quotes. An empty variable, or a key of the file without a value, says nothing; `--set` needs a value.

A Gymnasium environment (`gym:ID`) takes the keyword arguments of `gymnasium.make` beside `id` and `worlds`, a
PettingZoo module (`pettingzoo:MODULE`) those of its `parallel_env`.

What is not given follows from the environment. The tables of the sections have the defaults for cell codes, as `snake`
observes. Where agents observe numbers, as in most environments of Gymnasium, those of the next table take their place;
`algorithm.id` without more takes them too. The run's `config.yaml` holds what was chosen, and a resume keeps it.
"""


def rows(prefix: str, model: type[BaseModel]) -> list[str]:
    """Return a table row for each setting of a section; sections have tables of their own."""
    lines = []
    for name, field in model.model_fields.items():
        default: Any = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            continue
        shown = "-" if default is PydanticUndefined else f"`{_plain(default)}`"
        lines.append(f"| `{prefix}{name}` | {shown} | {field.description or 'Chooses this algorithm.'} |")
    return lines


def of_numbers() -> str:
    """Return the table of the defaults that follow from observations of numbers."""
    named = [(f"{name}.{key}", value) for name, part in DEFAULTS["floats"].items() for key, value in part.items()]
    named += [
        (f"algorithm.{key}` of `{algorithm}", value)
        for algorithm, part in ALGORITHMS["floats"].items()
        for key, value in part.items()
    ]
    lines = [f"| `{key}` | `{_plain(value)}` |" for key, value in named]
    return "\n".join(["## Defaults where numbers are observed", "", "| key | default |", "|---|---|", *lines, ""])


def metrics(model: type[BaseModel]) -> list[str]:
    """Return a table of what an algorithm reports of an update; nothing for other sections."""
    if not issubclass(model, Algorithm):
        return []
    head = ["", "It reports of each update:", "", "| metric | unit | meaning |", "|---|---|---|"]
    return [*head, *(f"| `{name}` | {unit or '-'} | {meaning} |" for name, unit, meaning in model.metrics)]


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, of_numbers()]
    for prefix, title, model in SECTIONS:
        table = ["| key | default | meaning |", "|---|---|---|", *rows(prefix, model), *metrics(model)]
        parts.append("\n".join([f"## {title}", "", *table, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
