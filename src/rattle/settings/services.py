"""The settings of services: a service reads its own section, and no other package than it needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from rattle.addresses import AMQP, keep_credentials
from rattle.analytics.store.connection import keep_store_credentials
from rattle.envs.validation import StrictSettings
from rattle.telemetry.broker import Broker, find_broker
from rattle.tls import TlsFiles

#: A server's URL, which holds no credentials once it is read: `rattle.addresses` keeps those, and no run stores any.
ServerUrl = Annotated[str, AfterValidator(keep_credentials)]
#: The same of a broker.
BrokerUrl = Annotated[str, AfterValidator(lambda url: keep_credentials(url, AMQP))]
#: The same of a store, which may also be a folder.
StoreUrl = Annotated[str, AfterValidator(keep_store_credentials)]

#: Worker processes that step worlds.
Processes = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]


def _host_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
        raise ValueError("is no name of a host, such as gpu-box or gpu-box.example.org: without a scheme and a port")
    return name


def _address_or_name(name: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        return _host_name(name)


#: How others reach a service: a name or an address.
Advertised = Annotated[str, AfterValidator(_address_or_name)]


class ListeningSection(StrictSettings):
    """A service: where it listens."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 for all, :: (in quotes in YAML) for all of IPv6 too."
    )
    advertise: Advertised | None = Field(
        None,
        examples=["gpu-box.example.org"],
        description="Name or address by which others reach the service, printed in its first line; null: `host`, or "
        "if that is all addresses, the one from which this machine reaches others.",
    )


class EnvServiceSection(ListeningSection):
    """The Env service: where it listens, what advances the world of the agent API, and what it allows."""

    port: int = Field(5000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    clock: Literal["realtime", "turns", "sync"] = Field(
        "realtime", description="realtime: `fps` ticks a second; turns: when all have moved; sync: by datagrams."
    )
    fps: float = Field(10.0, gt=0, le=1000, description="Ticks per second of the clock realtime.")
    turn_seconds: float = Field(1.0, gt=0, description="Clock turns: the longest wait for moves.")
    sync_port: int = Field(5556, ge=0, le=65535, description="Clock sync: UDP port that ticks arrive at; 0: any.")
    snakes: int | None = Field(
        None, ge=1, le=4096, description="Snakes that the agent API's world has room for; null: env.num_snakes."
    )
    leave_seconds: float = Field(5.0, ge=0, description="How long a snake stays after its last reader has left.")
    max_sessions: int = Field(256, ge=0, description="Sessions of the vector API at a time.")
    max_worlds: int = Field(65536, ge=1, description="Worlds in one session.")
    max_memory_bytes: int = Field(2**31, ge=2**20, description="Bytes that the worlds of all sessions may take.")
    max_body_bytes: int = Field(2**24, ge=2**10, description="The largest request body.")
    session_seconds: float = Field(300.0, gt=0, description="An unused session ends after this.")
    max_connections: int = Field(20_000, ge=1, description="Connections at a time; more are answered with 503.")
    processes: Processes | None = Field(
        None,
        examples=[4],
        description="Worker processes that step the worlds of a session; 1: the service does it itself. All sessions "
        "together have four times as many at most; null: `env.processes`.",
    )


class TrainingSection(ListeningSection):
    """The Training service: where it listens, which rollouts it learns from, and what it allows."""

    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        examples=[8007],
        description="Port of status, health and metrics, HTTP; 0: any free one; null: none.",
    )
    mode: Literal["on_policy", "async"] = Field(
        "on_policy",
        description="on_policy: an update waits for a rollout of every world by the newest policy, which is "
        "reproducible; async: rollouts are taken as they come.",
    )
    policies: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")], ...] = Field(
        ("main",), min_length=1, max_length=64, description="Names of the policies; each is trained independently."
    )
    max_policy_age: int = Field(
        4,
        ge=0,
        description="Mode async: discard rollouts whose policy is more than this many updates old; "
        "algorithm.correction says how the others are.",
    )
    max_waiting: int = Field(
        1, ge=1, description="Rollouts of one actor that may wait; its receipts are delayed until there are fewer."
    )
    max_message_bytes: int = Field(2**28, ge=2**16, lt=2**31, description="The largest rollout or policy.")
    update_policy: bool = Field(
        False,
        description="Whether UpdatePolicy without a policy may improve the service's own, out of turn.",
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _take_the_earlier_name(cls, mode: object) -> object:
        """Take what runs of version 0.1 call on_policy."""
        return "on_policy" if mode == "sync" else mode

    @field_validator("policies")
    @classmethod
    def _are_different(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(policies)) < len(policies):
            raise ValueError("names a policy twice")
        return policies


class InferenceSection(ListeningSection):
    """The Inference service: where it listens, which agents it plays, and what it allows."""

    port: int = Field(8000, ge=0, le=65535, description="Port of the REST API; 0: any free one.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Port of the gRPC API; 0: any free one.")
    training: tuple[str, ...] = Field(
        ("127.0.0.1:50051",),
        min_length=1,
        description="Addresses of the Training services, HOST:PORT; http:// or https:// before it says whether it "
        "speaks TLS. Policy i is trained by number i modulo their count.",
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
    answer_seconds: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="How long an actor waits for a Training service before it asks again: something may have been lost "
        "on the way. It waits longer after every time.",
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="How long a service that is told to stop lets its actors finish their rollouts, and waits for the "
        "receipts; 0: rollouts in progress are dropped.",
    )
    max_queue: int = Field(4096, ge=1, description="Rows that may wait for a forward pass; more are refused.")
    max_sequences: int = Field(
        100_000, ge=0, description="Sequences whose memory is kept at a time; requests that start more are refused."
    )
    max_sequence_bytes: int = Field(2**28, ge=0, description="Bytes of memory that all sequences together may have.")
    sequence_seconds: float = Field(300.0, gt=0, description="A sequence without a request is forgotten after this.")
    max_body_bytes: int = Field(2**24, ge=2**10, lt=2**31, description="The largest request.")
    max_connections: int = Field(4096, ge=1, description="Connections at a time; more are answered with 503.")


class SyncSection(ListeningSection):
    """The Sync service, where it listens and whom it leads; and its members: where they find it."""

    mode: Literal["none", "pace", "lockstep"] = Field(
        "none",
        description="pace: datagrams at a fixed frequency advance the agent API's world; lockstep: every tick "
        "waits for all who take part, so that a run is the same every time. `sync: lockstep` is short for this key.",
    )
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
        description="What happens if a member sends nothing: the run waits for it, takes its seat away, or continues "
        "without it until it sends something; it always waits for environments.",
    )
    silence_seconds: float = Field(
        2.0, ge=0.1, description="A member that has sent nothing for so long is suspected to be down."
    )
    heartbeat_seconds: float = Field(0.5, ge=0.01, le=60, description="Maximum time between messages from either side.")
    key_file: str | None = Field(
        None,
        description="File whose content both sides seal datagrams with (HMAC); null: they use security.token_file, and "
        "without that datagrams are not sealed.",
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


class IngestSection(ListeningSection):
    """The ingest service: where operators ask it, and how it takes rows from the broker into the store."""

    port: int = Field(8006, ge=0, le=65535, description="Port of status and metrics, HTTP; 0: any free one.")
    batch_rows: int = Field(50_000, ge=1, description="Largest number of rows that are stored together.")
    batch_seconds: float = Field(1.0, gt=0, le=60, description="How long rows wait for others to be stored with.")
    prefetch: int = Field(
        1000, ge=2, le=65535, description="Messages that are taken and not acknowledged; half of them make a batch."
    )


class SecuritySection(StrictSettings):
    """Who may ask the services."""

    token_file: str | None = Field(
        None,
        examples=["/run/secrets/rattle-token"],
        description="File with the token that services ask for and clients send (Bearer), of 16 to 4,096 characters, "
        "which its owner alone may read; null: no token.",
    )
    open: tuple[Literal["infer", "watch", "metrics"], ...] = Field(
        (),
        examples=[["infer", "metrics"]],
        description="What clients may request without the token, in addition to health: infer: policies in the Open "
        "Inference Protocol; watch: the agent API's world at /watch, not playing in it; metrics: /metrics.",
    )
    trust_network: bool = Field(
        False,
        description="Whether services may listen for other machines without a token; everybody who reaches them may "
        "then read and change everything.",
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = Field(
        (),
        max_length=256,
        examples=[["gpu-box.example.org"]],
        description="Names by which browsers and clients may address a service over HTTP, also localhost, addresses as "
        "numbers, and the name that it listens on.",
    )
    certificate: str | None = Field(
        None,
        examples=["certs/gpu-box.pem"],
        description="PEM file: services speak TLS and show this certificate, with its chain; clients show it to "
        "servers that ask for one. `rattle certificates` makes it.",
    )
    private_key: str | None = Field(
        None, examples=["certs/gpu-box.key"], description="PEM file with its key, which its owner alone may read."
    )
    authority: str | None = Field(
        None,
        examples=["certs/authority.pem"],
        description="PEM file: clients trust servers that it has signed, and no others; null: what SSL_CERT_FILE says, "
        "or the system. Addresses of gRPC without http:// or https:// mean TLS where this or `certificate` is set.",
    )
    mutual: bool = Field(
        False, description="Whether services ask all clients for a certificate that `authority` has signed."
    )

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together: name both, or neither")
        if self.mutual and (self.certificate is None or self.authority is None):
            raise ValueError("mutual needs certificate, private_key and authority, which has signed those of clients")
        return self

    def tls_files(self) -> TlsFiles:
        """Return the files of TLS."""
        return TlsFiles(self.authority, self.certificate, self.private_key)


def _words(command: Any) -> Any:
    """Return the words of a command that is written as a shell would read it."""
    try:
        return shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise ValueError(f"is no command: {str(error).lower()}") from None


_PREFIX = Field((), description="Of the services of this kind.", examples=[["ssh", "gpu-box"]])


class PrefixSection(StrictSettings):
    """Commands that services are started through, on other machines: ssh HOST, srun -N1 -n1, docker run -i IMAGE.

    A list of words, or a line as a shell would read it. `{name}` stands for the service's name, such as env-0, and
    `{number}` for its number. The command gets `rattle from-pipe` as its last words and passes its standard streams on.
    """

    env: Annotated[tuple[str, ...], BeforeValidator(_words)] = _PREFIX
    training: Annotated[tuple[str, ...], BeforeValidator(_words)] = _PREFIX
    inference: Annotated[tuple[str, ...], BeforeValidator(_words)] = _PREFIX
    sync: Annotated[tuple[str, ...], BeforeValidator(_words)] = _PREFIX

    def of(self, kind: str) -> tuple[str, ...]:
        """Return the command for a kind of service; no words where it is started on this machine."""
        return {"env": self.env, "training": self.training, "inference": self.inference, "sync": self.sync}[kind]

    def __bool__(self) -> bool:
        """Whether a service is started through a command."""
        return bool(self.env or self.training or self.inference or self.sync)


class TopologySection(StrictSettings):
    """How many processes `rattle up` starts, and where."""

    env: int = Field(1, ge=1, le=64, description="Env services; none is started where env.url is set.")
    inference: int = Field(1, ge=1, le=64, description="Inference services, which share the worlds.")
    training: int = Field(1, ge=1, le=64, description="Training services, which share the policies.")
    prefix: PrefixSection = Field(
        PrefixSection(),
        description="Commands that services are started through. Where there is one, services that would listen on "
        "127.0.0.1 listen on all addresses: write localhost to keep one on its machine.",
    )
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


class TelemetrySection(StrictSettings):
    """Where rows of tables go in addition to the run directory."""

    broker: BrokerUrl | None = Field(
        None,
        examples=["amqp://broker.example:5672/%2F"],
        description="Publish all rows to RabbitMQ at amqp[s]://HOST:PORT/VHOST; null: what ENABLE_RABBITMQ says. "
        "Credentials in it are not stored: a resume takes them from RATTLE_CREDENTIALS, or from RABBITMQ_USERNAME and "
        "RABBITMQ_PASSWORD.",
    )
    exchange: str = Field(
        "rattle",
        pattern=r"^[A-Za-z0-9_.-]{1,100}$",
        description="Exchange that rows are published to; its queues are called EXCHANGE.rows and EXCHANGE.dead.",
    )
    declare: bool = Field(
        True, description="Make exchange and queues; false: an operator has made them, and they are used as they are."
    )
    store: StoreUrl | None = Field(
        None,
        examples=["http://clickhouse.example:8123/rattle"],
        description="Store that `rattle ingest` fills: http[s]://HOST:8123/DATABASE of ClickHouse, or chdb:///FOLDER.",
    )
    outbox_bytes: int = Field(
        2**30,
        ge=2**20,
        description="Bytes that may wait on disk for the broker; beyond that logs are dropped, oldest first.",
    )
    ca_file: str | None = Field(None, description="The authority that signed the broker's certificate; amqps only.")
    cert_file: str | None = Field(None, description="A client certificate for the broker, with its chain.")
    key_file: str | None = Field(None, description="The key of that certificate, if it is in a separate file.")

    def find_broker(self) -> Broker | None:
        """Return the broker of these settings, else of environment variables; raises a RattleError."""
        broker = find_broker(self.broker, **self.model_dump(exclude={"broker", "store", "outbox_bytes"}))
        if broker is not None:
            broker.parameters("")  # which says what is missing here
        return broker

    def publish_logs(self, folder: Path | None) -> Callable[[], None]:
        """Have the logs of this process published as these settings say; return what ends that.

        Where they say nothing of a broker, logs go where environment variables say. `folder` is a run's, for outboxes.
        """
        broker = self.find_broker() if self.model_fields_set - {"store", "outbox_bytes"} else None
        if broker is None:
            return lambda: None
        from rattle.telemetry.log_publishing import publish_logs

        return publish_logs(broker, folder, self.outbox_bytes)
