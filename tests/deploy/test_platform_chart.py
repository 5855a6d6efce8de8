"""What the chart of the platform names is there: images, ports, variables, keys, settings, commands.

Policies let pass who asks whom, and mistakes in values are refused in a line that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from rattle.cli import main
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.services import SecuritySection
from rattle.settings.sources import load_settings
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import Manifest, Pod, expand, find, of_kind, pods, variables
from tests.deploy.pods import command_of, service_of
from tests.deploy.test_charts import rendered

pytestmark = [pytest.mark.integration, pytest.mark.promised]

CHART, DATA = ROOT / "k8s" / "platform", ROOT / "k8s" / "data-stack"
SERVICES = ROOT / "src" / "rattle" / "services"
VALUES = [None, *sorted(CHART.glob("values-*.yaml"))]
#: Of the data stack, as docs/deployment.md has them.
CREDENTIALS = ("rabbitmq-username", "rabbitmq-password", "clickhouse-username", "clickhouse-password")
SECURITY_FILES = ("TOKEN_FILE", "CERTIFICATE", "PRIVATE_KEY", "AUTHORITY", "MUTUAL")


def with_secrets_of_others(made: list[Manifest]) -> list[Manifest]:
    """Return manifests with the Secrets that cert-manager and the data stack make."""
    others = {
        "rattle-data-credentials": CREDENTIALS,
        "rattle-data-tls": ("ca.crt",),
        **{one["spec"]["secretName"]: ("tls.crt", "tls.key", "ca.crt") for one in of_kind(made, "Certificate")},
    }
    secrets = [
        {"kind": "Secret", "metadata": {"name": name}, "stringData": dict.fromkeys(keys, "s3cret")}
        for name, keys in others.items()
    ]
    return [*made, *secrets]


@pytest.fixture(params=VALUES, ids=[path.stem.removeprefix("values-") if path else "default" for path in VALUES])
def manifests(request: pytest.FixtureRequest, helm: Helm) -> list[Manifest]:
    return with_secrets_of_others(rendered(helm, CHART, request.param))


def containers(manifests: list[Manifest]) -> Iterator[tuple[Pod, dict[str, Any]]]:
    for pod in pods(manifests):
        for container in pod.containers:
            yield pod, container


@cache
def dockerfile(service: str) -> str:
    return (SERVICES / service / "Dockerfile").read_text()


def test_images_are_built_here_and_expose_the_ports(manifests: list[Manifest]) -> None:
    for _, container in containers(manifests):
        exposed = {
            (int(port), (protocol or "/tcp")[1:].upper())
            for line in re.findall(r"^EXPOSE (.*)$", dockerfile(service_of(container)), re.MULTILINE)
            for port, protocol in re.findall(r"(\d+)(/\w+)?", line)
        }
        ports = {(port["containerPort"], port.get("protocol", "TCP")) for port in container.get("ports", ())}
        assert ports <= exposed
        wants_cuda = service_of(container) == "training" and "nvidia.com/gpu" in container["resources"]["limits"]
        assert container["image"].endswith("-cuda") == wants_cuda


def test_settings_are_those_of_the_services(manifests: list[Manifest], tmp_path: Path) -> None:
    """Have each container's experiment and variables read as its service does."""
    for pod, container in containers(manifests):
        known = variables(pod, container, manifests)
        for name in SECURITY_FILES:
            known.pop(f"RATTLE_SECURITY__{name}", None)
            assert name.lower() in SecuritySection.model_fields
        (config,) = [one["configMap"]["name"] for one in pod.spec["volumes"] if one["name"] == "experiment"]
        path = tmp_path / "experiment.yaml"
        path.write_text(find(manifests, "ConfigMap", config)["data"]["experiment.yaml"])
        settings = load_settings(path, [], known, plays=False)
        if pod.labels["app.kubernetes.io/component"] == "inference":
            assert settings.inference.index == pod.index
            assert settings.topology.inference > pod.index


def test_other_variables_are_known_in_the_code(manifests: list[Manifest]) -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "rattle").rglob("*.py"))
    for pod, container in containers(manifests):
        entries = container["env"]
        used = {name for entry in entries for name in re.findall(r"\$\((\w+)\)", entry.get("value", ""))}
        for entry in entries:
            name = entry["name"]
            assert len([one for one in entries if one["name"] == name]) == 1
            assert name.startswith("RATTLE_") or name in used or f'"{name}"' in source or name == "SSL_CERT_FILE"
        words = [expand(word, variables(pod, container, manifests)) for word in container.get("args", ())]
        assert "$(" not in "".join([*words, *variables(pod, container, manifests).values()])


def test_no_secret_stands_in_a_command(manifests: list[Manifest]) -> None:
    for pod, container in containers(manifests):
        known = variables(pod, container, manifests)
        assert not any("s3cret" in expand(word, known) for word in container.get("args", ()))


def test_keys_of_secrets_are_there(manifests: list[Manifest]) -> None:
    known = {
        one["metadata"]["name"]: {*one.get("data", ()), *one.get("stringData", ())}
        for one in of_kind(manifests, "Secret")
    }
    for pod, container in containers(manifests):
        for entry in container["env"]:
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                assert reference["key"] in known[reference["name"]]
        for volume in pod.spec["volumes"]:
            if about := volume.get("secret"):
                assert {item["key"] for item in about["items"]} <= known[about["secretName"]]
    for monitor in of_kind(manifests, "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            asked = endpoint["authorization"]["credentials"] if "authorization" in endpoint else None
            assert asked is None or asked["key"] in known[asked["name"]]


def test_prometheus_asks_each_service_once(manifests: list[Manifest]) -> None:
    component = "app.kubernetes.io/component"
    for monitor in of_kind(manifests, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        asked = [
            one["metadata"]["labels"][component]
            for one in of_kind(manifests, "Service")
            if wanted <= one["metadata"]["labels"].items() and "rattle/monitored" not in one["metadata"]["labels"]
            if any(port["name"] == "http" for port in one["spec"]["ports"])
        ]
        assert sorted(asked) == sorted({pod.labels[component] for pod in pods(manifests) if "-test-" not in pod.name})


def test_commands_are_what_they_take(
    manifests: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text("{}")
    for pod, container in containers(manifests):
        known = variables(pod, container, manifests)
        words = [expand(word, known) for word in [*command_of(container), *container.get("args", ())]]
        program, *rest = [word.replace("/etc/rattle/experiment.yaml", str(experiment)) for word in words]
        if program == "python":
            (script, *_), scripts = rest, find(manifests, "ConfigMap", "rattle-tests")["data"]
            assert Path(script).name in scripts
            continue
        assert program == "rattle"
        name, *arguments = rest
        command = main.get_command(click.Context(main), name)
        assert command is not None
        with command.make_context(name, arguments):
            pass
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        files = [word for word in [*words, *known.values()] if re.fullmatch(r"/(etc|run|runs)(/[\w./-]*)?", word)]
        assert all(any(file == mount or file.startswith(f"{mount}/") for mount in mounts) for file in files), files


def test_what_the_chart_takes_for_defaults_are_those_of_the_settings(helm: Helm) -> None:
    """The chart reads these where the experiment does not say them."""
    settings = ExperimentSettings()
    text = (CHART / "templates" / "_plan.tpl").read_text()
    assert f'.training.mode | default "{settings.training.mode}"' in text
    assert f'$sync.mode | default "{settings.sync.mode}"' in text
    assert f'.training.policies | default (list "{settings.training.policies[0]}")' in text
    assert f".inference.snakes | default {settings.inference.snakes} " in text
    assert ExperimentSettings.model_validate({"sync": "pace"}).inference.api == "agent"
    assert settings.inference.api == "vector"
    limits = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]
    (most,) = [rule.le for rule in type(settings.topology).model_fields["inference"].metadata if hasattr(rule, "le")]
    assert {limits[name]["properties"]["replicas"]["maximum"] for name in ("env", "inference", "training")} == {most}


def allows(rules: list[dict[str, Any]], side: str, other: Pod, port: int, protocol: str) -> bool:
    """Whether the rules of a NetworkPolicy let a pod of the namespace pass at a port."""

    def fits(rule: dict[str, Any]) -> bool:
        peers = rule.get(side)
        chosen = peers is None or any(
            "podSelector" in peer
            and "namespaceSelector" not in peer
            and peer["podSelector"].get("matchLabels", {}).items() <= other.labels.items()
            for peer in peers
        )
        ports = rule.get("ports")
        return chosen and (
            ports is None
            or any(
                one["port"] <= port <= one.get("endPort", one["port"]) and one["protocol"] == protocol for one in ports
            )
        )

    return any(fits(rule) for rule in rules)


def may_connect(manifests: list[Manifest], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether all policies of both pods let a connection pass."""
    for policy in of_kind(manifests, "NetworkPolicy"):
        chosen, spec = policy["spec"]["podSelector"]["matchLabels"].items(), policy["spec"]
        if chosen <= source.labels.items() and not allows(spec["egress"], "to", target, port, protocol):
            return False
        if chosen <= target.labels.items() and not allows(spec["ingress"], "from", source, port, protocol):
            return False
    return True


def asked(manifests: list[Manifest]) -> Iterator[tuple[Pod, Pod, int, str]]:
    """Yield who asks whom, at which port and by which protocol, as arguments and variables say it."""
    everyone = list(pods(manifests))
    names = {f"{pod.name}.{pod.subdomain}": [pod] for pod in everyone if pod.subdomain}
    for service in of_kind(manifests, "Service"):
        chosen = service["spec"]["selector"].items()
        names[service["metadata"]["name"]] = [pod for pod in everyone if chosen <= pod.labels.items()]
    for source, container in containers(manifests):
        known = variables(source, container, manifests)
        said = " ".join([*container.get("args", ()), *known.values()])
        for host, port in re.findall(r"(rattle-[a-z0-9.-]+):(\d+)", said):
            for target in names.get(host, ()):
                protocol = "UDP" if int(port) in (5555, 5556) else "TCP"
                yield source, target, int(port), protocol


def test_policies_let_pass_who_asks_and_nobody_else(manifests: list[Manifest]) -> None:
    for source, target, port, protocol in asked(manifests):
        assert may_connect(manifests, source, target, port, protocol), (source.name, target.name, port)
        if protocol == "UDP":  # answers go to any port
            assert may_connect(manifests, target, source, 40_000, protocol)
    by_name = {pod.labels["app.kubernetes.io/component"]: pod for pod in pods(manifests)}
    if of_kind(manifests, "NetworkPolicy"):
        stranger = Pod("stranger", 0, {"app": "other"}, {})
        assert not may_connect(manifests, stranger, by_name["training"], 50051)
        assert not may_connect(manifests, by_name["env"], by_name["training"], 50051)
        assert not may_connect(manifests, by_name["env"], stranger, 80)
        for policy in of_kind(manifests, "NetworkPolicy"):
            dns = {(port["port"], port["protocol"]) for port in policy["spec"]["egress"][0]["ports"]}
            assert dns == {(53, "UDP"), (53, "TCP")}


def test_services_know_the_names_by_which_they_are_asked(manifests: list[Manifest]) -> None:
    certified = {name for one in of_kind(manifests, "Certificate") for name in one["spec"].get("dnsNames", ())}
    for _, container in containers(manifests):
        said = " ".join([*container.get("args", ()), *(entry.get("value", "") for entry in container["env"])])
        (known,) = [entry["value"] for entry in container["env"] if entry["name"].endswith("__ALLOWED_HOSTS")]
        asked_for = {host for host in re.findall(r"https?://(rattle-[a-z0-9.-]+):\d+", said) if "-data-" not in host}
        assert asked_for <= set(yaml.safe_load(known))
        assert not certified or asked_for <= certified


def test_dashboards_of_grafana_are_those_of_the_repository(helm: Helm) -> None:
    made = of_kind(rendered(helm, CHART, CHART / "values-everything.yaml"), "ConfigMap")
    shown = {name: text for one in made for name, text in one["data"].items() if name.endswith(".json")}
    files = {f"rattle-{path.name}": path.read_text() for path in (ROOT / "deploy/grafana/dashboards").iterdir()}
    assert {name: text.strip() for name, text in shown.items()} == {name: text.strip() for name, text in files.items()}


def test_pods_that_come_and_go_are_asked_at_one_address_and_have_their_share(helm: Helm) -> None:
    manifests = with_secrets_of_others(rendered(helm, CHART, CHART / "values-production.yaml"))
    for name in ("rattle-env", "rattle-inference"):
        assert "replicas" not in find(manifests, "StatefulSet", name)["spec"]
        assert find(manifests, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    most = find(manifests, "HorizontalPodAutoscaler", "rattle-inference")["spec"]["maxReplicas"]
    (pod,) = [pod for pod in pods(manifests) if pod.name == "rattle-inference-0"]
    known = variables(pod, pod.containers[0], manifests)
    assert known["RATTLE_TOPOLOGY__INFERENCE"] == str(most)
    assert yaml.safe_load(known["RATTLE_INFERENCE__ENVS"]) == ["https://rattle-env-any:5000"]
    assert find(manifests, "Service", "rattle-env-any")["spec"]["sessionAffinity"] == "ClientIP"
    assert pod.spec["terminationGracePeriodSeconds"] > float(known["RATTLE_INFERENCE__DRAIN_SECONDS"]) + 5


def test_an_inference_that_only_serves_may_scale(helm: Helm) -> None:
    sets = {"env.enabled": False, "training.enabled": False, "inference.policy": "/policies/snake.safetensors"}
    manifests = helm.template(CHART, sets={**sets, "inference.autoscaling.enabled": True, "dashboard.enabled": False})
    (pod,) = [pod for pod in pods(manifests) if pod.labels["app.kubernetes.io/component"] == "inference"]
    assert pod.containers[0]["args"][-2:] == ["--policy", "/policies/snake.safetensors"]
    assert "RATTLE_INFERENCE__TRAINING" not in variables(pod, pod.containers[0], manifests)


def test_in_mode_pace_each_env_service_hears_ticks(helm: Helm) -> None:
    sets = {"experiment": {"sync": {"mode": "pace", "participants": ["watcher:7000"]}}, "env.replicas": 2}
    manifests = helm.template(CHART, sets={**sets, "inference.replicas": 3})
    (sync,) = [pod for pod in pods(manifests) if pod.labels["app.kubernetes.io/component"] == "sync"]
    arguments = sync.containers[0]["args"]
    told = [after for word, after in pairwise(arguments) if word == "--participant"]
    assert told == ["watcher:7000", *(f"rattle-env-{number}.rattle-env:5556" for number in range(2))]
    (env, _) = [pod for pod in pods(manifests) if pod.labels["app.kubernetes.io/component"] == "env"]
    assert variables(env, env.containers[0], manifests)["RATTLE_ENV_SERVICE__SNAKES"] == "2"
    for source, target, port, protocol in asked(manifests):
        assert may_connect(manifests, source, target, port, protocol)


def test_telemetry_finds_the_data_stack_by_the_values_that_it_gives(helm: Helm, tmp_path: Path) -> None:
    data = helm.template(DATA, release="rattle-data")
    assert {*find(data, "Secret", "rattle-data-credentials")["data"]} == set(CREDENTIALS)
    values = tmp_path / "values.yaml"
    values.write_text(find(data, "ConfigMap", "rattle-data-platform")["data"]["values.yaml"])
    both = [*helm.template(CHART, values), *data]
    met = set()
    for source, target, port, protocol in asked(both):
        assert may_connect(both, source, target, port, protocol), (source.name, target.name, port)
        if target.name.startswith("rattle-data-"):
            met.add((source.labels["app.kubernetes.io/component"], target.name, port))
    broker, store = ("rattle-data-rabbitmq-0", 5672), ("rattle-data-clickhouse-0", 8123)
    publishing = {(name, *broker) for name in ("env", "inference", "training", "ingest", "tests")}
    assert met == publishing | {(name, *store) for name in ("ingest", "dashboard", "tests")}


WRONG = [
    ({"env.replicas": "two"}, "at '/env/replicas': got string, want integer"),
    ({"env.replica": 2}, "at '/env': additional properties 'replica' not allowed"),
    ({"training.gpu.count": 0}, "at '/training/gpu/count': minimum: got 0, want 1"),
    ({"image.pullPolicy": "Sometimes"}, "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent'"),
    ({"experiment": "a: [1"}, "experiment: this is no YAML of an experiment"),
    ({"inference.autoscaling.enabled": True}, "set inference.replicas, or training.mode: async in the experiment"),
    (
        {
            "experiment": {"training": {"mode": "async"}, "sync": "lockstep"},
            "env.autoscaling.enabled": True,
        },
        "env.autoscaling: the Sync service leads a fixed set of pods: set env.replicas, or sync: none",
    ),
    (
        {
            "experiment": {"training": {"mode": "async"}},
            "env.autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2},
        },
        "env.autoscaling.minReplicas is 5, which is more than maxReplicas, 2",
    ),
    ({"sync.enabled": True}, "sync.enabled is true, but sync.mode of the experiment is none"),
    ({"experiment": {"env": {"url": "http://other:5000"}}}, "set env.enabled=false, or leave env.url out"),
    ({"env.enabled": False}, "there is nothing to play in: set env.enabled=true, or name a server in env.url"),
    ({"training.enabled": False}, "nobody learns: set training.enabled=true, or have it serve only"),
    ({"training.replicas": 2}, "training.replicas is 2, but training.policies of the experiment names 1"),
    ({"training.kind": "cronjob"}, "at '/training/kind': value must be one of 'service', 'job'"),
    (
        {"training.kind": "job", "experiment": {"train": {"steps": None}}},
        "training.kind is job, but the run has no end: give the experiment train.steps",
    ),
    ({"tls.enabled": True}, "name a Secret in tls.existingSecret, or set tls.certManager.enabled=true"),
    ({"telemetry.enabled": True}, "telemetry.enabled needs telemetry.broker.host"),
    ({"gateway.enabled": True}, "gateway.enabled needs gateway.parentRefs"),
]


@pytest.mark.parametrize(("sets", "line"), WRONG, ids=[line[:40] for _, line in WRONG])
def test_mistakes_are_refused_in_a_line(helm: Helm, sets: dict[str, Any], line: str) -> None:
    said = helm.refusal(CHART, sets=sets)
    assert line in " ".join(said.split())
