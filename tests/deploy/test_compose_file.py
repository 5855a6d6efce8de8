"""compose.yaml as docker-compose reads it, which needs no Docker, with what docs/deployment.md writes beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rattle.services.sync.participants import participants
from rattle.settings.experiment_files import find_experiment
from rattle.settings.sources import load_settings

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "deployment.md").read_text()
PROFILES = ("core", "sync", "telemetry")
COMPOSE = shutil.which("docker-compose")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promised,
    pytest.mark.skipif(COMPOSE is None, reason="there is no docker-compose: apt-get install docker-compose"),
]


def services(folder: Path, environment: str = "", override: str = "") -> dict[str, Any]:
    """Return all services as docker-compose makes them of the file, of a text for `.env`, and of an override."""
    (folder / ".env").write_text(environment)
    (folder / "compose.override.yaml").write_text(override)
    files = [REPOSITORY / "compose.yaml", *([folder / "compose.override.yaml"] if override else [])]
    named = [word for file in files for word in ("--file", str(file))]
    chosen = [word for profile in PROFILES for word in ("--profile", profile)]
    command = [str(COMPOSE), "--project-directory", str(REPOSITORY), "--env-file", str(folder / ".env")]
    done = subprocess.run(
        [*command, *named, *chosen, "config"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    for service in found.values():
        service["volumes"] = sorted(service["volumes"])  # they come in any order
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the services with nothing beside the file."""
    return services(tmp_path_factory.mktemp("plain"))


def told(found: dict[str, Any], experiment: str, mode: str) -> tuple[str, ...]:
    """Return whom Sync leads, as it reads its variables."""
    known = {name: value for name, value in found["sync"]["environment"].items() if name.startswith("RATTLE_SYNC__")}
    return load_settings(find_experiment(experiment), [f"sync.mode={mode}"], known).sync.participants


def test_sync_leads_those_whom_the_file_or_the_page_names(plain: dict[str, Any], tmp_path: Path) -> None:
    assert told(plain, "snake-lockstep", "lockstep") == ("env", "inference-0")
    (line,) = re.findall(r"`sync: pace`, also write `(SYNC_PARTICIPANTS=\S+)` into `.env`", PAGE)
    named = told(services(tmp_path, f"{line}\n"), "snake", "pace")
    assert len(participants(named)) == 1
    host, _, port = named[0].partition(":")
    assert host in plain
    assert f"{port}/udp" in (REPOSITORY / "src" / "rattle" / "services" / host / "Dockerfile").read_text()


def test_the_page_gives_training_a_gpu_and_changes_nothing_else(plain: dict[str, Any], tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = (one for one in blocks if "services" in yaml.safe_load(one))
    merged = services(tmp_path, override=block)
    (device,) = merged["training"].pop("deploy")["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert merged == plain


def test_services_that_stay_say_whether_they_are_healthy(plain: dict[str, Any]) -> None:
    """Images of Rattle have a health check of their own; those of others have none."""
    assert len(plain) == 11
    for name, service in plain.items():
        ours, stays = "snake_rl_" in service["image"], service["restart"] == "unless-stopped"
        if stays:
            check = service.get("healthcheck")
            assert check is None if ours else check["test"][0] == "CMD", name
        assert set(service.get("depends_on", {})) <= set(plain)
