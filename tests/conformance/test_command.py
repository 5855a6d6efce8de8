"""The command `rattle check-env`: its list, its exit codes, and servers that are none."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner, Result

from rattle.cli import main
from rattle.conformance.table import CHECKS


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check-env", *arguments])


class Nothing(BaseHTTPRequestHandler):
    """A server that has neither face."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
        pass


def test_the_list_needs_no_server() -> None:
    result = invoke("--list", "--only", "agent.stream")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [
        check.id for check in CHECKS if check.id.startswith("agent.stream.")
    ]


@pytest.mark.parametrize("arguments", [(), ("http://127.0.0.1:1", "--only", "no.such"), ("http://x", "--timeout", "0")])
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_no_server_is_2_and_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = invoke(f"http://127.0.0.1:{port}")
    assert result.exit_code == 2
    assert "no server at" in result.output


def test_what_is_no_address_is_2() -> None:
    result = invoke("ftp://somewhere")
    assert result.exit_code == 2
    assert "is no server's address" in result.output


def test_a_silent_server_is_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = invoke(f"http://127.0.0.1:{listener.getsockname()[1]}", "--timeout", "0.3")
    assert result.exit_code == 2
    assert "nothing answers in time" in result.output


def test_a_server_with_neither_face_is_2() -> None:
    with HTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = invoke(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert result.exit_code == 2
    assert "has neither face" in result.output
