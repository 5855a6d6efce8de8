"""What a cluster has already: the token is kept, and an experiment in a ConfigMap of the user's is read."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.helm import ROOT, Helm, HelmError
from tests.deploy.manifests import Manifest, find, of_kind

pytestmark = [pytest.mark.integration, pytest.mark.promised]

CHART = ROOT / "k8s" / "platform"
#: What Helm adds to the objects of a release.
OWNED = {"meta.helm.sh/release-name": "rattle", "meta.helm.sh/release-namespace": "rattle"}
ASYNC = "training: {mode: async}\n"


class _Answers(BaseHTTPRequestHandler):
    """Answers what Helm asks of a cluster: which kinds there are, and objects of the namespace."""

    def do_GET(self) -> None:
        answers: dict[str, Any] = self.server.answers  # type: ignore[attr-defined]
        found = answers.get(self.path.partition("?")[0])
        body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def discovery(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the paths and answers by which a cluster says that it knows the kinds of some manifests."""
    kinds: dict[str, set[str]] = {"v1": {"ConfigMap", "Secret"}}
    for manifest in manifests:
        kinds.setdefault(manifest["apiVersion"], set()).add(manifest["kind"])
    versions = sorted(version for version in kinds if "/" in version)
    offered = [{"groupVersion": version, "version": version.partition("/")[2]} for version in versions]
    groups = [
        {"name": one["groupVersion"].partition("/")[0], "versions": [one], "preferredVersion": one} for one in offered
    ]
    answers: dict[str, Any] = {
        "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version, names in kinds.items():
        resources = [
            {"name": f"{name.lower()}s", "singularName": "", "namespaced": True, "kind": name, "verbs": ["get"]}
            for name in sorted(names)
        ]
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        answers[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return answers


@contextmanager
def cluster(answers: dict[str, Any], folder: Path) -> Iterator[tuple[str, ...]]:
    """Serve answers for the block, which gets what has Helm ask there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.answers = answers  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    known = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(json.dumps(known))
    try:
        yield ("--dry-run=server", "--disable-openapi-validation", "--kubeconfig", str(folder / "kubeconfig"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def token_of(manifests: list[Manifest]) -> bytes:
    (secret,) = of_kind(manifests, "Secret")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    return base64.b64decode(secret["data"]["token"])


def test_the_token_is_made_once(helm: Helm, tmp_path: Path) -> None:
    offline = helm.template(CHART)
    first = token_of(offline)
    assert len(first) >= 32
    answers = discovery(offline)
    with cluster(answers, tmp_path) as there:
        assert token_of(helm.template(CHART, more=there)) != first  # there is none yet
        secret = find(offline, "Secret", "rattle-token")
        secret["metadata"]["annotations"] |= OWNED
        answers["/api/v1/namespaces/rattle/secrets/rattle-token"] = secret
        assert token_of(helm.template(CHART, more=there)) == first


def test_an_experiment_of_the_cluster_is_read(helm: Helm, tmp_path: Path) -> None:
    sets = {"existingConfigMap": "mine", "env.autoscaling.enabled": True}
    with pytest.raises(HelmError, match=r"env\.autoscaling: in training\.mode on_policy"):
        helm.template(CHART, sets=sets)
    answers = discovery(helm.template(CHART, sets={"experiment": ASYNC, "env.autoscaling.enabled": True}))
    about = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": "rattle"}}
    answers["/api/v1/namespaces/rattle/configmaps/mine"] = {**about, "data": {"experiment.yaml": ASYNC}}
    with cluster(answers, tmp_path) as there:
        manifests = helm.template(CHART, sets=sets, more=there)
    assert of_kind(manifests, "HorizontalPodAutoscaler")
    assert not [one for one in of_kind(manifests, "ConfigMap") if one["metadata"]["name"] == "rattle-experiment"]
