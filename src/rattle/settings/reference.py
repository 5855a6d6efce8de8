"""All settings as tables: for the reference page, and for `rattle settings`."""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

import gymnasium
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rattle.envs.snake.settings import Rewards, SnakeSettings
from rattle.envs.user_worlds import find_class, settings_model
from rattle.envs.validation import constructor_model, own_model
from rattle.envs.wrappers import WrapperSection
from rattle.extensions import (
    ALGORITHM,
    ENVIRONMENT,
    HOOK,
    NETWORK,
    WRAPPER,
    Extension,
    ExtensionError,
    Kind,
    entry_point_names,
    load,
)
from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
from rattle.learning.algorithms.choosing import find as find_algorithm
from rattle.learning.metrics import Metric
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import (
    HOOKS,
    CodeSection,
    EnvironmentSection,
    EvaluationSection,
    ExperimentSettings,
    HookSection,
    LogSection,
    RecordSection,
    TrainSection,
)
from rattle.settings.hook import Hook
from rattle.settings.policy import EncodersSection, PolicySection, RecurrentSection
from rattle.settings.services import (
    EnvServiceSection,
    InferenceSection,
    IngestSection,
    SecuritySection,
    SyncSection,
    TelemetrySection,
    TopologySection,
    TrainingSection,
)
from rattle.text import nearest


class Section(NamedTuple):
    """Settings that stand side by side."""

    prefix: str  # of their keys
    title: str
    model: type[BaseModel]


class Table(NamedTuple):
    """What a section holds, in three columns."""

    head: tuple[str, str, str]
    rows: list[tuple[str, str, str]]


SECTIONS = [
    Section("", "An experiment", ExperimentSettings),
    Section("env.", "Environment", EnvironmentSection),
    Section("env.wrappers[N].", "Wrappers of environments", WrapperSection),
    Section("env.", "Environment `snake`", SnakeSettings),
    Section("env.rewards.", "What a tick pays in `snake`", Rewards),
    Section("env_service.", "The Env service", EnvServiceSection),
    Section("training.", "The Training service", TrainingSection),
    Section("inference.", "The Inference service", InferenceSection),
    Section("sync.", "The Sync service and its members", SyncSection),
    Section("ingest.", "The ingest service", IngestSection),
    Section("security.", "Security of all services", SecuritySection),
    Section("topology.", "What `rattle up` starts", TopologySection),
    Section("policy.", "Policy", PolicySection),
    Section("policy.", "Networks `mingru` and `gru`", RecurrentSection),
    Section("policy.", "Networks `encoders`, `nature_cnn` and `impala_cnn`", EncodersSection),
    Section("algorithm.", "Algorithm `a2c`", A2C),
    Section("algorithm.", "Algorithm `ppo`", PPO),
    Section("algorithm.", "Algorithm `reinforce`", Reinforce),
    Section("train.", "Training", TrainSection),
    Section("evaluation.", "Evaluation in fresh games", EvaluationSection),
    Section("record.", "Recording", RecordSection),
    Section("log.", "Logging", LogSection),
    Section("telemetry.", "Telemetry", TelemetrySection),
    Section("hooks[N].", "Hooks", HookSection),
    *(
        Section("hooks[N].", f"Hook `{name}`", model)
        for name in HOOKS
        if (model := HookSection(use=name).extension.cls.Settings).model_fields
    ),
    Section("code[N].", "Code of users", CodeSection),
]

#: Where the settings of a user's class stand, by kind.
_PREFIXES = {
    ALGORITHM: "algorithm.",
    ENVIRONMENT: "env.",
    HOOK: "hooks[N].",
    NETWORK: "policy.",
    WRAPPER: "env.wrappers[N].",
}


def settings_of_section(prefix: str, model: type[BaseModel]) -> Table:
    """Return keys, defaults and meanings; sections within have tables of their own."""
    rows = []
    for name, field in model.model_fields.items():
        default: Any = field.get_default(call_default_factory=True)
        if not isinstance(default, BaseModel):
            shown = "-" if default is PydanticUndefined else plain(default)
            meaning = field.description or ("Chooses this algorithm." if name == "id" else "-")
            rows.append((f"{prefix}{name}", shown, meaning))
    return Table(("key", "default", "meaning"), rows)


def metrics_of(declaring: type) -> Table | None:
    """Return names, units and meanings of what a class reports of each update; None where it reports nothing."""
    metrics = [metric for metric in getattr(declaring, "metrics", ()) if isinstance(metric, Metric)]
    rows = [(metric.name, metric.unit or "-", metric.explanation) for metric in metrics]
    return Table(("metric", "unit", "meaning"), rows) if rows else None


def plain(value: Any) -> str:
    """Return a value as YAML has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def describe(name: str) -> list[tuple[Section, Table | None]]:
    """Return the sections that a name means, with what their classes report.

    It is the name of a section, of something that comes with Rattle, such as `ppo`, or of a user's class. Raises a
    RattleError.
    """
    own = [(section, metrics_of(section.model)) for section in SECTIONS if name in _names(section)]
    path = HOOKS.get(name, name)  # one without settings has no section
    return own or [_of_user(path, kind) for kind in _kinds(path)]


def _names(section: Section) -> set[str]:
    """Return the names of a section: its key, and what it is of where that has a name, as in "Algorithm `ppo`"."""
    return {re.split(r"[.\[]", section.prefix)[0], *section.title.split("`")[1:2]} - {""}


def _kinds(name: str) -> list[Kind]:
    """Return which kinds of thing a user's class, or the name of an entry point, is; raises a RattleError."""
    if ":" not in name:
        if kinds := [kind for kind in _PREFIXES if name in entry_point_names(kind)]:
            return kinds
        known = {
            word for section in SECTIONS for word in (section.prefix.split(".")[0], *section.title.split("`")[1:2])
        }
        raise SettingsError(
            f"there are no settings of '{name}'{nearest(name, known) or ''}: name a section, such as train, or your "
            "own class, as module:Class"
        )
    cls = load(name, Kind("class", "a"), object).cls
    network = getattr(sys.modules.get("rattle.policies.graph.network"), "Network", None)
    if issubclass(cls, Algorithm):
        return [ALGORITHM]
    if issubclass(cls, Hook):
        return [HOOK]
    if issubclass(cls, gymnasium.Wrapper):
        return [WRAPPER]
    return [NETWORK] if network is not None and issubclass(cls, network) else [ENVIRONMENT]


def _of_user(name: str, kind: Kind) -> tuple[Section, Table | None]:
    extension, model = _model(name, kind)
    about = f": {lines[0]}" if (lines := (extension.cls.__doc__ or "").strip().splitlines()) else ""
    return Section(_PREFIXES[kind], f"{kind.noun.capitalize()} `{name}`{about}", model), metrics_of(extension.cls)


def _model(name: str, kind: Kind) -> tuple[Extension[Any], type[BaseModel]]:
    if kind == ALGORITHM:
        algorithm = find_algorithm(name)
        assert algorithm is not None and algorithm.extension is not None  # noqa: S101, PT018  # it is a user's
        return algorithm.extension, algorithm
    if kind == ENVIRONMENT:
        found = find_class(name)
        if found is None:
            raise ExtensionError(f"'{name}' is {ENVIRONMENT.word} whose settings show when it is made")
        return found, settings_model(found)
    extension: Extension[Any] = load(name, kind, object)
    if kind == WRAPPER:
        return extension, constructor_model(extension, skip=1)
    return extension, own_model(extension)
