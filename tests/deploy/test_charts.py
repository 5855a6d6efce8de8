"""Charts with all their values: Helm's own checks, the schemas of Kubernetes, and what holds for every manifest."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.custom_kinds import SPECS
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import Manifest, Pod, of_kind, pods, validate

pytestmark = [pytest.mark.integration, pytest.mark.promised]

CHARTS = sorted(path.parent for path in (ROOT / "k8s").glob("*/Chart.yaml"))
CASES = [(chart, values) for chart in CHARTS for values in (None, *sorted(chart.glob("values-*.yaml")))]
#: How a probe may ask.
PROBES = ("exec", "httpGet", "grpc", "tcpSocket")
NAMES = [f"{chart.name}-{values.stem.removeprefix('values-') if values else 'default'}" for chart, values in CASES]


@functools.cache
def rendered(helm: Helm, chart: Path, values: Path | None) -> list[Manifest]:
    """Return the manifests of a chart with a file of values, or its defaults."""
    return helm.template(chart, *([values] if values else ()))


@pytest.fixture(params=CASES, ids=NAMES)
def manifests(request: pytest.FixtureRequest, helm: Helm) -> list[Manifest]:
    return rendered(helm, *request.param)


@pytest.mark.parametrize(("chart", "values"), CASES, ids=NAMES)
def test_helm_has_nothing_to_say_against_it(helm: Helm, chart: Path, values: Path | None) -> None:
    helm.lint(chart, *([values] if values else ()))


def test_each_version_of_kubernetes_takes_each_manifest(manifests: list[Manifest]) -> None:
    assert manifests
    for manifest in manifests:
        validate(manifest)


def test_a_wrong_manifest_is_noticed(helm: Helm) -> None:
    from kubernetes_validate import ValidationError  # it takes seconds, and every worker imports this module

    (first, *_) = of_kind(rendered(helm, CHARTS[-1], None), "StatefulSet")
    with pytest.raises(ValidationError):
        validate({**first, "spec": {**first["spec"], "replica": 2}})


def test_kinds_of_others_are_as_their_apis_say(helm: Helm) -> None:
    import jsonschema

    met = {}
    for chart, values in CASES:
        met |= {one["kind"]: one for one in rendered(helm, chart, values) if one["kind"] in SPECS}
    assert set(met) == set(SPECS)
    for one in met.values():
        wrong = ({**one, "apiVersion": "example.org/v1"}, {**one, "spec": {**one["spec"], "unknown": "a field"}})
        for manifest in (*wrong, {**one, "spec": {}}):
            with pytest.raises(jsonschema.ValidationError):
                validate(manifest)


def test_objects_have_the_standard_labels_and_names_of_their_own(manifests: list[Manifest]) -> None:
    wanted = {"name", "instance", "version", "part-of", "managed-by"}
    for manifest in manifests:
        assert {f"app.kubernetes.io/{label}" for label in wanted} <= manifest["metadata"]["labels"].keys()
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(set(names)) == len(names)


def test_whoever_chooses_pods_chooses_some(manifests: list[Manifest]) -> None:
    labels = [pod.labels for pod in pods(manifests)]

    def choose(selector: dict[str, str]) -> list[dict[str, str]]:
        return [one for one in labels if selector.items() <= one.items()]

    for manifest in of_kind(manifests, "Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"):
        spec = manifest["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        chosen = choose(selector.get("matchLabels", selector))
        assert chosen, manifest["metadata"]["name"]
        assert len({one.get("app.kubernetes.io/component") for one in chosen}) == 1
    targets = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for manifest in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = manifest["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in targets


def test_services_lead_to_ports_of_their_pods(manifests: list[Manifest]) -> None:
    for service in of_kind(manifests, "Service"):
        chosen = [pod for pod in pods(manifests) if service["spec"]["selector"].items() <= pod.labels.items()]
        for pod in chosen:
            ports = {port["name"]: port for one in pod.containers for port in one.get("ports", ())}
            for port in service["spec"]["ports"]:
                target = ports[port["targetPort"]]
                assert target.get("protocol", "TCP") == port.get("protocol", "TCP")
                assert target["containerPort"] == port["port"]
    for route in of_kind(manifests, "HTTPRoute", "GRPCRoute"):
        known = {
            (service["metadata"]["name"], port["port"])
            for service in of_kind(manifests, "Service")
            for port in service["spec"]["ports"]
        }
        backends = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
        assert {(backend["name"], backend["port"]) for backend in backends} <= known


def test_pods_are_restricted(manifests: list[Manifest]) -> None:
    """Hold pods to the Pod Security Standard `restricted`, and to what it leaves open."""
    for pod in pods(manifests):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        assert not any(pod.spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        assert {*(kind for volume in pod.spec.get("volumes", ()) for kind in volume if kind != "name")} <= allowed
        for container in pod.containers:
            own = container["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_what_is_mounted_is_there(manifests: list[Manifest]) -> None:
    made = {(one["kind"], one["metadata"]["name"]): one for one in manifests}
    accounts = {name for kind, name in made if kind == "ServiceAccount"}
    for pod in pods(manifests):
        assert pod.spec.get("serviceAccountName") in {None, *accounts}
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", ())}
        assert len(volumes) == len(pod.spec.get("volumes", ()))
        for container in pod.containers:
            mounts = container.get("volumeMounts", ())
            assert {mount["name"] for mount in mounts} <= {*volumes, *pod.claims}
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
        for volume in volumes.values():
            if about := volume.get("configMap"):
                assert ("ConfigMap", about["name"]) in made


def test_probes_mean_different_things(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        for container in pod.spec["containers"]:
            if not container.get("ports"):
                continue
            startup, readiness, liveness = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
            patience = [probe["periodSeconds"] * probe["failureThreshold"] for probe in (startup, readiness, liveness)]
            assert patience[0] >= 60, pod.name  # to begin may take long
            assert patience[1] < patience[2]  # who is busy gets no more to do, before it is started anew
            ready, alive = ({kind: probe.get(kind) for kind in PROBES} for probe in (readiness, liveness))
            assert ready != alive, pod.name
            _check_ports(pod, container, [startup, readiness, liveness])


def _check_ports(pod: Pod, container: dict[str, Any], probes: list[dict[str, Any]]) -> None:
    known = {name for port in container["ports"] for name in (port["name"], port["containerPort"])}
    for probe in probes:
        for kind in PROBES[1:]:
            if kind in probe:
                assert probe[kind]["port"] in known, pod.name
