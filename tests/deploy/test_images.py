"""Images in real containers: what they hold, and services that start from them as their pages say.

`.ci/images` builds the images and runs this; elsewhere it is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from rattle.settings.experiment import ExperimentSettings
from rattle.tokens import make_token
from rattle.trainer.train import train
from tests.deploy.containers import REPOSITORY, SERVICES, TAG, USER, docker, inspect, logs, needs_images, wait_for
from tests.ports import free_port
from tests.test_requirements import listed
from tests.trainer.conftest import Silence

MEGABYTE = 1_000_000
#: What images without PyTorch may hold besides what all share.
MOST_MEGABYTES = 250
#: Services that start from their page's `docker run`, and what they answer over HTTP then. Ingest wants a broker:
#: tests of compose start it.
STARTED = {
    "dashboard": ("/", "own-run"),
    "env": ("/v1/spec", "snake"),
    "inference": ("/v1/models", "platform"),
    "mock_env": ("/state", "vision_radius"),
    "sync": ("/v1/status", "gathering"),
    "training": ("/metrics", "rattle_training_env_steps_total"),
}
NETWORK = f"rattle-images-{os.getpid()}"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600), needs_images]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_what_its_service_needs_and_no_more(service: str) -> None:
    base, image = inspect(f"snake_rl_base:{TAG}"), inspect(f"snake_rl_{service}:{TAG}")
    size = (image["Size"] - base["Size"]) // MEGABYTE
    lists = [listed("services/base.txt"), listed(f"services/{service}.txt")]
    assert size <= MOST_MEGABYTES or service == "training"
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["rattle", service.replace("_", "-")]
    assert config["Healthcheck"]["Test"][-1] == "--ready"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"snake_rl_{service}"
    assert labels["org.opencontainers.image.version"] == TAG
    names = {name for packages in lists for name, (wanted, _) in packages.items() if fits(wanted.marker)}
    held = json.loads(
        docker(
            "run",
            "--rm",
            "--read-only",
            "--entrypoint=python",
            f"snake_rl_{service}:{TAG}",
            "-c",
            "import json, re; from importlib.metadata import distributions; print(json.dumps(sorted({"
            "re.sub('[-_.]+', '-', one.metadata['Name']).lower() for one in distributions(path=["
            "'/opt/rattle/packages'])})))",
        )
    )
    assert set(held) == names | {"rattle"} | ({"torch"} if service == "training" else set())


def fits(marker: object) -> bool:
    """Tell whether a package is for the machines that images run on."""
    return marker is None or bool(marker.evaluate({"sys_platform": "linux"}))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder as a user has it: with a token, and a run in `runs`; and make a network."""
    folder = tmp_path_factory.mktemp("user")
    make_token(folder / "token")
    settings = {"env": {"worlds": 8}, "policy": {"hidden_sizes": [16]}, "train": {"steps": 8 * 16}, "name": "own-run"}
    train(ExperimentSettings.model_validate(settings), folder / "runs" / "own-run", Silence())
    for path in (folder / "token", folder / "runs", *(folder / "runs").rglob("*")):
        os.chown(path, USER, USER)
    docker("network", "create", NETWORK)
    yield folder
    docker("network", "rm", NETWORK)


def as_the_page_says(service: str, folder: Path, name: str, port: int) -> list[str]:
    """Return how a service's page starts a container: here in `folder`, with a name and a free port, and detached."""
    page = (REPOSITORY / "src" / "rattle" / "services" / service / "README.md").read_text()
    (command,) = re.findall(r"^\$ docker (run (?:.*\\\n)*.*)$", page, re.MULTILINE)
    replaced = {
        "--rm": f"--detach --name {name} --network {NETWORK} --cap-drop ALL",
        "$(id -u):$(id -g)": f"{USER}:{USER}",
        "$PWD": str(folder),
        f"snake_rl_{service}": f"snake_rl_{service}:{TAG}",
        "\\\n": " ",
    }
    for word, other in replaced.items():
        assert word in command
        command = command.replace(word, other)
    published = re.findall(r"-p \S+", command)
    (http,) = [word for word in published if not word.endswith(("/udp", ":8001", ":50051"))]
    for word in published:
        here = port if word == http else ""
        command = command.replace(word, f"-p 127.0.0.1:{here}:{word.partition(':')[2]}")
    return shlex.split(command)


def said(folder: Path, port: int, path: str) -> str:
    """Return what a service answers to somebody with the token, nothing while it starts."""
    token = (folder / "token").read_text().strip()
    request = Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        with urlopen(request, timeout=60) as answer:  # noqa: S310 (an address of our own)
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.parametrize("service", STARTED)
def test_a_service_starts_as_its_page_says(service: str, folder: Path) -> None:
    name, port = f"{NETWORK}-{service}", free_port()

    def health() -> str:
        return str(inspect(name)["State"]["Health"]["Status"])

    try:
        docker(*as_the_page_says(service, folder, name, port))
        assert health() == "starting"
        path, word = STARTED[service]
        wait_for(f"{word} is in what {path} answers", lambda: word in said(folder, port, path))
        if service != "sync":  # which is not ready before its members have come
            wait_for("it is healthy", lambda: health() == "healthy")
        assert docker("exec", name, "id", "-u") == str(USER)
        assert "Read-only file system" in docker("exec", name, "sh", "-c", "touch /opt/rattle/x 2>&1", check=False)
        docker("stop", "--time", "30", name)
        assert inspect(name)["State"]["ExitCode"] == 0
    except AssertionError as error:
        raise AssertionError(f"{error}\n{logs(name)}") from error
    finally:
        docker("rm", "--force", name, check=False)
