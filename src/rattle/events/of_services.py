"""Events of processes and services, and of the connections between them."""

from __future__ import annotations

from typing import ClassVar

from rattle.events.event import Event, Level


class Serving(Event, frozen=True, kw_only=True):
    """A service takes requests from now on."""

    sentence: ClassVar[str] = "serving at {address}"
    address: str


class Stopped(Event, frozen=True, kw_only=True):
    """A service has stopped in good order."""

    sentence: ClassVar[str] = "stopped"


class Error(Event, frozen=True, kw_only=True):
    """A command ends because of something that its user has to fix: to start it again does not help."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{error}"
    error: str


class PortTaken(Event, frozen=True, kw_only=True):
    """A service ends because another program has its port."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{error}"
    error: str


class Crashed(Event, frozen=True, kw_only=True):
    """An error that nobody thought of has ended a process, or one of its threads."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "internal error in {where}: {error}"
    where: str
    error: str


class Log(Event, frozen=True, kw_only=True):
    """A message of `logging` that is no event of this list: of a library, or of a user."""

    sentence: ClassVar[str] = "{logger}: {message}"
    logger: str
    message: str


class PythonWarning(Event, frozen=True, kw_only=True):
    """Code has called `warnings.warn`."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{message}"
    message: str
    category: str
    file: str
    line: int


class Output(Event, frozen=True, kw_only=True):
    """A line, that is no event, on the standard error of a service."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{line}"
    line: str


class EventsDropped(Event, frozen=True, kw_only=True):
    """More was logged than could be written: so many events are missing, the less important ones first."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{count} events were dropped: more was logged than could be written"
    count: int


class LogNotWritten(Event, frozen=True, kw_only=True):
    """One of the places that logs go to takes nothing; it is tried again, and others get everything."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "events cannot be written to {place}: {error}"
    place: str
    error: str


class LogWrittenAgain(Event, frozen=True, kw_only=True):
    """A place that took nothing takes events again; so many are missing there."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "events are written to {place} again: {missing} are missing there"
    place: str
    missing: int


class SystemMetrics(Event, frozen=True, kw_only=True):
    """The load of a process and its machine, every `log.system_seconds`: percentages are of the time since the last.

    100 % of a process is one core. Memory of a process is what it has in RAM. GPUs are those of the machine: the share
    of time that the busiest computes, and the memory in use on all.
    """

    sentence: ClassVar[str] = "{process_cpu_percent:.0f} % of a core, {process_memory_bytes} bytes"
    process_cpu_percent: float
    process_memory_bytes: int
    process_threads: int
    cpu_percent: float  # of all cores
    memory_percent: float
    memory_available_bytes: int
    disk_free_bytes: int | None = None  # where the run is stored
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None


class ThreadFailed(Event, frozen=True, kw_only=True):
    """A thread of a service has failed in a way that nobody thought of, and begins again."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{thread} has failed: trying again"
    thread: str


class Retrying(Event, frozen=True, kw_only=True):
    """Something that may go away has failed, and is tried again: for some seconds, or until it works."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{error}: trying again"
    error: str
    seconds: float | None = None

    def _text(self) -> str:
        until = "until it works" if self.seconds is None else f"for {self.seconds:.0f} seconds"
        return f"{super()._text()} {until}"


class DamagedMessage(Event, frozen=True, kw_only=True):
    """A message was damaged on the way to this process: its checksum says so. It was dropped, and is sent again."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "a message from {source} arrived damaged: {error}: it is sent again"
    source: str
    error: str


class NoWebSocket(Event, frozen=True, kw_only=True):
    """No WebSocket passes between this process and a server, which is asked by plain requests instead."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "{url}: no WebSocket passes: playing by plain requests, which is slower. If nginx is in between, give it "
        "'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;'"
    )
    url: str


class RequestAnswered(Event, frozen=True, kw_only=True):
    """A request to the mock environment was answered (with --access-log)."""

    sentence: ClassVar[str] = "{client} {request} {status}"
    client: str
    request: str
    status: str


class RequestFailed(Event, frozen=True, kw_only=True):
    """A request to the vector API has failed because of the environment, or of this service."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "a request to the vector API failed: {error}"
    error: str


class StreamCut(Event, frozen=True, kw_only=True):
    """A stream of the agent API could not be written to."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "a stream could not be written to: it is cut off"


class WorldsNotClosed(Event, frozen=True, kw_only=True):
    """The environment of a session raised an error when it was closed; the session is gone all the same."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "closing the worlds of a session failed"


class ForwardPassFailed(Event, frozen=True, kw_only=True):
    """A policy could not be computed for the requests of one batch."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "a forward pass of model '{model}' has failed"
    model: str


class PolicyFileReplaced(Event, frozen=True, kw_only=True):
    """The file of a policy that is served was replaced by something that is no policy."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{path} was replaced by something else; the last policy is served on: {error}"
    path: str
    error: str


class SyncClockBack(Event, frozen=True, kw_only=True):
    """The datagrams of the Sync service are older than those before."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "the Sync service's datagrams are older than those before: its clock was set back, or another Sync service "
        "sends to this port, too; the world ticks with the newer sender"
    )


class NonceNotRepeated(Event, frozen=True, kw_only=True):
    """A Sync service does not hear what this listener answers to its datagrams."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "the Sync service's datagrams do not repeat this service's nonce, so they are no ticks: its answers must get "
        "through, by UDP from the port for ticks to the one that the datagrams come from; let them pass"
    )


class NotTold(Event, frozen=True, kw_only=True):
    """A participant cannot be told the time."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{participant} is not told: {problem}"
    participant: str
    problem: str
