"""Pods as processes: with the names, addresses, mounts, users, commands and probes that their manifests give them.

Each has a network namespace, whose /etc/hosts has the names that a cluster's DNS would answer, and a mount namespace:
its root is this machine's, read-only, with the pod's volumes in it. Needs root and iproute2.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.deploy.helm import ROOT
from tests.deploy.manifests import Manifest, Pod, expand, find, of_kind, secret, variables
from tests.networks import Network

USER = 10001
KUBELET = "kubelet"
_PATIENCE_SECONDS = 600.0
_BIN = Path(sys.executable).parent

#: Mounts what the pod has, and becomes its command. $1: its folder, $2: the checkout, $3: folders that its user passes;
#: then TARGET=FOLDER[:ro] for each mount, -- and the command.
_ENTER = r"""
set -e
pod=$1 checkout=$2 passed=$3; shift 3
mount -t tmpfs layers "$pod/layers"
mkdir "$pod/layers/upper" "$pod/layers/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$pod/layers/upper,workdir=$pod/layers/work" "$pod/root"
for mount in "$@"; do
  [ "$mount" = -- ] && break
  mkdir -p "$pod/root${mount%%=*}"
done
for folder in $passed; do chmod o+rx "$pod/root$folder"; done  # the layer's, not this machine's
mount -o remount,ro "$pod/root"
mount --rbind /proc "$pod/root/proc"
mount --rbind /dev "$pod/root/dev"
mount --bind "$pod/hosts" "$pod/root/etc/hosts"
while [ "$1" != -- ]; do
  target=${1%%=*} source=${1#*=}; shift
  mount --bind "${source%:ro}" "$pod/root$target"
  [ "${source%:ro}" = "$source" ] || mount -o remount,bind,ro "$pod/root$target"
done
shift
[ -e "$pod/root$checkout" ] || mkdir -p "$pod/root$checkout"
mount --bind "$checkout" "$pod/root$checkout"
exec chroot "$pod/root" "$@"
"""
#: Folders on the way to Python and to the checkout.
_PASSED = " ".join(dict.fromkeys(str(up) for place in (Path(sys.base_prefix), ROOT) for up in place.parents))
_AS_USER = (
    "setpriv",
    f"--reuid={USER}",
    f"--regid={USER}",
    f"--groups={USER}",
    "--no-new-privs",
    "--bounding-set=-all",
)
_ASK_GRPC = """import sys, grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
with grpc.insecure_channel(sys.argv[1]) as channel:
    ask = channel.unary_unary("/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString,
                              HealthCheckResponse.FromString)
    sys.exit(ask(HealthCheckRequest(service=sys.argv[2]), timeout=20).status != 1)
"""
_ASK_HTTP = """import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
connection.request("GET", sys.argv[3])
sys.exit(not 200 <= connection.getresponse().status < 400)
"""


def entrypoint(service: str) -> list[str]:
    """Return what the image of a service runs, as its Dockerfile says."""
    text = (ROOT / "src" / "rattle" / "services" / service / "Dockerfile").read_text()
    return list(json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)[-1]))


def service_of(container: dict[str, Any]) -> str:
    """Return the service whose image a container has."""
    return re.sub(r"^.*snake_rl_(\w+):.*$", r"\1", container["image"])


def command_of(container: dict[str, Any]) -> list[str]:
    """Return the command of a container, which is its image's unless it has one of its own."""
    return list(container.get("command") or entrypoint(service_of(container)))


@dataclass
class RunningPod:
    """A pod of one container, which may end and be started again with what its volumes hold."""

    pod: Pod
    cluster: Cluster
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.pod.spec["containers"]
        return dict(container)

    @property
    def address(self) -> str:
        return self.cluster.network.address(self.pod.name)

    def start(self) -> None:
        """Begin its life: what runs before the container, to its end, and then the container."""
        for container in self.pod.spec.get("initContainers", ()):
            subprocess.run(**self.how(container), check=True, timeout=_PATIENCE_SECONDS)
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(**self.how(self.container), stdout=output, stderr=subprocess.STDOUT)

    def log(self) -> str:
        """Return what it has said."""
        return (self.folder / "log").read_text()

    def end(self, number: Signals = SIGTERM) -> int:
        """End it as a cluster does, or by another signal, and return the exit status of its process."""
        assert self.process is not None
        self.signal(number)
        try:
            return self.process.wait(self.pod.spec["terminationGracePeriodSeconds"])
        finally:
            self.signal(SIGKILL)

    def signal(self, number: Signals) -> None:
        """Send a signal to its process, if that goes on."""
        assert self.process is not None
        self.process.send_signal(number)

    def run_to_its_end(self) -> int:
        """Have a pod that ends by itself do so, and return its exit status."""
        self.start()
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended by itself, and return its exit status."""
        assert self.process is not None
        return self.process.wait(_PATIENCE_SECONDS)

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command in its container, as `kubectl exec` does."""
        assert self.process is not None
        how = self.how({**self.container, "command": list(command), "args": []})
        within = ("nsenter", f"--target={self.process.pid}", "--mount", "--net", "--root", "--wdns=/")
        return subprocess.run(
            [*within, *_AS_USER, *command], env=how["env"], capture_output=True, timeout=600, check=False
        )

    def answers(self, kind: str) -> bool:
        """Whether a probe of its container is content: startup, readiness or liveness."""
        probe = self.container[f"{kind}Probe"]
        if "exec" in probe:
            return self.run(*probe["exec"]["command"]).returncode == 0
        if "grpc" in probe:
            service = probe["grpc"].get("service", "")
            return self.cluster.ask(_ASK_GRPC, f"{self.address}:{probe['grpc']['port']}", service)
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        port = probe["httpGet"]["port"]
        return self.cluster.ask(_ASK_HTTP, self.address, str(ports.get(port, port)), probe["httpGet"]["path"])

    def wait_until(self, kind: str) -> None:
        """Wait until a probe is content."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self.answers(kind):
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < until, f"{self.pod.name} is not content: {kind}\n{self.log()}"
            time.sleep(0.2)

    def how(self, container: dict[str, Any]) -> dict[str, Any]:
        """Return what starts a container, as arguments of `subprocess`."""
        known = variables(self.pod, container, self.cluster.manifests)
        words = [expand(word, known) for word in (*command_of(container), *container.get("args", ()))]
        words[0] = shutil.which(words[0], path=str(_BIN)) or words[0]
        mounts = [f"{mount['mountPath']}={self.source(mount)}" for mount in container["volumeMounts"]]
        enter = ("sh", "-c", _ENTER, "enter", str(self.folder), str(ROOT), _PASSED, *mounts, "--", *_AS_USER)
        known |= {"PATH": f"{_BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108
        within = self.cluster.network.within(self.pod.name)
        return {"args": [*within, "unshare", "--mount", *enter, *words], "env": known, "cwd": "/"}

    def source(self, mount: dict[str, Any]) -> str:
        """Return the folder with a volume's content, with `:ro` where it is mounted to be read only."""
        folder = self.folder / "volumes" / mount["name"]
        if mount["name"] not in self.pod.claims:
            (volume,) = [one for one in self.pod.spec["volumes"] if one["name"] == mount["name"]]
            if claim := volume.get("persistentVolumeClaim"):
                folder = self.cluster.claims / claim["claimName"]
            self._fill(folder, volume)
        else:
            folder = self.cluster.claims / f"{mount['name']}-{self.pod.name}"
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            os.chown(folder, USER, USER)
        return f"{folder}{':ro' if mount.get('readOnly') else ''}"

    def _fill(self, folder: Path, volume: dict[str, Any]) -> None:
        files: dict[str, bytes] = {}
        if about := volume.get("configMap"):
            data = find(self.cluster.manifests, "ConfigMap", about["name"])["data"]
            files = {name: text.encode() for name, text in data.items()}
        elif about := volume.get("secret"):
            named = {item["key"]: item["path"] for item in about["items"]}
            files = {path: secret(self.cluster.manifests, about["secretName"], key) for key, path in named.items()}
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.read_bytes() == content:
                continue  # a container of the pod may be reading it
            path.write_bytes(content)
            os.chown(path, 0, self.pod.spec["securityContext"]["fsGroup"])
            path.chmod(about.get("defaultMode", 0o644))


class Cluster:
    """All pods of some manifests, in a network of their own; `claims` is the folder with the volumes that stay."""

    #: Values of the chart that it needs.
    sets: ClassVar[dict[str, Any]] = {}

    def __init__(self, manifests: list[Manifest], wanted: Sequence[Pod], folder: Path) -> None:
        self.manifests, self.wanted, self._folder = manifests, wanted, folder
        self.claims = folder / "claims"
        self.network = Network([*(pod.name for pod in wanted), KUBELET])
        hosts = [f"{self.network.address(pod.name)} {name}" for pod in wanted for name in self.names(pod)]
        self._hosts = "\n".join(["127.0.0.1 localhost", *hosts]) + "\n"
        self.pods = {pod.name: self._prepared(pod) for pod in wanted}

    def running(self) -> list[RunningPod]:
        """Return the pods that have been started and go on."""
        return [pod for pod in self.pods.values() if pod.process is not None and pod.process.poll() is None]

    def ask(self, program: str, *arguments: str) -> bool:
        """Whether a program of Python's, asked from the node, ends well."""
        within = self.network.within(KUBELET)
        done = subprocess.run(
            [*within, sys.executable, "-c", program, *arguments], capture_output=True, timeout=600, check=False
        )
        return done.returncode == 0

    def names(self, pod: Pod) -> list[str]:
        """Return the names by which the cluster's DNS would know a pod; a Service is its first pod."""
        names = [pod.name, f"{pod.name}.{pod.subdomain}"] if pod.subdomain else [pod.name]
        for service in of_kind(self.manifests, "Service"):
            chosen = [one for one in self.wanted if service["spec"]["selector"].items() <= one.labels.items()]
            names += [service["metadata"]["name"]] if pod in chosen[:1] else []
        return names

    def _prepared(self, pod: Pod) -> RunningPod:
        folder = self._folder / pod.name
        for name in ("layers", "root", "volumes"):
            (folder / name).mkdir(parents=True)
        (folder / "hosts").write_text(self._hosts)
        return RunningPod(pod, self, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pod in self.pods.values():
            if pod.process is not None:
                pod.signal(SIGKILL)
                pod.process.wait()
        self.network.close()
