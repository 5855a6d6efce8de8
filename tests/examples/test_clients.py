"""The clients in JavaScript, each against the real service."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from rattle.policies.file import load_policy
from rattle.wire.pace import Beat, PaceCodec, Question
from tests.ports import free_port
from tests.processes import ServiceProcess
from tests.services.inference.serving.building import CODES, MEMORY, policy
from tests.services.inference.serving.inference_process import serving, write

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"
SECONDS = 120
ROWS = "[[0, 1, 2, 3, 0, 1, 2, 3, 0], [3, 3, 3, 0, 0, 0, 1, 1, 1]]"  # of what the policy CODES observes
TOKEN = "token-of-the-tests-of-clients-in-javascript"  # noqa: S105


def node(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", str(CLIENTS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def said(name: str, *arguments: str) -> str:
    """Return what a client that succeeds prints."""
    done = node(name, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def refused(name: str, *arguments: str) -> str:
    """Return the one line with which a client fails."""
    done = node(name, *arguments)
    assert done.returncode == 1, done.stdout
    assert re.fullmatch(rf"{re.escape(name)}: .+\n", done.stderr), done.stderr
    return done.stderr


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN + "\n")
    return str(path)


@pytest.mark.parametrize("name", ["agent.mjs", "inference.mjs", "training.mjs"])
def test_a_service_that_is_not_there_is_named_in_one_line(name: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert f"cannot reach http://{address}: " in refused(name, f"http://{address}")


def test_a_server_that_speaks_no_grpc_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as other:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        other.submit(lambda: server.accept()[0].close())
        assert address in refused("training.mjs", address)


@pytest.mark.parametrize("name", sorted(path.name for path in CLIENTS.glob("*.mjs")))
def test_wrong_arguments_are_said_in_one_line(name: str) -> None:
    assert "--colour" in refused(name, "--colour")
    assert "/no/such/file" in refused(name, "--token-file", "/no/such/file")


class TestAgent:
    def test_a_life_is_played_to_its_end(self, token: str) -> None:
        settings = ("env_service.clock=turns", f"security.token_file={token}", "env.max_steps_without_food=20")
        with ServiceProcess("env", settings=settings) as service:
            assert "answers 401: " in refused("agent.mjs", service.url)
            played = said("agent.mjs", service.url, "--snake", "anna", "--token-file", token)
            state = httpx.get(f"{service.url}/state", headers={"Authorization": f"Bearer {TOKEN}"}).json()
            assert "answers 400: id must be" in refused(
                "agent.mjs", service.url, "--snake", "a b", "--token-file", token
            )
        last = re.fullmatch(r"anna lived for (\d+) ticks: return (-?\d+), (\d+) cells long", played.splitlines()[-1])
        assert last is not None, played
        eaten = played.count(" eats ")
        anna = state["status"]["anna"]
        assert (int(last[1]), int(last[3])) == (state["tick"], anna["length"])
        assert (int(last[2]), anna["score"], anna["game_over"]) == (eaten - 1, eaten, True)


@pytest.mark.integration
class TestInference:
    def test_a_policy_without_memory_is_asked(self, tmp_path: Path) -> None:
        write(tmp_path / "plain.safetensors", policy(CODES))
        with serving(tmp_path / "plain.safetensors") as service:
            ticks = re.findall(r"tick (\d+): action (\d+), (\d+);", said("inference.mjs", service.url, "--rows", ROWS))
            asked = [service.infer("plain", np.array(json.loads(ROWS), np.uint8), seed=tick).json for tick in range(3)]
            assert "there is no 'other'" in refused("inference.mjs", service.url, "--model", "other")
            assert "observation: must have the shape" in refused("inference.mjs", service.url, "--rows", "[[0]]")
            assert "--rows takes" in refused("inference.mjs", service.url, "--rows", "[[0], [0, 0]]")
        actions = [answer["outputs"][0]["data"] for answer in asked]
        assert ticks == [(str(tick), *map(str, pair)) for tick, pair in enumerate(actions)]

    def test_memory_is_the_same_in_the_client_and_in_the_service(self, tmp_path: Path, token: str) -> None:
        write(tmp_path / "remembers.safetensors", policy(MEMORY))
        with serving(tmp_path / "remembers.safetensors", f"security.token_file={token}") as service:
            assert "answers 401: " in refused("inference.mjs", service.url)
            answers = said("inference.mjs", service.url, "--token-file", token)
        own, served = answers.split("this program remembers:\n")[1].split("the service remembers:\n")
        assert answers.startswith("remembers, version 7: 1 row(s) of 9 UINT8\n")
        assert own == served
        assert len(set(re.findall(r"action (\d+); probability (\S+)", own))) > 1


@contextmanager
def listener(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the client of Sync at any port, and yield it with its port."""
    command = ["node", str(CLIENTS / "sync.mjs"), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(json.loads(process.stdout.readline())["address"].rpartition(":")[2])
        finally:
            process.kill()


def ticks_of(process: subprocess.Popen[str]) -> list[int]:
    printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    return [int(tick) for tick in re.findall(r"^tick (\d+), sent -?\d+ ms ago$", printed, re.MULTILINE)]


class TestSync:
    def test_datagrams_that_are_newer_are_ticks_once(self) -> None:
        sent = [(1, 10), (1, 10), (3, 30), (2, 20), (4, 40), (1, 50), (2, 45), (2, 60), (4, 60)]  # sequences and ms
        with listener("--ticks", "6") as (process, port), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for data in (b"null", b"{}", b'{"sequence": 0, "timestamp": ""}', b"\xff"):
                sender.sendto(data, ("127.0.0.1", port))
            for sequence, late in sent:
                datagram = {"sequence": sequence, "timestamp": f"2026-03-01T12:00:00.{late:03}000+00:00"}
                sender.sendto(json.dumps(datagram).encode(), ("127.0.0.1", port))
            assert ticks_of(process) == [1, 3, 4, 1, 2, 4]

    def test_the_service_is_followed(self) -> None:
        with (
            listener("--ticks", "3") as (process, port),
            ServiceProcess("sync", "--http-port", "0", "--participant", f"127.0.0.1:{port}"),
        ):
            ticks = ticks_of(process)
        assert ticks == list(range(ticks[0], ticks[0] + 3))

    def test_only_new_datagrams_of_a_life_that_knows_the_nonce_are_ticks(self, token: str) -> None:
        codec = PaceCodec(Path(token).read_bytes())
        with (
            listener("--ticks", "3", "--key-file", token) as (process, port),
            socket.socket(type=socket.SOCK_DGRAM) as service,
        ):
            service.settimeout(SECONDS)

            def send(sequence: int, nonce: str, life: str = "a" * 16) -> None:
                datagram = Beat(sequence=sequence, timestamp="2026-03-01T12:00:00.000000+00:00", life=life, nonce=nonce)
                service.sendto(codec.encode(datagram), ("127.0.0.1", port))

            def asked() -> Question:
                question = codec.decode(service.recv(1000), Question)
                assert question is not None
                return question

            send(5, "0" * 16)  # of an earlier start of the listener
            question = asked()
            assert (question.sequence, question.life) == (5, "a" * 16)
            for sequence, nonce in [(6, question.nonce), (6, question.nonce), (5, ""), (8, "")]:
                send(sequence, nonce)
            send(9, "", life="b" * 16)
            again = asked()
            assert (again.sequence, again.life, again.nonce) == (9, "b" * 16, question.nonce)
            send(7, "")
            send(10, "")
            assert ticks_of(process) == [6, 8, 10]

    # A key is any file of 16 bytes or more: that of the token, too.
    @pytest.mark.parametrize(
        ("flag", "setting"), [("--token-file", "security.token_file"), ("--key-file", "sync.key_file")]
    )
    def test_with_a_secret_nobody_else_is_followed(self, flag: str, setting: str, token: str) -> None:
        with (
            listener("--ticks", "3", flag, token) as (process, port),
            socket.socket(type=socket.SOCK_DGRAM) as stranger,
        ):
            for seal in ("", "0" * 32, "\N{SNAKE}" * 32):
                datagram = {
                    "sequence": 999,
                    "timestamp": "2999-03-01T12:00:00.000000+00:00",
                    "life": "0" * 16,
                    "seal": seal,
                }
                stranger.sendto(json.dumps(datagram).encode(), ("127.0.0.1", port))
            where = ("--http-port", "0", "--participant", f"127.0.0.1:{port}")
            with ServiceProcess("sync", *where, settings=(f"{setting}={token}",)):
                ticks = ticks_of(process)
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(1000)  # it was not answered either
        assert ticks == list(range(ticks[0], ticks[0] + 3))
        assert 1 < ticks[0] < 999  # the service had to repeat a nonce first


@pytest.mark.integration
class TestTraining:
    def test_the_status_is_shown_and_the_policy_stored(self, tmp_path: Path, token: str) -> None:
        settings = ("env.worlds=24", "policy.hidden_sizes=[16]", f"security.token_file={token}")
        with ServiceProcess("training", "--run-dir", str(tmp_path / "run"), settings=settings) as service:
            address, file = str(service.hello["address"]), tmp_path / "stored.safetensors"
            assert "(gRPC status 16)" in refused("training.mjs", address)
            known = ("--token-file", token, "--to", str(file))
            printed = said("training.mjs", address, *known)
            wrong = refused("training.mjs", address, "--policy", "other", *known)
        run_id = json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]
        assert printed == (
            f"main (run {run_id}, on_policy): running\n"
            "  version 0 after 0 steps, 0 steps a second; no episode has ended\n"
            f"{file}: version 0 of main, {file.stat().st_size} bytes\n"
        )
        assert load_policy(file.read_bytes()).version == 0
        assert "GetPolicy" in wrong
        assert "there is no 'other'" in wrong


def test_the_page_names_every_client() -> None:
    page = (CLIENTS / "README.md").read_text()
    assert all(f"]({path.name})" in page for path in CLIENTS.glob("*.mjs"))
