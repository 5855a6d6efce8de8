"""The chart data-stack: its users, and the values by which the chart platform finds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple
from urllib.request import urlopen
from xml.etree import ElementTree

import pytest
import yaml

from rattle.telemetry.broker import Broker, find_broker
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import Manifest, Pod, find, of_kind, pods, variables
from tests.ports import free_port
from tests.rabbitmq import PASSWORD, USER, RabbitMQ, needs_rabbitmq

pytestmark = [pytest.mark.integration, pytest.mark.promised]

CHART = ROOT / "k8s" / "data-stack"
DISK = "GRANT READ, WRITE ON DISK"
#: Where the image of ClickHouse has its configuration.
ETC = "/etc/clickhouse-server/"
#: Opens a store with the configuration of the working directory, asks what the arguments say, and writes the answers.
ASKING = """
import json, sys
from pathlib import Path
from rattle.analytics.store import StoreError, create_tables, open_store

def answer(statement):
    try:
        return store.read(statement, "TabSeparated").decode()
    except StoreError as error:
        return str(error)

with open_store(f"chdb://{Path('data').resolve()}", create=True) as store:
    create_tables(store)
    Path("answers").write_text(json.dumps([answer(one) for one in json.loads(sys.argv[1])]))
"""


@pytest.mark.parametrize("name", ["", "dev", "external", "everything"])
def test_the_platform_takes_the_values_that_lead_to_it(helm: Helm, tmp_path: Path, name: str) -> None:
    values = [CHART / f"values-{name}.yaml"] if name else []
    made = helm.template(CHART, *values, release="rattle-data")
    (text,) = (one["data"]["values.yaml"] for one in of_kind(made, "ConfigMap") if "values.yaml" in one["data"])
    (tmp_path / "telemetry.yaml").write_text(text)
    assert of_kind(helm.template(ROOT / "k8s" / "platform", tmp_path / "telemetry.yaml"), "StatefulSet")
    about = yaml.safe_load(text)["telemetry"]
    if name != "external":
        for place in (about["broker"], about["store"]):
            service = find(made, "Service", place["host"])
            assert place["port"] in [port["port"] for port in service["spec"]["ports"]]
    if name in {"", "dev"}:
        assert "clickhouse-password" in find(made, "Secret", about["existingSecret"])["data"]


def test_servers_start_with_the_passwords_of_the_secret_and_show_them_nowhere_else(helm: Helm) -> None:
    made = helm.template(CHART, release="rattle-data")
    held = {pod.name: variables(pod, pod.spec["containers"][0], made) for pod in pods(made)}
    passwords = {
        held["rattle-data-rabbitmq-0"]["RABBITMQ_DEFAULT_PASS"],
        held["rattle-data-clickhouse-0"]["CLICKHOUSE_PASSWORD"],
    }
    assert len(passwords) == 2
    assert all(one.isalnum() and len(one) == 32 for one in passwords)
    rest = str([one for one in made if one["kind"] != "Secret"])
    assert not any(one in rest for one in passwords)
    users = find(made, "ConfigMap", "rattle-data-clickhouse")["data"]["users.xml"]
    assert '<default remove="remove"/>' in users
    assert "GRANT ALL ON rattle.*" in users


def test_wrong_values_are_refused_by_name(helm: Helm) -> None:
    external = CHART / "values-external.yaml"
    assert "needs credentials.existingSecret" in helm.refusal(CHART, external, sets={"credentials.existingSecret": ""})
    assert "external.store.host" in helm.refusal(CHART, external, sets={"external.store.host": ""})
    assert "mode" in helm.refusal(CHART, sets={"mode": "bitnami"})
    assert "clickhouseUsername" in helm.refusal(CHART, sets={"credentials.clickhouseUsername": "<a>"})


def clickhouse(made: list[Manifest]) -> Pod:
    (pod,) = [pod for pod in pods(made) if pod.labels["app.kubernetes.io/component"] == "clickhouse"]
    return pod


def configured(made: list[Manifest]) -> dict[str, str]:
    """Return the files of ClickHouse's configuration, by their paths below that of the image."""
    pod = clickhouse(made)
    (volume,) = [one for one in pod.spec["volumes"] if one["name"] == "config"]
    files = find(made, "ConfigMap", volume["configMap"]["name"])["data"]
    mounts = [one for one in pod.containers[0]["volumeMounts"] if one["name"] == "config"]
    assert {one["subPath"] for one in mounts} == set(files)
    return {one["mountPath"].removeprefix(ETC): files[one["subPath"]] for one in mounts}


@pytest.mark.parametrize("name", ["", "everything"])
def test_settings_are_where_clickhouse_looks_for_them(helm: Helm, name: str) -> None:
    made = helm.template(CHART, *([CHART / f"values-{name}.yaml"] if name else []), release="rattle-data")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for given in [yaml.safe_load((CHART / f"values-{name}.yaml").read_text())] if name else []:
        values = {key: {**one, **given.get(key, {})} if isinstance(one, dict) else one for key, one in values.items()}
    database, user = values["clickhouse"]["database"], values["credentials"]["clickhouseUsername"]
    container = clickhouse(made).containers[0]
    assert f"--config-file={ETC}config.xml" in container["command"]  # beside which it reads config.d and users.d
    read = {path: ElementTree.fromstring(text) for path, text in configured(made).items()}  # noqa: S314 (of our own)
    assert {root.tag for root in read.values()} == {"clickhouse"}
    config, users = read["config.d/rattle.xml"], read["users.d/rattle.xml"]
    (data,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "data"]
    for path, text in {
        "listen_host": "0.0.0.0",  # noqa: S104 (of the pod)
        "default_database": database,
        "logger/console": "true",
        "prometheus/endpoint": "/metrics",
        "prometheus/port": str(next(port["containerPort"] for port in container["ports"] if port["name"] == "metrics")),
        "storage_configuration/disks/backups/type": "local",
        "storage_configuration/disks/backups/path": f"{data}/backups/",
        "backups/allowed_disk": "backups",
    }.items():
        assert [one.text for one in config.findall(path)] == [text], path
    for path in ("logger/log", "logger/errorlog"):  # the root file system is read-only
        assert [one.attrib for one in config.findall(path)] == [{"remove": "remove"}]
    (default,) = users.findall("users/default")
    assert default.attrib == {"remove": "remove"}
    (own,) = users.findall(f"users/{user}")
    assert own.find("password").attrib == {"from_env": "CLICKHOUSE_PASSWORD"}  # type: ignore[union-attr]
    assert "CLICKHOUSE_PASSWORD" in {one["name"] for one in container["env"]}
    grants = [one.text for one in own.findall("grants/query")]
    assert grants == [f"GRANT ALL ON {database}.*", *values["clickhouse"]["extraGrants"]]


class TestTheEngineOfClickHouse:
    """chDB reads the chart's configuration as a server does, and logs in as the user `default`, who is the chart's."""

    @staticmethod
    def ask(
        helm: Helm, folder: Path, *statements: str, password: str = "", as_it_is: bool = False
    ) -> tuple[list[str], str]:
        """Return the answers to statements, and what the engine has said where it refuses the user."""
        files = configured(helm.template(CHART, sets={"clickhouse.extraGrants": [DISK]}))
        files["config.xml"] = (
            "<clickhouse><users_config>users.xml</users_config><listen_host>::</listen_host>"
            f"<logger><log>{folder}/log</log><errorlog>{folder}/log</errorlog></logger></clickhouse>"
        )
        anybody = "<users><default><password/><networks><ip>::/0</ip></networks></default></users>" if as_it_is else ""
        files["users.xml"] = (
            f"<clickhouse><profiles><default/></profiles><quotas><default/></quotas>{anybody}</clickhouse>"
        )
        for path, text in files.items():
            changed = {"/var/lib/clickhouse/": f"{folder}/", "<default_database>rattle": "<default_database>default"}
            if not as_it_is:
                changed |= {'<default remove="remove"/>': "", "<rattle>": "<default>", "</rattle>": "</default>"}
            for old, new in changed.items():
                text = text.replace(old, new)
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
        known = {"PATH": os.environ["PATH"], "HOME": str(folder), "CLICKHOUSE_PASSWORD": password}
        command = [sys.executable, "-c", ASKING, json.dumps(statements)]
        done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=300, check=False)
        said = done.stdout + done.stderr
        assert not (folder / "log").exists()
        if done.returncode:
            return [], said
        answers: list[str] = json.loads((folder / "answers").read_text())
        return answers, said

    def test_its_user_keeps_the_tables_and_copies_them_and_does_nothing_else(self, helm: Helm, tmp_path: Path) -> None:
        may = {
            "INSERT INTO rattle.schema_migrations (version) SELECT 77": "",
            "BACKUP DATABASE rattle TO Disk('backups', 'copy')": "BACKUP_CREATED",
            "DROP DATABASE IF EXISTS rattle SYNC": "",
            "RESTORE DATABASE rattle FROM Disk('backups', 'copy')": "RESTORED",
            "SELECT max(version) FROM rattle.schema_migrations": "77",
        }
        may_not = {
            "CREATE DATABASE other": "CREATE DATABASE ON other",
            "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'n UInt8')": "READ ON URL",
            "SELECT * FROM file('/etc/passwd', 'LineAsString')": "READ ON FILE",
            "SELECT name FROM system.users": "SHOW USERS ON",
            "BACKUP DATABASE rattle TO Disk('default', 'copy')": "is not allowed for backups",
        }
        answers, said = self.ask(helm, tmp_path, *may, *may_not)
        assert answers, said[-2000:]
        for (statement, wanted), answer in zip((may | may_not).items(), answers, strict=True):
            assert wanted in answer if wanted else not answer, f"{statement}: {answer}"

    @pytest.mark.parametrize(("password", "as_it_is"), [("a password", False), ("", True)])
    def test_nobody_else_gets_in(self, helm: Helm, tmp_path: Path, password: str, as_it_is: bool) -> None:
        """Not without the password, and not as the user `default` that the image has."""
        answers, said = self.ask(helm, tmp_path, "SELECT 1", password=password, as_it_is=as_it_is)
        assert not answers
        assert "AUTHENTICATION_FAILED" in said


class ChartNode(NamedTuple):
    """A node of RabbitMQ, what services of Rattle know of it, and its port for metrics."""

    node: RabbitMQ
    broker: Broker
    metrics_port: int


@pytest.fixture(scope="module")
def chart_node(helm: Helm) -> Iterator[ChartNode]:
    """Start RabbitMQ with the settings and the environment that the chart gives it."""
    made = helm.template(CHART, release="rattle-data", sets={"rabbitmq.diskFree": "1MB"})
    (pod,) = [pod for pod in pods(made) if pod.name == "rattle-data-rabbitmq-0"]
    files = find(made, "ConfigMap", "rattle-data-rabbitmq")["data"]
    known = variables(pod, pod.containers[0], made)
    user, password = (known[f"RABBITMQ_DEFAULT_{name}"] for name in ("USER", "PASS"))
    port = free_port()
    settings = f"{files['20-rattle.conf']}prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {port}\n"
    own = {"RABBITMQ_DEFAULT_USER": user, "RABBITMQ_DEFAULT_PASS": password}
    folder = Path(mkdtemp(prefix="rattle-rabbitmq-"))
    with closing(RabbitMQ(folder, settings, files["enabled_plugins"], own)) as node:
        node.start()
        broker = find_broker(node.url(user=user, password=password), {})
        assert broker is not None
        yield ChartNode(node, broker, port)


class TestTheBrokerThatTheChartMakes:
    """A user who may do what Rattle does, and nobody else."""

    pytestmark = needs_rabbitmq
    #: What its user may not do, as methods of a channel and their arguments.
    REFUSED = (
        ("exchange_declare", {"exchange": "other", "durable": True}),
        ("exchange_declare", {"exchange": "rattles", "durable": True}),
        ("exchange_delete", {"exchange": "amq.topic"}),
        ("queue_declare", {"queue": "other"}),
        ("queue_declare", {"queue": "rattlesnake"}),
        ("queue_declare", {"queue": "not.rattle"}),
        ("queue_declare", {"queue": "rattle.other"}),
        ("queue_declare", {"queue": ""}),
        ("queue_delete", {"queue": "other"}),
        ("queue_purge", {"queue": "other"}),
        ("queue_bind", {"queue": "rattle.rows", "exchange": "amq.topic"}),
        ("basic_get", {"queue": "other"}),
        ("basic_consume", {"queue": "other", "on_message_callback": print}),
        ("basic_publish", {"exchange": "", "routing_key": "rattle.rows", "body": b""}),
        ("basic_publish", {"exchange": "amq.topic", "routing_key": "a", "body": b""}),
    )

    def test_its_user_does_what_rattle_does(self, chart_node: ChartNode) -> None:
        import pika

        broker = chart_node.broker
        assert (broker.user, broker.exchange) == ("rattle", "rattle")
        with closing(pika.BlockingConnection(broker.parameters("test"))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for method, arguments in broker.declarations():
                getattr(channel, method)(**arguments)
            channel.exchange_declare(broker.exchange, passive=True)
            for exchange, queue in ((broker.exchange, broker.queue), (broker.dead, broker.dead)):
                channel.basic_publish(exchange, "experiment.logs", b"a row", mandatory=True)
                assert channel.queue_declare(queue, passive=True).method.message_count == 1
                method, _, body = next(iter(channel.consume(queue)))
                channel.basic_ack(method.delivery_tag)
                channel.cancel()
                assert body == b"a row"

    def test_its_user_does_nothing_else(self, chart_node: ChartNode) -> None:
        import pika

        broker = chart_node.broker
        with closing(pika.BlockingConnection(broker.parameters("test"))) as connection:
            for name, arguments in self.REFUSED:
                channel = connection.channel()
                channel.confirm_delivery()
                with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
                    getattr(channel, name)(**arguments)
                assert caught.value.reply_code == 403, (name, arguments)

    def test_there_is_no_other_user_and_metrics_are_open(self, chart_node: ChartNode) -> None:
        assert chart_node.node.control("list_users", "--no-table-headers").split() == ["rattle", "[]"]
        with urlopen(f"http://127.0.0.1:{chart_node.metrics_port}/metrics", timeout=60) as answer:
            assert b"\nrabbitmq_" in answer.read()


class TestTheUserOfRabbitMQ:
    pytestmark = needs_rabbitmq

    @pytest.mark.parametrize(("password", "status"), [(PASSWORD, 0), (f"{PASSWORD}x", 1)])
    def test_helm_test_logs_in(self, helm: Helm, rabbitmq: RabbitMQ, password: str, status: int) -> None:
        (pod,) = of_kind(helm.template(CHART, release="rattle-data"), "Pod")
        (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "rabbitmq"]
        assert {one["name"] for one in container["env"]} == {"RABBITMQ_USERNAME", "RABBITMQ_PASSWORD"}
        *words, script = container["command"]
        script = script.replace("rattle-data-rabbitmq/5672", f"127.0.0.1/{rabbitmq.gate.port}")
        known = {"PATH": os.environ["PATH"], "RABBITMQ_USERNAME": USER, "RABBITMQ_PASSWORD": password}
        done = subprocess.run([*words, script], env=known, capture_output=True, timeout=60, check=False)
        said = b"RabbitMQ refuses user or password\n" if status else b"RabbitMQ takes user and password\n"
        assert (done.returncode, done.stdout, done.stderr) == (status, said, b"")
