"""The mock environment as a server: a socket, a thread for each connection, and a clean end."""

from __future__ import annotations

import io
import json
import signal
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from rattle.events import emit, of_services
from rattle.output import write_line
from rattle.services.mock_env.app import Board, make_app
from rattle.services.mock_env.errors import MockEnvError
from rattle.services.mock_env.faults import Faults
from rattle.services.mock_env.game import SERVICE
from rattle.services.utils.guard import Guard
from rattle.services.utils.health import tell_address
from rattle.services.utils.server_tls import ServerTls
from rattle.services.utils.sockets import url_of
from rattle.settings.services import SecuritySection
from rattle.stop_signals import stop_signals

#: Connections at a time. For more, those are closed whose requests have been on their way for longest.
MAX_CONNECTIONS = 512
#: Bytes that are read of a body at a time.
_PART_BYTES = 2**16
#: How long a connection may take to send its request or to take what it is sent.
IDLE_SECONDS = 30.0
#: How long a stop waits for streams to send their last line.
STOP_SECONDS = 2.0


@dataclass(frozen=True)
class MockSettings:
    """What a mock environment is asked to be."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    snakes: int = 8
    length: int = 10  # moves of a script
    delay: float = 0.1  # seconds that a snake waits for a move
    faults: tuple[str, ...] = ()
    fault_every: int = 1
    access_log: bool = False
    security: SecuritySection = field(default_factory=SecuritySection)
    advertise: str | None = None  # by which others reach it; None: the address that it listens on


class _SmallParts(io.BufferedReader):
    def read(self, size: int | None = -1) -> bytes:
        return super().read(_PART_BYTES if size is None or not 0 <= size <= _PART_BYTES else size)


class _RequestHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def setup(self) -> None:
        """Read in small parts: Werkzeug would wait for ten megabytes of a body that nobody wants."""
        super().setup()
        self.rfile = _SmallParts(self.rfile.detach())

    def send_response(self, code: int, message: str | None = None) -> None:
        """Begin to answer."""
        if isinstance(self.server, _FlaskServer):
            self.server.begin_answer(self.connection)
        super().send_response(code, message)

    def run_wsgi(self) -> None:
        """Answer; a client of HTTP/1.0 gets lines as they are, because it knows no chunks."""
        if self.request_version < "HTTP/1.1":
            self.protocol_version = self.request_version
        super().run_wsgi()

    def handle(self) -> None:
        """Serve a connection, after the handshake of TLS where there is one; who cannot make that is left alone."""
        if isinstance(self.connection, ssl.SSLSocket):
            try:
                self.connection.do_handshake()
            except OSError:
                return
        super().handle()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write the access log, if there is one."""
        if isinstance(self.server, _FlaskServer) and self.server.access_log:
            line = of_services.RequestAnswered(client=self.address_string(), request=self.requestline, status=str(code))
            emit(line)


class _FlaskServer(ThreadedWSGIServer):
    """Counts its connections, so that they are bounded and can be waited for."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: MockSettings, listener: socket.socket, app: Any, tls: ServerTls | None) -> None:
        self.access_log = settings.access_log
        self._served = threading.Condition()
        self._connections = 0
        self._asking: dict[socket.socket, None] = {}  # connections whose requests are not complete, the oldest first
        super().__init__(settings.host, settings.port, app, _RequestHandler, fd=listener.fileno())
        if tls is not None:  # handshakes are made where a connection is served: no other one waits for it
            self.ssl_context = tls.context
            self.socket = tls.context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, if there is room."""
        with self._served:
            if self._connections >= MAX_CONNECTIONS and not self._close_oldest():
                self.shutdown_request(request)
                return
            self._connections += 1
            self._asking[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._served:
                self._connections -= 1
                self._asking.pop(request, None)
                self._served.notify_all()

    def begin_answer(self, request: socket.socket) -> None:
        """Know that a request is complete."""
        with self._served:
            self._asking.pop(request, None)

    def _close_oldest(self) -> bool:
        """Have the connection end that has been asking for longest; False where all are being answered."""
        for oldest in self._asking:
            del self._asking[oldest]
            with suppress(OSError):  # it has just ended by itself
                oldest.shutdown(socket.SHUT_RDWR)
            return True
        return False

    def wait_until_served(self, seconds: float) -> None:
        """Wait until no connection is left, for some seconds at most."""
        with self._served:
            self._served.wait_for(lambda: self._connections == 0, seconds)


class MockEnv:
    """A running mock environment; use it in a `with` statement, or call `close`.

    ```python
    with MockEnv(MockSettings(length=3)) as env:
        print(env.url)
    ```
    """

    def __init__(self, settings: MockSettings | None = None) -> None:
        settings = settings or MockSettings()
        guard = Guard(settings.host, settings.security, advertise=settings.advertise)
        faults = Faults(settings.faults, settings.fault_every)
        game = faults.game_type()(settings.snakes, settings.length, settings.delay)
        self._board = Board(game, max_streams=4 * settings.snakes)
        with _listen(settings.host, settings.port) as listener:
            app = make_app(self._board, faults, guard)
            self._server = _FlaskServer(settings, listener, app, guard.tls)
            #: Where it is reached.
            self.url = url_of(listener, guard.name, tls=guard.tls is not None)
            self._host, self._port = listener.getsockname()[:2]
            self._tls = guard.tls
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="mock-env", daemon=True)
        self._thread.start()

    def tell_address(self) -> None:
        """Write where it listens into the file that `rattle.services.utils.health` reads."""
        tell_address("http", self._host, self._port, self._tls)

    def close(self) -> None:
        """Send every stream its last line and stop."""
        self._board.ask(lambda game, now: game.stop(now))
        self._server.wait_until_served(STOP_SECONDS)
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        both = host == "::" and socket.has_dualstack_ipv6()  # as the other services listen
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=both)
    except OSError as error:
        raise MockEnvError(f"cannot listen on {host} port {port}: {error.strerror}; try --port 0") from error


def serve(settings: MockSettings) -> None:
    """Serve until SIGTERM or Ctrl-C; the first line on stdout says where."""
    stop = threading.Event()
    for number in stop_signals():
        signal.signal(number, lambda *_: stop.set())
    with MockEnv(settings) as env:
        emit(of_services.Serving(address=env.url))
        env.tell_address()
        write_line(json.dumps({"service": SERVICE, "url": env.url}))
        stop.wait()
    emit(of_services.Stopped())
