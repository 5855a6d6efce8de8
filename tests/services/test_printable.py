"""No text of strangers reaches a log or a terminal but as one printable line: whoever sends it, and wherever."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import grpc
import pytest

from tests.processes import ServiceProcess
from tests.services.inference.learner_double import LearnerDouble, policy_message
from tests.services.training.playing import ACCEPTED, Client, Player
from tests.services.training.test_refusals import until_version
from tests.trainer.conftest import small_settings

pytestmark = pytest.mark.integration

#: Clears a terminal, names its window, makes a false line of a log, and turns the text around.
EVIL = "\x1b[2J\x1b]0;pwned\x07\nfinished: 40,000,000 steps\r\x9b31m\u202e\u2028"
SMALL = ("env.worlds=4", "train.steps=null")


def unprintable(text: str) -> set[str]:
    return {letter for letter in text if not letter.isprintable()} - {"\n"}


def texts(content: Any) -> list[str]:
    """Return all texts in JSON, names included."""
    if isinstance(content, dict):
        return [text for pair in content.items() for part in pair for text in texts(part)]
    if isinstance(content, list):
        return [text for part in content for text in texts(part)]
    return [content] if isinstance(content, str) else []


class Hostile(BaseHTTPRequestHandler):
    """An Env service that answers everything with a problem whose every text is evil."""

    def do_GET(self) -> None:
        body = json.dumps(dict.fromkeys(("title", "detail", "code", "field", "error", "environment"), EVIL)).encode()
        self.send_response(404)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Be silent."""


@contextmanager
def hostile_env() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(30)


def ask(url: str, method: str, path: str, content: object = None) -> str:
    """Return what a service answers to a request that is evil wherever HTTP allows that."""
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        headers = {"Content-Type": "application/json", **dict.fromkeys(("User-Agent", "X-Request-Id"), "\x9b2J pwned")}
        with suppress(OSError):
            connection.request(method, path, None if content is None else json.dumps(content), headers)
            return connection.getresponse().read().decode()
    return ""


def speak_to_training(address: str) -> Iterator[str]:
    """Yield what a Training service says to an actor whose every text is evil."""
    settings = small_settings(*SMALL)
    player = Player(settings)
    with closing(Client(address)) as client, closing(Client(address)) as honest:
        assert honest.contribute(player.play(honest.policy())) == ACCEPTED
        until_version(client, 1)
        for environment in (EVIL, json.dumps({"environment": EVIL}), player.environment.replace("snake", "\\u001b")):
            with pytest.raises(grpc.RpcError) as refused:
                next(client.watch(environment=environment))
            yield str(refused.value.details())
    for name in ("actor", "life", "lineage", "policy_id", "state"):
        with closing(Client(address)) as client:
            rollout = player.play(client.policy())
            if name == "state":
                rollout.state[0] = EVIL
            else:
                setattr(rollout, name, EVIL)
            with pytest.raises(grpc.RpcError) as refused:
                client.contribute(rollout)
            yield str(refused.value.details())


def speak_to_env(url: str) -> Iterator[str]:
    for path in (f"/snake/{quote(EVIL)}", f"/v1/sessions/{quote(EVIL)}", f"/{quote(EVIL)}"):
        for method in ("GET", "POST"):
            yield ask(url, method, path, {"move": EVIL})
    yield ask(url, "POST", "/v1/sessions", {"worlds": 1, "options": {EVIL: EVIL}, "owner": EVIL})


def speak_to_inference(url: str) -> Iterator[str]:
    """Do the same to an Inference service that plays at an evil Env service."""
    for content in ({"env_url": f"http://{EVIL}:1"}, {"policy_id": EVIL}, {EVIL: EVIL}):
        yield ask(url, "POST", "/v1/agents", content)
    yield ask(url, "DELETE", f"/v1/agents/{quote(EVIL)}")
    yield ask(url, "POST", f"/v2/models/{quote(EVIL)}/infer", {"inputs": []})
    while "pwned" not in (listed := ask(url, "GET", "/v1/agents")):
        pass
    yield listed


def test_nothing_of_strangers_reaches_a_terminal_unprintable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    learner = LearnerDouble()
    learner.send(policy_message(0))
    with (
        hostile_env() as hostile,
        ServiceProcess("training", "--run-dir", str(tmp_path / "run"), settings=SMALL) as training,
        ServiceProcess("env") as env,
        ServiceProcess(
            *("inference", "--grpc-port", "0", "--training", learner.address),
            settings=(f"inference.envs=[{hostile}]", *SMALL),
        ) as inference,
    ):
        answers = [
            *speak_to_training(str(training.hello["address"])),
            *speak_to_env(env.url),
            *speak_to_inference(inference.url),
        ]
    learner.stop()
    shown = capfd.readouterr()
    assert "pwned" in shown.err, "it was told"
    assert unprintable(shown.err) == unprintable(shown.out) == set()
    assert not [line for line in shown.err.splitlines() if line.startswith("finished:")]
    for answer in answers:
        for text in texts(json.loads(answer) if answer.startswith("{") else answer):
            assert text.isprintable(), answer
    for table in tmp_path.rglob("*.jsonl"):
        assert unprintable(table.read_text()) == set(), table
