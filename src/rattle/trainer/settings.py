"""The settings of an experiment: one definition for YAML files, environment variables and `--set`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from rattle.addresses import keep_credentials
from rattle.envs.validation import StrictSettings
from rattle.learning.algorithms import A2C, AlgorithmSettings
from rattle.policies.spec import Activation

#: A server's URL, which holds no credentials once it is read: `rattle.addresses` keeps those, and no run stores any.
ServerUrl = Annotated[str, AfterValidator(keep_credentials)]

#: Sections that may be written as a single value, and the key in them that it is the value of.
SHORT_FORMS = {"sync": "mode", "algorithm": "id"}


class EnvironmentSection(StrictSettings):
    """Which environment, how many worlds of it, and the environment's own settings beside these."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str = Field(
        "snake",
        description="snake, gym:ID for any Gymnasium environment, such as gym:CartPole-v1, or pettingzoo:MODULE for "
        "any PettingZoo module with a parallel_env.",
    )
    worlds: int = Field(1024, ge=1, le=2**20, description="Worlds that are played side by side.")
    url: ServerUrl | None = Field(
        None,
        examples=["http://127.0.0.1:5000"],
        description="Play in the environment server at this address; null: in this process. Credentials in it "
        "are sent and not stored: a resume takes them from RATTLE_CREDENTIALS.",
    )
    wait_seconds: float = Field(60.0, ge=0, description="How long to wait for an environment server that is away.")

    @property
    def own_settings(self) -> dict[str, Any]:
        """Return what the environment itself is told."""
        return dict(self.model_extra or {})


class EnvServiceSection(StrictSettings):
    """The Env service: where it listens, what advances the world of the agent API, and what it allows."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all, :: for all of IPv6 too.")
    port: int = Field(5000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    clock: Literal["realtime", "turns", "sync"] = Field(
        "realtime", description="realtime: `fps` ticks a second; turns: when all have moved; sync: by datagrams."
    )
    fps: float = Field(10.0, gt=0, le=1000, description="Ticks a second of the clock realtime.")
    turn_seconds: float = Field(1.0, gt=0, description="Clock turns: the longest wait for moves.")
    sync_port: int = Field(5556, ge=0, le=65535, description="Clock sync: UDP port that ticks arrive at; 0: any.")
    snakes: int | None = Field(
        None, ge=1, le=4096, description="Snakes that the agent API's world has room for; null: env.num_snakes."
    )
    leave_seconds: float = Field(5.0, ge=0, description="How long a snake stays after its last reader has gone.")
    max_sessions: int = Field(64, ge=0, description="Sessions of the vector API at a time.")
    max_worlds: int = Field(65536, ge=1, description="Worlds in one session.")
    max_memory_bytes: int = Field(2**31, ge=2**20, description="What the worlds of all sessions may take.")
    max_body_bytes: int = Field(2**24, ge=2**10, description="The largest request body.")
    session_seconds: float = Field(300.0, gt=0, description="An unused session ends after this.")
    max_connections: int = Field(20_000, ge=1, description="Connections at a time; more are answered with 503.")


class TrainingSection(StrictSettings):
    """The Training service: where it listens, which rollouts it learns from, and what it allows."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all, :: for all of IPv6 too.")
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    mode: Literal["sync", "async"] = Field(
        "sync",
        description="sync: an update waits for a rollout of every world by the newest policy, which is reproducible; "
        "async: rollouts are taken as they come.",
    )
    policies: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")], ...] = Field(
        ("main",), min_length=1, max_length=64, description="Names of the policies that are trained, each by itself."
    )
    max_policy_age: int = Field(
        4, ge=0, description="Mode async: rollouts of policies that are older, in updates, are not learnt from."
    )
    max_waiting: int = Field(
        1, ge=1, description="Rollouts of one actor that may wait: its receipts are held back until there are fewer."
    )
    max_message_bytes: int = Field(2**28, ge=2**16, lt=2**31, description="The largest rollout or policy.")

    @field_validator("policies")
    @classmethod
    def _are_different(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(policies)) < len(policies):
            raise ValueError("names a policy twice")
        return policies


class InferenceSection(StrictSettings):
    """The Inference service: where it listens, which agents it plays, and what it allows."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all, :: for all of IPv6 too.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the REST API; 0: any free one.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Port of the gRPC API; 0: any free one.")
    training: tuple[str, ...] = Field(
        ("127.0.0.1:50051",),
        min_length=1,
        description="Addresses of the Training services: policy i is trained by number i modulo their count.",
    )
    envs: tuple[ServerUrl, ...] = Field(
        ("http://127.0.0.1:5000",), min_length=1, description="URLs of the Env services, which actors take in turn."
    )
    any_env: bool = Field(
        False, description="Whether actors that are added over REST may play at URLs that `envs` does not name."
    )
    index: int = Field(0, ge=0, description="Which of the topology.inference processes this is.")
    api: Literal["vector", "agent"] = Field(
        "vector", description="vector: play batches of worlds; agent: play single snakes, by the agent API."
    )
    actors: int | None = Field(
        None, ge=1, le=64, description="Actors of a process, a thread each; null: one for each Env service at least."
    )
    snakes: int = Field(4, ge=1, le=1024, description="API agent: snakes that all processes play together.")
    max_queue: int = Field(4096, ge=1, description="Rows that may wait for a forward pass; more are refused.")
    max_body_bytes: int = Field(2**24, ge=2**10, lt=2**31, description="The largest request.")
    max_connections: int = Field(4096, ge=1, description="Connections at a time; more are answered with 503.")


class SyncSection(StrictSettings):
    """The Sync service, where it listens and whom it leads; and its members: where they find it."""

    mode: Literal["none", "pace", "lockstep"] = Field(
        "none",
        description="pace: datagrams at a fixed frequency advance the agent API's world; lockstep: every tick "
        "waits for all who take part, so that a run is the same every time. `sync: lockstep` is short for this key.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all, :: for all of IPv6 too.")
    port: int = Field(5555, ge=0, le=65535, description="UDP port to listen on; 0: any free one.")
    http_port: int = Field(8005, ge=0, le=65535, description="Port of status and metrics, HTTP; 0: any free one.")
    frequency: float | None = Field(
        None, gt=0, le=10_000, description="Ticks a second, at most in lockstep; null: 10, or as fast as all answer."
    )
    participants: tuple[str, ...] = Field(
        (),
        max_length=256,
        description="Pace: HOST:PORT of everybody who is told; lockstep: names of the members that are waited for, and "
        "of nobody else (empty: any). `rattle up` adds those that it starts.",
    )
    members: int = Field(2, ge=1, le=256, description="Lockstep: begin when so many have joined, if none are named.")
    ticks: int | None = Field(None, ge=1, description="End after this many ticks; null: never.")
    silent: Literal["wait", "drop", "forward"] = Field(
        "wait",
        description="What becomes of a member that is not heard: it is waited for, loses its seat, or is played on "
        "without until it is heard; environments are waited for in any case.",
    )
    silence_seconds: float = Field(2.0, ge=0.1, description="A member that is not heard for so long is suspected.")
    heartbeat_seconds: float = Field(0.5, ge=0.01, le=60, description="How long either side is silent at most.")
    key_file: str | None = Field(
        None, description="File whose content both sides seal datagrams with (HMAC); null: they are not sealed."
    )
    address: str = Field("127.0.0.1:5555", description="Members: HOST:PORT of the Sync service.")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        examples=["inference-0"],
        description="Members: name of this one; null: env, or inference- and inference.index.",
    )
    loss: float = Field(0.0, ge=0, le=0.9, description="For tests: the fraction of sent datagrams that are lost.")
    delay_seconds: float = Field(
        0.0, ge=0, le=10, description="For tests: datagrams and work are held up by a random time of up to this."
    )


class TopologySection(StrictSettings):
    """How many processes `rattle up` starts."""

    env: int = Field(1, ge=1, le=64, description="Env services; none is started where env.url is set.")
    inference: int = Field(1, ge=1, le=64, description="Inference services, which share the worlds.")
    training: int = Field(1, ge=1, le=64, description="Training services, which share the policies.")
    patience_seconds: float | None = Field(
        600.0,
        gt=0,
        description="`rattle up` ends as failed when nothing has been learnt, and no tick been made, for this long; "
        "null: never.",
    )
    ports: Literal["any", "fixed"] = Field(
        "any",
        description="any: free ports, and other ones where another program takes the port of a service that has died; "
        "fixed: those in the services' own sections, and the next ones upward.",
    )


class PolicySection(StrictSettings):
    """The network that acts."""

    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (64, 64), max_length=16, description="Widths of the hidden layers."
    )
    activation: Activation = Field("relu", description="relu or tanh.")
    weights: str | None = Field(
        None, description="A policy file of this network, with whose weights a run begins; null: they are drawn."
    )


class TrainSection(StrictSettings):
    """How long to train, and on what."""

    steps: int | None = Field(
        40_000_000, ge=1, description="Stop after this many environment steps in all; null: never."
    )
    seconds: float | None = Field(None, gt=0, description="Stop after this many seconds of this command; null: never.")
    stop_at_return: float | None = Field(
        None, description="Stop when the mean return of the last 100 episodes is at least this; null: never."
    )
    actors: int = Field(2, ge=1, le=64, description="Parts that the worlds are played in, side by side in threads.")
    checkpoint_seconds: float = Field(
        10.0,
        gt=0,
        description="A checkpoint about this often: more often soon after a start, less often on a slow disk.",
    )
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the learner computes: cpu, or cuda for a GPU.")


class RecordSection(StrictSettings):
    """What is kept of the games besides their results."""

    every_episodes: int = Field(
        5, ge=0, description="Record every n-th episode of the first world in full, for replays; 0: none."
    )


class LogSection(StrictSettings):
    """Where else numbers go."""

    tensorboard: bool = Field(False, description="Write TensorBoard event files into the run directory too.")


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
    topology: TopologySection = Field(default_factory=TopologySection)
    policy: PolicySection = Field(default_factory=PolicySection)
    algorithm: AlgorithmSettings = Field(default_factory=A2C)
    train: TrainSection = Field(default_factory=TrainSection)
    record: RecordSection = Field(default_factory=RecordSection)
    log: LogSection = Field(default_factory=LogSection)

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
