"""The settings of an experiment: one definition for YAML files, environment variables and `--set`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rattle.envs.validation import OwnSettings, StrictSettings, UsedClass
from rattle.envs.vector import Vector
from rattle.envs.wrappers import MOST_WRAPPERS, WrapperSection
from rattle.extensions import HOOK, Extension, load
from rattle.learning.algorithms import A2C, AlgorithmSettings
from rattle.settings.hook import Hook
from rattle.settings.policy import AnyPolicySection, PolicySection
from rattle.settings.services import (
    EnvServiceSection,
    InferenceSection,
    IngestSection,
    Processes,
    SecuritySection,
    ServerUrl,
    SyncSection,
    TelemetrySection,
    TopologySection,
    TrainingSection,
)

#: Sections that may be written as a single value, and the key in them that it is the value of.
SHORT_FORMS = {"sync": "mode", "algorithm": "id"}


class EnvironmentSection(OwnSettings):
    """Which environment, how many worlds of it, and the environment's own settings."""

    id: str = Field(
        "snake",
        description="snake, gym:ID for any Gymnasium environment, such as gym:CartPole-v1, gym:MODULE:ID for one that "
        "MODULE registers when it is imported, also a file MODULE.py in this folder, pettingzoo:MODULE for any "
        "PettingZoo module, envpool:ID for any environment of EnvPool, or module:Class for one of your own.",
    )
    worlds: int = Field(1024, ge=1, le=2**20, description="Worlds that are played at the same time.")
    vector: Vector = Field(
        "never",
        description="Whether gym:ID is stepped as one batch by the vector environment that it is registered with. "
        "auto: where there is one; always: and nothing else will do. That is quicker, but worlds then share what they "
        "draw, so that games depend on env.worlds and train.actors, and a resume begins new episodes. never: each "
        "world plays the same games in any batch.",
    )
    url: ServerUrl | None = Field(
        None,
        examples=["http://127.0.0.1:5000"],
        description="Play in the environment server at this address; null: in this process. Credentials in it "
        "are sent and not stored: a resume takes them from RATTLE_CREDENTIALS.",
    )
    wait_seconds: float = Field(60.0, ge=0, description="How long to wait for an environment server that is down.")

    answer_seconds: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="How long to wait for an answer of an environment server before asking again; a worker process "
        "whose worlds make no tick for so long is restarted.",
    )
    processes: Processes = Field(
        "auto",
        examples=[4],
        description="Worker processes that step the worlds, at least one for each of `train.actors`; 1: they are "
        "stepped in this process. auto: the cores, where worlds are stepped one by one in Python and measured steps "
        "take long enough. The policy is the same for any number.",
    )

    wrappers: tuple[WrapperSection, ...] = Field(
        (),
        max_length=MOST_WRAPPERS,
        description="Wrappers around each environment, the first one innermost, such as [{use: TimeLimit, "
        "max_episode_steps: 200}, {use: FrameStackObservation, stack_size: 4}]; not for snake and your own Worlds.",
    )

    @property
    def own_settings(self) -> dict[str, Any]:
        """Return what the environment itself is told, and what goes around it."""
        around = {"wrappers": [one.model_dump(mode="json") for one in self.wrappers]} if self.wrappers else {}
        return {**super().own_settings, **around}


class TrainSection(StrictSettings):
    """How long to train, and on what."""

    steps: int | None = Field(
        40_000_000, ge=1, description="Stop after this many environment steps in all; null: never."
    )
    seconds: float | None = Field(None, gt=0, description="Stop after this many seconds of this command; null: never.")
    stop_at_return: float | None = Field(
        None, description="Stop when the mean return of the last 100 episodes is at least this; null: never."
    )
    max_reward: float | None = Field(
        1e6,
        gt=0,
        description="A reward beyond this, or beyond its negative, is a fault of the environment: `rattle train` "
        "ends, and Training refuses the rollout; null: any finite number is a reward.",
    )
    actors: int = Field(2, ge=1, le=64, description="Parts into which the worlds are divided, one thread each.")
    checkpoint_seconds: float = Field(
        10.0,
        gt=0,
        description="A checkpoint about this often: more often soon after a start, less often on a slow disk.",
    )
    keep_checkpoints: int = Field(2, ge=1, description="Number of the newest checkpoints to keep.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Device of the learner: cpu, or cuda for a GPU.")


class EvaluationSection(StrictSettings):
    """Fresh games that newer policies of a run are judged by; nothing is learnt from them."""

    every_steps: int | None = Field(
        None,
        ge=1,
        examples=[1_000_000],
        description="Evaluate the policy after each so many environment steps, and keep as the best the one with the "
        "highest mean return of an evaluation; null: never.",
    )
    episodes: int = Field(100, ge=1, le=100_000, description="Games of an evaluation, each in its own world.")
    greedy: bool = Field(
        False, description="Take the most likely action instead of drawing one: poor for policies that must search."
    )
    max_ticks: int = Field(
        100_000, ge=1, description="Cut games of an evaluation that last longer; they count as they are."
    )


class RecordSection(StrictSettings):
    """What is kept of the games in addition to their results."""

    every_episodes: int = Field(
        5, ge=0, description="Record every n-th episode of the first world in full, for replays; 0: none."
    )


class LogSection(StrictSettings):
    """What else is told of a run."""

    tensorboard: bool = Field(False, description="Short for the hook tensorboard, after all others.")
    system_seconds: float = Field(
        5.0, ge=0, description="How often the load of each process goes into the table logs; 0: never."
    )


#: Hooks that come with Rattle.
HOOKS = {
    "tensorboard": "rattle.hooks.tensorboard:TensorBoard",
    "wandb": "rattle.hooks.wandb:WandB",
    "mlflow": "rattle.hooks.mlflow:MLflow",
}


class HookSection(UsedClass):
    """A hook, and its own settings in addition to `use`."""

    use: str = Field(description=f"{', '.join(HOOKS)}, module:Class, or the name that an installed package gives it.")

    @property
    def extension(self) -> Extension[Hook]:
        """Return its class; raises ExtensionError."""
        return load(HOOKS.get(self.use, self.use), HOOK, Hook, HOOKS)

    @property
    def is_built_in(self) -> bool:
        """Whether it comes with Rattle."""
        return self.use in HOOKS


class CodeSection(StrictSettings):
    """A class of a user that an experiment is made with."""

    name: str = Field(description="module:Class, where it is defined.")
    sha256: str = Field(description="Hash of the file that defines it.")
    version: str | None = Field(None, description="Version of the package that it was installed with; null: none.")


def _as_pattern(text: str) -> str:
    """Return a regular expression; raises ValueError for what is none."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"'{text}' is no regular expression: {error}") from None
    return text


#: Patterns of agents' names, and the names of the policies that play these agents.
PoliciesOfAgents = dict[
    Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_as_pattern)],
    Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")],
]


class ExperimentSettings(StrictSettings):
    """An experiment."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=80,
        pattern=r"^[A-Za-z0-9._-]+$",
        examples=["snake"],
        description="Names its runs; null: after the environment, such as cartpole for gym:CartPole-v1.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Decides every random draw of the run.")
    env: EnvironmentSection = Field(default_factory=EnvironmentSection)
    env_service: EnvServiceSection = Field(default_factory=EnvServiceSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    inference: InferenceSection = Field(default_factory=InferenceSection)
    sync: SyncSection = Field(default_factory=SyncSection)
    ingest: IngestSection = Field(default_factory=IngestSection)
    security: SecuritySection = Field(default_factory=SecuritySection)
    topology: TopologySection = Field(default_factory=TopologySection)
    policy: AnyPolicySection = Field(default_factory=PolicySection)
    policies: PoliciesOfAgents = Field(
        {},
        max_length=64,
        examples=[{"wolf_.*": "hunter", "sheep_.*": "prey"}],
        description="Which policy plays which agents of a PettingZoo environment: patterns (regular expressions) of "
        "agents' names, and names of policies. The first pattern that matches the whole name counts; each policy has "
        "the spaces of its agents and learns from them alone. {}: one policy plays all agents.",
    )
    algorithm: AlgorithmSettings = Field(default_factory=A2C)
    train: TrainSection = Field(default_factory=TrainSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    record: RecordSection = Field(default_factory=RecordSection)
    log: LogSection = Field(default_factory=LogSection)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)
    hooks: tuple[HookSection, ...] = Field(
        (), max_length=64, description="Your own classes that follow the run, such as [{use: my_hooks:Mine}]."
    )
    code: tuple[CodeSection, ...] = Field(
        (), description="Written by Rattle: which classes of users a run began with; code that has changed is refused."
    )

    @property
    def all_hooks(self) -> tuple[HookSection, ...]:
        """Return the hooks, with that of `log.tensorboard`."""
        implied = self.log.tensorboard and not any(hook.use == "tensorboard" for hook in self.hooks)
        return (*self.hooks, HookSection(use="tensorboard")) if implied else self.hooks

    @property
    def experiment(self) -> str:
        """Return what the experiment is called: its name, or one made of its environment's id."""
        return self.name or _name_after(self.env.id)

    @model_validator(mode="before")
    @classmethod
    def _follow_the_sync_mode(cls, values: Any) -> Any:
        """Take `sync: MODE` for `sync.mode`, and have a mode decide what else is not said."""
        if not isinstance(values, dict) or "sync" not in values:
            return values
        sync = values["sync"]
        sync = {SHORT_FORMS["sync"]: sync} if isinstance(sync, str) else sync
        implied: dict[str, dict[str, str]] = {}
        if isinstance(sync, dict) and sync.get("mode") in ("pace", "lockstep"):
            implied = {"env_service": {"clock": "sync"}, "inference": {"api": "agent"}}
        sections = {name: values.get(name, {}) for name in implied}
        merged = {name: {**implied[name], **said} for name, said in sections.items() if isinstance(said, dict)}
        return {**values, "sync": sync, **merged}

    @model_validator(mode="after")
    def _listens_long_enough(self) -> Self:
        if self.sync.silence_seconds < 2 * self.sync.heartbeat_seconds:
            raise ValueError(
                "sync.silence_seconds must be at least two heartbeats (sync.heartbeat_seconds): members that are busy "
                "are heard once a heartbeat"
            )
        return self

    @model_validator(mode="after")
    def _plays_by_the_tick(self) -> Self:
        wrong = {
            "env_service.clock is not sync": self.env_service.clock != "sync",
            "inference.api is not agent": self.inference.api != "agent",
            "env.id is not snake, the only one with an agent API": self.env.id != "snake",
        }
        found = [what for what, is_so in wrong.items() if is_so]
        if self.sync.mode != "none" and found:
            raise ValueError(f"sync.mode is {self.sync.mode}, but {found[0]}: change one of them")
        return self

    @model_validator(mode="after")
    def _can_be_played_by_several(self) -> Self:
        if not self.policies:
            return self
        wrong = {
            "env.url is set": self.env.url is not None,
            "env.processes is not 1 or auto": self.env.processes not in (1, "auto"),
            "evaluation.every_steps is set": self.evaluation.every_steps is not None,
            "train.keep_checkpoints is 1": self.train.keep_checkpoints < 2,
            "policy.weights is set": self.policy.weights is not None,
            "algorithm.id is reinforce, which plays whole episodes": self.algorithm.complete_episodes,
        }
        found = [what for what, is_so in wrong.items() if is_so]
        if found:
            raise ValueError(
                f"policies are played in one process, each from drawn weights, but {found[0]}: change that"
            )
        return self

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Return the names of the policies that play agents together, in their order; none where one plays all."""
        return tuple(dict.fromkeys(self.policies.values()))

    @model_validator(mode="after")
    def _has_room_for_its_index(self) -> Self:
        if self.inference.index >= self.topology.inference:
            raise ValueError(
                f"inference.index counts the processes from 0, so it must be below topology.inference, "
                f"{self.topology.inference}"
            )
        return self


def _name_after(environment: str) -> str:
    """Return the last part of an environment's id without its version, in letters that a run's name may have."""
    kind, _, rest = environment.partition(":")
    last = re.split(r"[:/.]" if kind == "pettingzoo" else r"[:/]", rest or kind)[-1]
    name = re.sub(r"[-_]v\d+$", "", last.lower())
    return re.sub(r"[^a-z0-9._-]+", "-", name)[:80] or "run"
