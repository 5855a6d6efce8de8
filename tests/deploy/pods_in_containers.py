"""Pods as containers of Docker, from the images that .ci/images builds: with what their manifests say of them.

Their network has the names that a cluster's DNS would answer. Probes of addresses are asked from this machine.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import Any, ClassVar

from tests.deploy.containers import TAG, docker, inspect
from tests.deploy.manifests import Manifest, Pod, expand, variables
from tests.deploy.pods import Cluster, RunningPod


class ContainerPod(RunningPod):
    """A pod whose container is one of Docker; `process` is the client that waits for its end."""

    cluster: ContainerCluster

    @property
    def name(self) -> str:
        """Its name for Docker."""
        return f"{self.cluster.network_name}-{self.pod.name}"

    @property
    def address(self) -> str:
        return str(inspect(self.name)["NetworkSettings"]["Networks"][self.cluster.network_name]["IPAddress"])

    def answers(self, kind: str) -> bool:
        is_there = docker("ps", "--quiet", "--filter", f"name=^{self.name}$")  # it has been asked for, but may come yet
        return bool(is_there) and super().answers(kind)

    def signal(self, number: Signals) -> None:
        docker("kill", "--signal", number.name, self.name, check=False)  # it may have ended

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["docker", "exec", self.name, *command], capture_output=True, check=False)

    def how(self, container: dict[str, Any]) -> dict[str, Any]:
        known = variables(self.pod, container, self.cluster.manifests)
        command = [expand(word, known) for word in container.get("command", ())]
        arguments = [expand(word, known) for word in container.get("args", ())]
        options = [*self._options(), *_rights(self.pod.spec["securityContext"], container["securityContext"])]
        options += [word for name, value in known.items() for word in ("--env", f"{name}={value}")]
        for mount in container["volumeMounts"]:
            folder, _, mode = self.source(mount).partition(":")
            options += ["--volume", f"{folder}:{mount['mountPath']}:{mode or 'rw'}"]
        options += ["--entrypoint", command[0]] if command else []
        return {"args": ["docker", "run", *options, container["image"], *command[1:], *arguments]}

    def _options(self) -> list[str]:
        aliases = [f"--network-alias={name}" for name in self.cluster.names(self.pod)]
        named = ["--rm", f"--name={self.name}", f"--hostname={self.pod.name}", "--no-healthcheck"]
        return [*named, f"--network={self.cluster.network_name}", *aliases]


def _rights(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    """Return the options of Docker that mean what two security contexts say."""
    assert pod["runAsNonRoot"]
    assert pod["runAsUser"] != 0
    options = [f"--user={pod['runAsUser']}:{pod['runAsGroup']}", f"--group-add={pod['fsGroup']}"]
    options += [f"--cap-drop={name}" for name in container["capabilities"]["drop"]]
    options += ["--read-only"] if container["readOnlyRootFilesystem"] else []
    return options + ([] if container["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"])


class ContainerCluster(Cluster):
    """All pods of some manifests as containers."""

    sets: ClassVar[dict[str, Any]] = {"image.tag": TAG}

    def __init__(self, manifests: list[Manifest], wanted: Sequence[Pod], folder: Path) -> None:
        self.manifests, self.wanted = manifests, wanted
        self.claims = folder / "claims"
        self.network_name = f"rattle-pods-{secrets.token_hex(4)}"
        docker("network", "create", self.network_name)
        folder.mkdir(exist_ok=True)
        self.pods = {pod.name: ContainerPod(pod, self, folder / pod.name) for pod in wanted}
        for pod in self.pods.values():
            pod.folder.mkdir()

    def ask(self, program: str, *arguments: str) -> bool:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, timeout=600, check=False
        )
        return done.returncode == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pod in self.pods.values():
            docker("rm", "--force", pod.name, check=False)
            if pod.process is not None:
                pod.process.wait()
        with suppress(AssertionError):
            docker("network", "rm", self.network_name)
