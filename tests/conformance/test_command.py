"""The command `rattle check-env`: its list, its exit codes, and servers that are none."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner, Result

from rattle.cli import main
from rattle.conformance.table import CHECKS
from tests.ports import free_port


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check-env", *arguments])


class Nothing(BaseHTTPRequestHandler):
    """A server that has neither face."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
        pass


class Known(Nothing):
    """A server that is asked by a name that it is not known by."""

    def do_GET(self) -> None:
        body = b'{"code": "forbidden", "detail": "not known as \\u001b[2Jgpu-box: start it with --set"}'
        self.send_response(403)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
    result = invoke(f"http://127.0.0.1:{free_port()}")
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


def test_a_server_that_is_asked_by_another_name_is_2_and_says_so_in_its_words() -> None:
    with HTTPServer(("127.0.0.1", 0), Known) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        result = invoke(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert result.exit_code == 2
    assert "answers 403: not known as [2Jgpu-box: start it with --set" in result.output
