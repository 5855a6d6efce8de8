"""The service as a process: clients that misbehave, signals, and what it cannot have."""

from __future__ import annotations

import json
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.services.env.env_process import PATIENCE, EnvProcess, break_off, env_process, rest_of
from tests.template import run

pytestmark = pytest.mark.integration

MIB = 2**20
HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"
IDLE_CONNECTIONS = 10_000


@pytest.fixture(scope="module")
def server() -> Iterator[EnvProcess]:
    with env_process(
        "--set", "env_service.max_body_bytes=1048576", "--set", "env_service.snakes=32", "--set", "env.width=40"
    ) as running:
        running.player()()
        yield running
        assert running.process.poll() is None


@pytest.fixture
def unharmed(server: EnvProcess) -> Iterator[EnvProcess]:
    """Steps go on while the test goes on and after it, and the memory stays."""
    step, failures, done = server.player(), [], threading.Event()
    step()

    def play() -> None:
        try:
            while not done.is_set():
                step()
                time.sleep(0.002)
        except BaseException as failure:
            failures.append(failure)

    before = server.resident_bytes()
    thread = threading.Thread(target=play)
    thread.start()
    yield server
    done.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert failures == []
    step()
    assert server.resident_bytes() - before < 100 * MIB


def test_half_requests_and_then_silence(unharmed: EnvProcess) -> None:
    begun = [b"", b"G", b"GET / HTTP/1.1\r\nHo", b"POST /reset HTTP/1.1\r\n" + HEAD + b"Content-Length: 9\r\n\r\n{"]
    silent = [unharmed.connect() for _ in range(100)]
    for number, handle in enumerate(silent):
        handle.sendall(begun[number % len(begun)])
    assert unharmed.ask("GET", "/healthz")[0] == 200
    for handle in silent:
        handle.close()


def test_half_closed_connections_still_get_their_answer(unharmed: EnvProcess) -> None:
    for _ in range(50):
        with unharmed.connect() as handle:
            handle.sendall(b"GET /v1/spec HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n")
            handle.shutdown(socket.SHUT_WR)
            answer = rest_of(handle)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 200")


def test_resets_in_the_middle_of_answers_and_streams(unharmed: EnvProcess) -> None:
    created = unharmed.ask("POST", "/v1/sessions", {"worlds": 20_000})[1]
    path = f"/v1/sessions/{created['session']}/state".encode()
    for number in range(60):
        handle = unharmed.connect(4096)
        asked = path if number % 2 else b"/snake/reset-%d" % (number % 8)
        handle.sendall(b"GET " + asked + b" HTTP/1.1\r\n" + HEAD + b"\r\n")
        assert handle.recv(10).startswith(b"HTTP/1.1 ")
        break_off(handle)
    unharmed.ask("DELETE", f"/v1/sessions/{created['session']}")


def test_clients_that_never_read_their_large_answers(unharmed: EnvProcess) -> None:
    created = unharmed.ask("POST", "/v1/sessions", {"worlds": 1_000})[1]
    path = f"/v1/sessions/{created['session']}/state".encode()
    ask = b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"\r\n"
    deaf = [unharmed.connect(4096) for _ in range(10)]
    for handle in deaf:
        handle.sendall(ask * 50)  # more than is ever kept: an answer has megabytes
    for handle in deaf:
        assert handle.recv(12) == b"HTTP/1.1 200"
    for _ in range(5):
        assert unharmed.ask("GET", "/healthz")[0] == 200
    for handle in deaf:
        handle.close()
    unharmed.ask("DELETE", f"/v1/sessions/{created['session']}")


GARBAGE = {
    "noise": bytes(range(256)) * 20,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a method that is none": b"FETCH / HTTP/1.1\r\n\r\n",
    "no version": b"GET / \r\n\r\n" * 10,
    "a path that is no text": b"GET /\xff\xfe HTTP/1.1\r\n" + HEAD + b"\r\n",
    "two lengths": b"POST /reset HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": b"POST /reset HTTP/1.1\r\n" + HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length of words": b"POST /reset HTTP/1.1\r\n" + HEAD + b"Content-Length: two\r\n\r\n{}",
    "length and chunks": b"POST /reset HTTP/1.1\r\n"
    + HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "chunks without a size": b"POST /reset HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * MIB,
    "a huge path": b"GET /" + b"x" * 2 * MIB,
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 400_000,
    "empty lines": b"\r\n" * MIB,
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_request_is_refused_and_the_connection_closed(unharmed: EnvProcess, sent: bytes) -> None:
    for _ in range(5):
        with unharmed.connect() as handle:
            try:
                handle.sendall(sent)
            except ConnectionError:  # it has heard enough
                continue
            answer = rest_of(handle)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
            if answer:
                assert b"application/problem+json" in answer


def test_a_body_that_is_longer_than_it_says_is_not_taken_for_a_request(unharmed: EnvProcess) -> None:
    with unharmed.connect() as handle:
        handle.sendall(b"POST /reset HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{}{}{}")
        assert b"HTTP/1.1 404" not in rest_of(handle)


def test_bodies_above_the_limit_whatever_they_say(unharmed: EnvProcess) -> None:
    with unharmed.connect() as handle:
        handle.sendall(b"POST /v1/sessions HTTP/1.1\r\n" + HEAD + b"Content-Length: 1048577\r\n\r\n" + bytes(MIB + 1))
        assert rest_of(handle).startswith(b"HTTP/1.1 413")
    with unharmed.connect() as handle:
        head = b"POST /v1/sessions HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        handle.sendall(head + (b"10000\r\n" + bytes(2**16) + b"\r\n") * 20 + b"0\r\n\r\n")
        assert rest_of(handle).startswith(b"HTTP/1.1 413")
    with unharmed.connect() as handle:  # chunks without an end
        handle.sendall(head)
        send_until_refused(handle, b"10000\r\n" + bytes(2**16) + b"\r\n")
    with unharmed.connect() as handle:  # what comes around a body is bounded too
        handle.sendall(head + b"1\r\n \r\n0\r\n")
        send_until_refused(handle, b"X: " + b"x" * 2**16)


def test_ten_thousand_idle_connections(server: EnvProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE_CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the limit of open files is {hard}, this needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    idle = []
    try:
        step = server.player()
        step()
        before = server.resident_bytes()
        for number in range(IDLE_CONNECTIONS):
            idle.append(server.connect(source=f"127.0.0.{2 + number // 2500}"))
            if number % 100 == 0:
                step()
        for _ in range(100):
            step()
        assert server.resident_bytes() - before < 200 * MIB
    finally:
        for handle in idle:
            handle.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for _ in range(20):
        step()


def test_large_bodies_that_are_never_finished_hold_a_bounded_memory_and_give_it_back() -> None:
    head = b"POST /v1/sessions HTTP/1.1\r\n" + HEAD + b"Content-Length: 15900000\r\n\r\n"
    with env_process() as server:
        server.player()()
        before, handles = server.resident_bytes(), [server.connect() for _ in range(36)]
        for handle in handles:
            with suppress(ConnectionError):  # it has been told enough
                handle.sendall(head + bytes(15_899_999))
        assert server.resident_bytes() - before < 400 * MIB
        assert server.ask("GET", "/healthz")[0] == 200
        server.player()()
        full, _, _ = select.select(handles, [], [], PATIENCE)
        assert full[0].recv(2**16).startswith(b"HTTP/1.1 503")
        server.close()
        until = time.monotonic() + PATIENCE
        while server.resident_bytes() - before > 100 * MIB:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_connections_beyond_the_limit_are_told_so() -> None:
    with env_process("--set", "env_service.max_connections=5") as server:
        held = [server.connect() for _ in range(5)]
        for handle in held:
            handle.sendall(b"GET /healthz HTTP/1.1\r\n" + HEAD + b"\r\n")
            assert handle.recv(2**16).startswith(b"HTTP/1.1 200")
        with server.connect() as handle:
            handle.sendall(b"GET /healthz HTTP/1.1\r\n" + HEAD + b"\r\n")
            answer = rest_of(handle)
            assert answer.startswith(b"HTTP/1.1 503")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "full"
        for handle in held:
            handle.close()
        wait_until_healthy(server)


def test_without_files_left_it_goes_on_when_there_are_again() -> None:
    with env_process(limit_files=64) as server:
        step = server.player()
        step()
        many = []
        for _ in range(120):
            handle = socket.socket()
            handle.settimeout(0.2)
            try:
                handle.connect(("127.0.0.1", server.port))
            except OSError:
                handle.close()
                continue
            many.append(handle)
        for _ in range(20):
            step()
        for handle in many:
            handle.close()
        wait_until_healthy(server)
        step()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_peace_while_streams_are_open_and_requests_run(number: signal.Signals) -> None:
    with env_process("--set", "env_service.snakes=8", "--fps", "20") as server:
        streams = [server.connect() for _ in range(8)]
        for which, handle in enumerate(streams):
            handle.sendall(b"GET /snake/s%d HTTP/1.1\r\n" % which + HEAD + b"\r\n")
            assert handle.recv(5) == b"HTTP/"
        deaf = server.connect(4096)
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\n" + HEAD + b"\r\n" * 2)
        session = server.ask("POST", "/v1/sessions", {"worlds": 20_000})[1]["session"]
        steps = [server.connect() for _ in range(4)]
        body = json.dumps({"step": 1, "action": [0] * 20_000}).encode()
        for handle in steps:
            path = f"/v1/sessions/{session}/step".encode()
            handle.sendall(b"POST " + path + b" HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        server.process.send_signal(number)
        for handle in streams:
            lines = [line for line in rest_of(handle).split(b"\r\n") if line.startswith(b"{")]
            assert json.loads(lines[-1].splitlines()[-1])["game_over"] is True
        for handle in steps:
            answer = rest_of(handle)
            assert answer == b"" or answer.split()[1] in (b"200", b"503", b"404"), answer[:300]
        assert server.process.wait(PATIENCE) == 0
        deaf.close()


def test_a_signal_ends_it_right_after_its_first_line() -> None:
    for _ in range(3):
        with env_process() as server:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0


ENDLESS = """
import time, gymnasium, numpy
class Endless(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return numpy.zeros(1, numpy.float32), {}
    def step(self, action):
        if action:
            time.sleep(1000)
        return numpy.zeros(1, numpy.float32), 0.0, False, False, {}
gymnasium.register("Endless-v0", entry_point=Endless)
"""


def test_a_signal_ends_it_while_a_step_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless_module.py").write_text(ENDLESS)
    monkeypatch.chdir(tmp_path)
    with env_process("--set", "env.id=gym:endless_module:Endless-v0") as server:
        session = server.ask("POST", "/v1/sessions", {"worlds": 1})[1]["session"]
        with server.connect() as handle:
            body = b'{"step":1,"action":[1]}'
            path = f"/v1/sessions/{session}/step".encode()
            handle.sendall(b"POST " + path + b" HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert server.ask("GET", "/healthz")[0] == 200
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "env.width=1"], "width"),
        (["--set", "env_service.no_such=1"], "no_such"),
        (["--set", "env.id=gym:NoSuch-v0"], "NoSuch"),
        (["--host", "no such host"], "no such host"),
        (["--host", "192.0.2.1", "--set", "security.trust_network=true"], "cannot listen on port 0 of 192.0.2.1"),
        (["--port", "PORT"], "choose another"),
        (["--clock", "sync", "--set", "env_service.sync_port=UDP"], "UDP port"),
    ],
)
def test_what_it_cannot_have_is_said_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        ports = {"PORT": str(taken.getsockname()[1]), "UDP": str(datagrams.getsockname()[1])}
        given = [ports.get(argument, argument.replace("=UDP", f"={ports['UDP']}")) for argument in arguments]
        ended = run("env", "--port", "0", *given, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("Error: ")
    assert said in ended.stderr


def send_until_refused(handle: socket.socket, part: bytes) -> None:
    sent = 0
    try:
        while sent < 100 * MIB:
            handle.sendall(part)
            sent += len(part)
    except ConnectionError:
        return
    pytest.fail("it takes whatever comes")


def wait_until_healthy(server: EnvProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if server.ask("GET", "/healthz")[0] == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)
