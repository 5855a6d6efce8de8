"""Rattle's images in real containers: what tests ask Docker and compose for."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest

from rattle.analytics.run_directory import RunDirectory
from tests.ports import free_port

REPOSITORY = Path(__file__).parents[2]
#: The tag of the images that .ci/images has built, which runs the tests that need them.
TAG = os.environ.get("TESTS_IMAGES", "")
#: Whom images run as.
USER = 10001
needs_images = pytest.mark.skipif(not TAG, reason="needs Docker and images: .ci/images runs it")
SERVICES = ("env", "mock_env", "inference", "training", "sync", "ingest", "dashboard")


def docker(*arguments: str, seconds: float = 600, check: bool = True, stdin: str | None = None) -> str:
    """Run a command of Docker and return what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, input=stdin)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def logs(name: str) -> str:
    """Return the end of what a container has said."""
    done = subprocess.run(["docker", "logs", "--tail", "20", name], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def inspect(name: str) -> dict[str, Any]:
    """Return what Docker knows of an image or a container."""
    (found,) = json.loads(docker("inspect", name))
    return dict(found)


def build(name: str, folder: Path, dockerfile: str | None = None) -> None:
    """Build an image from a folder, by the Dockerfile in it, or by another one."""
    file = str(folder / "Dockerfile") if dockerfile is None else "-"
    arguments = ("--quiet", "--network", "host", "--tag", name, "--file", file, str(folder))
    docker("build", *arguments, seconds=1800, stdin=dockerfile)


def build_on_top(name: str, service: str, pinned: Mapping[str, str], folder: Path) -> None:
    """Build the image of a user on that of a service, from a folder, by the three lines of the page of deployment.

    What pip installs there is replaced by packages in the versions that they are pinned to, or by others.
    """
    page = (REPOSITORY / "docs" / "deployment.md").read_text()
    (dockerfile,) = re.findall(rf"```dockerfile\n(FROM snake_rl_{service}:latest\n.*?)```", page, re.DOTALL)
    assert dockerfile.count("\n") <= 3
    dockerfile = dockerfile.replace(":latest", f":{TAG}")
    for package, other in pinned.items():
        assert f"pip install {package}\n" in dockerfile
        dockerfile = dockerfile.replace(f"pip install {package}\n", f"pip install {other}\n")
    build(name, folder, dockerfile)


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 600) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


class Stack:
    """compose.yaml and what it needs in a folder of its own, as a user has it after `git clone`."""

    def __init__(
        self, folder: Path, experiment: str, profiles: str, override: str | None = None, store: str = ""
    ) -> None:
        self.folder = folder
        self.project = f"rattle-test-{secrets.token_hex(4)}"
        for name in ("compose.yaml", "deploy", "scripts"):
            source, target = REPOSITORY / name, folder / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        if override is not None:
            (folder / "compose.override.yaml").write_text(override)
        (folder / "experiment.yaml").write_text(experiment)
        (folder / "experiment.yaml").chmod(0o644)
        ports = ("ENV", "TRAINING", "INFERENCE", "INFERENCE_GRPC", "SYNC", "INGEST", "DASHBOARD")
        self.ports = {name: free_port() for name in ports}
        self.variables: Mapping[str, str] = {
            **os.environ,
            **{f"{name}_PORT": str(port) for name, port in self.ports.items()},
            "COMPOSE_PROJECT_NAME": self.project,
            "EXPERIMENT": "./experiment.yaml",
            "STORE": store,
            "TAG": TAG,
        }
        self.script("init", PROFILES=profiles)

    def script(self, *arguments: str, **variables: str) -> str:
        """Run scripts/compose.sh, as make does."""
        return self._run([str(self.folder / "scripts" / "compose.sh"), *arguments], variables)

    def compose(self, *arguments: str) -> str:
        """Run docker-compose itself."""
        return self._run(["docker-compose", *arguments], {})

    def _run(self, command: list[str], variables: Mapping[str, str]) -> str:
        environment = {**self.variables, **variables}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "-q", service).strip()

    def state(self, service: str) -> dict[str, Any]:
        """Return the state of a service's container, with its health."""
        return dict(inspect(self.container(service))["State"])

    def health(self, service: str) -> str:
        """Return starting, healthy or unhealthy."""
        return str(self.state(service)["Health"]["Status"])

    def restarts(self, service: str) -> int:
        """Return how often Docker has started a service's container again."""
        return int(inspect(self.container(service))["RestartCount"])

    def kill(self, service: str) -> None:
        """End the program of a container from outside, as a lack of memory does; Docker is not told to leave it so."""
        before = self.restarts(service)
        os.kill(int(self.state(service)["Pid"]), signal.SIGKILL)
        wait_for(f"{service} comes back", lambda: self.restarts(service) > before)

    def wait_until_healthy(self, *services: str) -> None:
        """Wait until these are healthy."""
        wait_for(f"{services} are healthy", lambda: {self.health(service) for service in services} == {"healthy"})

    def copied(self, run: str, folder: Path) -> RunDirectory:
        """Copy a run out of the volume, also of a container that has ended, and return its directory."""
        docker("cp", f"{self.container('training')}:/runs/{run}", str(folder))
        return RunDirectory(folder)

    @property
    def run_id(self) -> str:
        """Return the run_id of the run that is in the directory `run`."""
        (suffix,) = re.findall(r"^RUN_SUFFIX=(.+)$", (self.folder / ".env").read_text(), re.MULTILINE)
        return f"run{suffix}"

    def ask(self, port: str, path: str) -> dict[str, Any]:
        """Return what a service answers, as JSON, to somebody on this machine who has the token."""
        return dict(json.loads(self.page(port, path)))

    def page(self, port: str, path: str) -> str:
        """Return what a service answers to them as text."""
        token = (self.folder / ".secrets" / "token").read_text().strip()
        request = Request(f"http://127.0.0.1:{self.ports[port]}{path}", headers={"Authorization": f"Bearer {token}"})
        with urlopen(request, timeout=60) as answer:  # noqa: S310 (an address of our own)
            return str(answer.read().decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stdout.write(self.compose("logs", "--tail", "40")[-20_000:])
        self.script("down", "--volumes", "--timeout", "5")
