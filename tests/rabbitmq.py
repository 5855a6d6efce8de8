"""A RabbitMQ node of its own for tests: on free ports, in a folder of its own, and it may be killed.

It is shared by all tests of a session, so each test names an exchange of its own, after which the queues are named.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import pytest

from tests.ports import free_port

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
needs_rabbitmq = [
    pytest.mark.integration,
    pytest.mark.promised,
    pytest.mark.skipif(not SERVER.exists(), reason="there is no RabbitMQ: apt-get install rabbitmq-server"),
]
USER, PASSWORD = "rattle", "a secret/with: @signs"  # as a URL has to quote them
#: May connect to the virtual host "/", and do nothing there.
POWERLESS = "powerless"
_MANY_SECONDS = 120.0


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


class Gate:
    """A proxy before a port, which can be shut and can cut all connections in the middle of what they carry."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._sockets: set[socket.socket] = set()
        self.is_open = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut what is connected."""
        for one in tuple(self._sockets):
            self._shut(one)

    def close(self) -> None:
        """Stop."""
        self._shut(self._listener)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if not self.is_open:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._behind))
            except OSError:
                client.close()
                continue
            self._sockets |= {client, server}
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while content := one.recv(2**16):
                other.sendall(content)
        except OSError:
            pass
        finally:
            self._shut(one)
            self._shut(other)

    def _shut(self, one: socket.socket) -> None:
        self._sockets.discard(one)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


class RabbitMQ:
    """One node. `kill` ends it as a power cut would, `start` brings it back at the same address with what it stored.

    Clients reach it through gates, which may cut their connections. `settings`, as in rabbitmq.conf, take the place of
    the users that tests have else; `plugins` and `variables` are its plugins and more of its environment.
    """

    def __init__(
        self,
        folder: Path,
        settings: str | None = None,
        plugins: str = "[].",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._variables = variables
        self.direct_port, self._direct_tls_port, self._dist_port, self.epmd_port = (free_port() for _ in range(4))
        self.gate, self._tls_gate = Gate(self.direct_port), Gate(self._direct_tls_port)
        self._name = f"rattle-{token_hex(4)}@localhost"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._certify()
        self._configure(settings, plugins)
        self._epmd = subprocess.Popen([*self._as_its_user(), "epmd", "-address", "127.0.0.1"], env=self._environment())
        while self._epmd.poll() is None and not _listens(self.epmd_port):  # or the node starts one that outlives it
            time.sleep(0.01)

    def url(self, vhost: str = "/", user: str = USER, password: str = PASSWORD, *, tls: bool = False) -> str:
        """Return the address with credentials."""
        scheme, port = ("amqps", self._tls_gate.port) if tls else ("amqp", self.gate.port)
        who = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"{scheme}://{who}@localhost:{port}/{quote(vhost, safe='')}"

    @property
    def authority(self) -> Path:
        """Return the certificate of the authority that signed the node's own."""
        return self._folder / "ca.pem"

    @property
    def is_alive(self) -> bool:
        """Whether it has been started, and not killed since."""
        return self._process is not None

    def start(self) -> None:
        """Start the node and wait until it takes connections."""
        assert self._process is None
        seen = self._output.stat().st_size if self._output.exists() else 0
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._as_its_user(), str(SERVER)],
                env=self._environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = f"read _; kill -9 -{self._process.pid} {self._epmd.pid}"  # when this process is gone, however it ends
        self._guard = subprocess.Popen(["sh", "-c", end], stdin=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + _MANY_SECONDS
        while " completed with " not in self._said(seen):
            assert self._process.poll() is None, self._said(-5000)
            assert time.monotonic() < deadline, self._said(-5000)
            time.sleep(0.05)
        self._open_gates(True)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the node with a signal."""
        if self._process is None:
            return
        self._wait_until_settled()
        process, self._process = self._process, None
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
        self._open_gates(False)
        os.killpg(process.pid, number)
        process.wait(_MANY_SECONDS)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have the node stand still for a while, with all its connections."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End everything, and drop the folder."""
        self.kill()
        self.gate.close()
        self._tls_gate.close()
        self._epmd.kill()
        self._epmd.wait(_MANY_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def control(self, *arguments: str) -> str:
        """Have rabbitmqctl do something, which takes seconds, and return what it says."""
        tool = SERVER.with_name("rabbitmqctl")
        command = [*self._as_its_user(), str(tool), "--quiet", "--node", self._name, *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=_MANY_SECONDS)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Have the node believe that its disk is full: it blocks who publishes."""
        self.control("set_disk_free_limit", "100000GB")
        try:
            yield
        finally:
            self.control("set_disk_free_limit", "1MB")

    def connect(self, vhost: str = "/") -> Any:
        """Return a connection of `pika`, whose calls wait."""
        import pika

        return pika.BlockingConnection(pika.URLParameters(self.url(vhost)))

    def messages(self, queue: str) -> list[tuple[Any, bytes]]:
        """Take all messages out of a queue: properties and body of each."""
        taken = []
        with closing(self.connect()) as connection:
            channel = connection.channel()
            while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
                taken.append(found[1:])
        return taken

    @property
    def _output(self) -> Path:
        return self._folder / "output"

    def _open_gates(self, is_open: bool) -> None:
        for gate in (self.gate, self._tls_gate):
            gate.is_open = is_open
            if not is_open:
                gate.cut()

    def _wait_until_settled(self) -> None:
        """Wait until the node has stored which queues it has: quorum queues of RabbitMQ 3.10 take a while for that."""
        times = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00:00) \[notice\].* -> leader", self._said(0))
        if times:
            age = datetime.now(UTC) - datetime.fromisoformat(times[-1])
            time.sleep(max(0.0, 3.0 - age.total_seconds()))

    def _said(self, start: int) -> str:
        """Return the node's output from a byte on."""
        if not self._output.exists():
            return ""
        return self._output.read_bytes()[start:].decode(errors="replace")

    def _environment(self) -> dict[str, str]:
        folder = str(self._folder)
        own = {
            "HOME": folder,
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/logs",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {**kept, **own, **self._variables}

    def _as_its_user(self) -> list[str]:
        """Return the command that runs another as the user of Debian's package, where this one is root."""
        return ["setpriv", "--reuid=rabbitmq", "--regid=rabbitmq", "--clear-groups"] if os.geteuid() == 0 else []

    def _configure(self, settings: str | None, plugins: str) -> None:
        if settings is None:
            (self._folder / "definitions.json").write_text(json.dumps(_definitions()))
            settings = (
                f"load_definitions = {self._folder}/definitions.json\n"
                "disk_free_limit.absolute = 1MB\n"
                "log.console = true\nlog.console.level = notice\nlog.file = false\n"
            )
        (self._folder / "plugins").write_text(f"{plugins}\n")
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.direct_port}\n"
            f"listeners.ssl.1 = 127.0.0.1:{self._direct_tls_port}\n"
            f"ssl_options.cacertfile = {self._folder}/ca.pem\n"
            f"ssl_options.certfile = {self._folder}/node.pem\n"
            f"ssl_options.keyfile = {self._folder}/node.key\n{settings}"
        )
        if os.geteuid() == 0:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, "rabbitmq", "rabbitmq")
        self._folder.chmod(0o755)

    def _certify(self) -> None:
        """Make an authority, and have it sign a certificate for localhost."""
        at = str(self._folder)
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        commands = (
            ("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=an authority"),
            ("req", *key, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=localhost"),
            ("x509", "-req", "-in", "node.csr", "-out", "node.pem", "-days", "30", "-extfile", "names", *signed),
        )
        (self._folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        for command in commands:
            subprocess.run(["openssl", *command], cwd=at, check=True, capture_output=True, timeout=60)


def _definitions() -> dict[str, Any]:
    """Return the users of tests, and what they may do."""
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    none = {"configure": "^$", "write": "^$", "read": "^$"}
    hosts = ("/", "another host")
    return {
        "users": [{"name": name, "password": PASSWORD, "tags": ""} for name in (USER, POWERLESS)],
        "vhosts": [{"name": vhost} for vhost in hosts],
        "permissions": [
            *({"user": USER, "vhost": vhost, **rights} for vhost in hosts),
            {"user": POWERLESS, "vhost": "/", **none},
        ],
    }


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[RabbitMQ]:
    """Run the node of a session; its user must get to its folder, which pytest's own are closed to."""
    broker = RabbitMQ(Path(mkdtemp(prefix="rattle-rabbitmq-")))
    with closing(broker):
        broker.start()
        yield broker


@pytest.fixture
def rabbitmq(rabbitmq_node: RabbitMQ) -> Iterator[RabbitMQ]:
    """Lend the node to a test, and start it again where the test has killed it."""
    yield rabbitmq_node
    if not rabbitmq_node.is_alive:
        rabbitmq_node.start()


@pytest.fixture
def exchange() -> str:
    """Return the name of an exchange that no other test has."""
    return f"rattle-{token_hex(4)}"
