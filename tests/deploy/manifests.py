"""What manifests hold: their pods, containers and variables; and whether Kubernetes would take them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.deploy.custom_kinds import SPECS, validate_custom

Manifest = dict[str, Any]

#: The oldest and the newest version of Kubernetes that charts are made for.
VERSIONS = ("1.31", "1.37")
_WORKLOADS = ("Deployment", "StatefulSet", "Job", "Pod")


def validate(manifest: Manifest) -> None:
    """Raise jsonschema's ValidationError where the oldest or the newest version would refuse a manifest.

    Fields that a version does not have are refused as well, and in kinds of others what charts are not known to use.
    """
    import kubernetes_validate  # it takes seconds, and every worker imports this module

    if manifest["kind"] in SPECS:
        validate_custom(manifest)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the manifests of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the manifest of a kind and name."""
    (found,) = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


@dataclass(frozen=True)
class Pod:
    """A pod of a workload, and its number there; `spec` is that of pods, and `claims` are the volumes of its own."""

    name: str
    index: int
    labels: dict[str, str]
    spec: dict[str, Any]
    claims: tuple[str, ...] = ()
    subdomain: str | None = None  # the Service by which it has a name of its own

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Return its containers, those that run first before the others."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def pods(manifests: list[Manifest]) -> Iterator[Pod]:
    """Yield every pod that workloads have, with the names that a cluster gives to those of StatefulSets."""
    for workload in of_kind(manifests, *_WORKLOADS):
        name, spec = workload["metadata"]["name"], workload["spec"]
        if workload["kind"] == "Pod":
            yield Pod(name, 0, workload["metadata"]["labels"], spec)
            continue
        template = spec["template"]
        claims = tuple(claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ()))
        for index in range(spec.get("replicas", 1)):
            labels = template["metadata"]["labels"]
            subdomain = spec.get("serviceName") or template["spec"].get("subdomain")
            yield Pod(f"{name}-{index}", index, labels, template["spec"], claims, subdomain)


def variables(pod: Pod, container: dict[str, Any], manifests: list[Manifest]) -> dict[str, str]:
    """Return a container's environment variables as a cluster sets them."""
    known: dict[str, str] = {}
    for entry in container.get("env", ()):
        known[entry["name"]] = expand(_value(entry, pod, manifests), known)
    return known


def _value(entry: dict[str, Any], pod: Pod, manifests: list[Manifest]) -> str:
    if "valueFrom" not in entry:
        return str(entry.get("value", ""))
    source = entry["valueFrom"]
    if "secretKeyRef" in source:
        return secret(manifests, source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]).decode()
    of_pods = {"metadata.name": pod.name, "metadata.labels['apps.kubernetes.io/pod-index']": str(pod.index)}
    return of_pods[source["fieldRef"]["fieldPath"]]


def secret(manifests: list[Manifest], name: str, key: str) -> bytes:
    """Return what a Secret has under a key."""
    found = find(manifests, "Secret", name)
    said = found.get("stringData", {}).get(key)
    return base64.b64decode(found["data"][key]) if said is None else str(said).encode()


def expand(text: str, known: dict[str, str]) -> str:
    """Return a text with $(NAME) replaced by variables, as a cluster does it: unknown ones stay."""
    return re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), text)
