"""A store over HTTP for tests: chDB, the engine of ClickHouse, behind the part of its HTTP interface that clients use.

It runs in a process of its own, which tests may kill and start again on the same folder, and which clients of
ClickHouse take for a server. There are no users but one, and no sessions.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGKILL, Signals
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from rattle.analytics.schema import quoted
from tests.ports import free_port

USER, PASSWORD = "rattle", "let me in"
#: Parameters of a request that are no settings.
_OF_HTTP = frozenset(("query", "database", "default_format", "query_id", "user", "compress", "wait_end_of_query"))
_OF_CLIENTS = ("client_protocol_version", "send_progress_in_http_headers", "http_headers_progress_interval_ms")
_INSERT = re.compile(rb"\s*INSERT\s.*?\sFORMAT\s+(\w+)[ \t]*(?:\n|$)", re.IGNORECASE | re.DOTALL)
_FORMAT = re.compile(rb"\sFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)


class ClickHouse:
    """A store on this machine; `kill` and `start` let it die and come back at the same address."""

    def __init__(self, folder: Path, *, secured: bool = False) -> None:
        self._folder = folder
        self._secured = secured
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """Where it is, with credentials if it wants some."""
        user = f"{USER}:{PASSWORD.replace(' ', '%20')}@" if self._secured else ""
        return f"http://{user}127.0.0.1:{self.port}/default"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "tests.clickhouse", str(self._folder), str(self.port), str(int(self._secured))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        assert self._process.stdout is not None
        self.port = int(json.loads(self._process.stdout.readline())["port"])

    def kill(self, number: Signals = SIGKILL) -> None:
        """End it with a signal."""
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(number)
            process.communicate(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = ""
    authorization: str | None = None

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._send(200, b"Ok.\n")
        else:
            self.do_POST()

    def do_POST(self) -> None:
        body = self._body()
        if self.authorization not in (None, self.headers.get("Authorization")):
            said = b"Code: 516. DB::Exception: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)"
            self._send(403, said, {"X-ClickHouse-Exception-Code": "516"})
            return
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        query = parameters.get("query", "").encode()
        statement, data = (query, body) if query.strip() else (body, b"")
        try:
            self._send(200, *self._answer(statement, data, parameters))
        except (RuntimeError, UnicodeDecodeError) as error:  # which has what the engine said, with bytes of a row
            said = error.object if isinstance(error, UnicodeDecodeError) else str(error).encode()
            code = re.search(rb"Code: (\d+)\.", said)
            self._send(500, said, {"X-ClickHouse-Exception-Code": code[1].decode() if code else "1002"})

    def _answer(self, statement: bytes, data: bytes, parameters: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        import chdb

        connection = chdb.connect(self.folder)
        try:
            connection.query(f"USE {parameters.get('database', 'default')}")
            settings = {name: value for name, value in parameters.items() if name not in _OF_HTTP.union(_OF_CLIENTS)}
            for name in sorted(settings, key="readonly".__eq__):  # which would forbid those after it
                connection.query(f"SET {name} = {quoted(settings[name])}")
            if match := _INSERT.match(statement):
                return self._insert(connection, match, statement[match.end() :] + data)
            form = _FORMAT.search(statement)
            default = parameters.get("default_format", "TabSeparated")
            answer = connection.query(statement.decode(), default).bytes() or b""
            return answer, {"X-ClickHouse-Format": form[1].decode() if form else default} if answer else {}
        finally:
            connection.close()

    def _insert(self, connection: Any, match: re.Match[bytes], data: bytes) -> tuple[bytes, dict[str, str]]:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            into = match[0].decode().rstrip()
            into = re.sub(r"\sFORMAT\s+\w+$", "", into, flags=re.IGNORECASE)
            connection.query(f"{into} FROM INFILE '{file.name}' FORMAT {match[1].decode()}")
        return b"", {}

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's name)
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _serve(folder: str, port: int, *, secured: bool, host: str = "127.0.0.1") -> None:
    import chdb

    keeps_open = chdb.connect(folder)  # the engine would end with its last connection
    if database := os.environ.get("CLICKHOUSE_DB"):  # variables of the official image
        keeps_open.query(f"CREATE DATABASE IF NOT EXISTS {database}")
    credentials = f"{USER}:{os.environ.get('CLICKHOUSE_PASSWORD', PASSWORD)}"
    _Handler.folder = folder
    _Handler.authorization = f"Basic {b64encode(credentials.encode()).decode()}" if secured else None
    server = _Server((host, port), _Handler)
    os.write(1, json.dumps({"port": server.server_port}).encode() + b"\n")
    server.serve_forever()
    keeps_open.close()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), secured=sys.argv[3] == "1", host=sys.argv[4] if sys.argv[4:] else "127.0.0.1")
