"""`rattle env --clock sync` that a real `rattle sync` paces, whose clock is set back while it is dead."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ServiceProcess
from tests.services.sync.relay import Relay
from tests.services.sync.sync_process import SyncProcess, until
from tests.trainer.conftest import RATTLE

#: Runs as a Python process starts, and sets the clock that its modules will see.
AN_HOUR_BEHIND = """
import datetime

class Behind(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) - datetime.timedelta(hours=1)

datetime.datetime = Behind
"""


@pytest.fixture
def an_hour_behind(tmp_path: Path) -> tuple[str, ...]:
    """Return a command that runs another one with its clock set back."""
    (tmp_path / "sitecustomize.py").write_text(AN_HOUR_BEHIND)
    return "env", f"PYTHONPATH={tmp_path}"


def number(url: str, metric: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=240) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith(f"{metric} "))))


def ticks(url: str) -> int:
    return number(url, "rattle_env_ticks_total")


@contextmanager
def paced(*more: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run an Env service that datagrams pace, with a snake on its board."""
    settings = ("env.width=60", "env.height=60", "env.max_steps_without_food=0", *more)
    command = [*RATTLE, "env", "--port", "0", "--clock", "sync", "--sync-port", "0"]
    command += [part for setting in settings for part in ("--set", setting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as env:
        try:
            assert env.stdout is not None
            hello = json.loads(env.stdout.readline())
            anna = urllib.request.urlopen(f"{hello['url']}/snake/anna", timeout=240)  # noqa: S310
            threading.Thread(target=anna.read, daemon=True).start()
            yield env, hello
        finally:
            env.terminate()


def test_a_sync_service_that_comes_back_with_its_clock_set_back_ticks_on(an_hour_behind: tuple[str, ...]) -> None:
    with paced() as (env, hello):
        url = hello["url"]
        told = ("--participant", f"127.0.0.1:{hello['sync_port']}", "--frequency", "200")
        with SyncProcess(*told) as sync:
            until(lambda: ticks(url) > 500)
            sync.kill()
        before = ticks(url)
        with ServiceProcess("sync", "--http-port", "0", *told, prefix=an_hour_behind):
            until(lambda: ticks(url) > before + 10)
        env.terminate()
        assert env.stderr is not None
        assert env.stderr.read().count("clock was set back") == 1


def test_with_a_key_a_world_ticks_by_sealed_datagrams_alone_each_once(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    recorded: list[tuple[bool, bytes]] = []
    forged = b'{"sequence":9223372036854775807,"timestamp":"2076-03-01T12:00:01+00:00"}'
    with (
        paced(f"sync.key_file={key}") as (env, hello),
        Relay(("127.0.0.1", hello["sync_port"]), recorded, copies=2, forged=[forged]) as relay,
    ):
        url, ignored, refused = hello["url"], "rattle_env_datagrams_ignored_total", "rattle_env_datagrams_refused_total"
        told = ("--participant", relay.address, "--frequency", "200")
        with SyncProcess(*told, settings=(f"sync.key_file={key}",)) as sync:
            until(lambda: ticks(url) > 50)
            until(lambda: number(url, refused) > 30)
            assert ticks(url) <= sum(to_service for to_service, _ in recorded)
            sync.kill()
        before = ticks(url)
        seen = number(url, ignored)
        sent = relay.replay()
        until(lambda: number(url, ignored) == seen + sent)
        assert ticks(url) == before
        env.terminate()
        assert env.stderr is not None
        assert env.stderr.read().count("without the right seal") == 1
