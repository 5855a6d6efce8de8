"""`rattle env --clock sync` that a real `rattle sync` paces, whose clock is set back while it is dead."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.processes import ServiceProcess
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


def ticks(env: subprocess.Popen[str], url: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=240) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("rattle_env_ticks_total "))))


def test_a_sync_service_that_comes_back_with_its_clock_set_back_ticks_on(an_hour_behind: tuple[str, ...]) -> None:
    settings = ("env.width=60", "env.height=60", "env.max_steps_without_food=0")
    command = [*RATTLE, "env", "--port", "0", "--clock", "sync", "--sync-port", "0"]
    command += [part for setting in settings for part in ("--set", setting)]
    env = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with env:
        assert env.stdout is not None
        assert env.stderr is not None
        hello = json.loads(env.stdout.readline())
        told = ("--participant", f"127.0.0.1:{hello['sync_port']}", "--frequency", "200")
        anna = urllib.request.urlopen(f"{hello['url']}/snake/anna", timeout=240)  # noqa: S310
        threading.Thread(target=anna.read, daemon=True).start()
        with SyncProcess(*told) as sync:
            until(lambda: ticks(env, hello["url"]) > 500)
            sync.kill()
        before = ticks(env, hello["url"])
        with ServiceProcess("sync", "--http-port", "0", *told, prefix=an_hour_behind):
            until(lambda: ticks(env, hello["url"]) > before + 10)
        env.terminate()
        assert env.stderr.read().count("clock was set back") == 1
