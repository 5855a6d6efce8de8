"""What docs/deployment.md names exists: images and their ports, variables of compose, values of the chart, targets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.helm import Helm

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "deployment.md").read_text()
SERVICES = REPOSITORY / "src" / "rattle" / "services"
PAGES = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), *SERVICES.glob("*/README.md")]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading."""
    lines = PAGE.partition(f"\n{heading}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    table = lines[first:]
    end = next((number for number, line in enumerate(table) if not line.startswith("|")), len(table))
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table[:end]]


def test_every_image_and_its_ports_are_on_the_page() -> None:
    said = {name.strip("`"): ports[0] if ports else "" for name, _, *ports in rows("## Images")}
    assert set(said) == {"snake_rl_base"} | {f"snake_rl_{path.parent.name}" for path in SERVICES.glob("*/Dockerfile")}
    for name, ports in said.items():
        if name != "snake_rl_base":
            file = (SERVICES / name.removeprefix("snake_rl_") / "Dockerfile").read_text()
            exposed = re.findall(r"^EXPOSE (.*)", file, re.MULTILINE)
            assert [set(line.split()) for line in exposed] == [set(ports.split(", "))], name


def test_variables_of_compose_exist() -> None:
    known = (REPOSITORY / "compose.yaml").read_text() + (REPOSITORY / "scripts" / "compose.sh").read_text()
    named = [name for first, *_ in rows("### Variables of `.env`") for name in re.findall(r"`(\w+)`", first)]
    assert len(named) > 10
    assert [name for name in named if not re.search(rf"\b{name}\b", known)] == []


@pytest.mark.parametrize("heading", ["### Values", "## TLS", "## GPUs"])
def test_values_of_the_chart_exist(heading: str) -> None:
    values: Any = yaml.safe_load((REPOSITORY / "k8s" / "platform" / "values.yaml").read_text())
    section = PAGE.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    named = re.findall(r"`((?:\w+\.)+\w+)(?:=\w+)?`", section)
    named = [name for name in named if name.partition(".")[0] in values and not name.endswith((".yaml", ".mode"))]
    assert named
    for name in named:
        found = values
        for key in name.split("."):
            assert key in found, f"the chart has no value {name}"
            found = found[key]


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:`|\$ |&& )make ([a-z][a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page


@pytest.mark.parametrize("page", sorted(SERVICES.glob("*/README.md")), ids=lambda page: page.parent.name)
def test_containers_of_services_are_started_as_their_images_want_it(page: Path) -> None:
    """Arguments replace those of the image, which listen on all interfaces; ports are those that it exposes."""
    file = (page.parent / "Dockerfile").read_text()
    (command,) = re.findall(r"^\$ (docker run (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE)
    image, _, arguments = command.partition(f" snake_rl_{page.parent.name}")
    assert image != command
    exposed = re.findall(r"[\d/udp]+", file.partition("\nEXPOSE ")[2].partition("\n")[0])
    published = re.findall(r"-p \d+:(\S+)", image)
    assert published
    assert set(published) <= set(exposed)
    assert not arguments.strip() or "--host 0.0.0.0" in arguments


@pytest.mark.integration
def test_values_on_the_page_render_and_make_what_its_commands_name(helm: Helm, tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    # The other block is a file for compose.
    (block,) = (one for one in blocks if "services" not in yaml.safe_load(one))
    values = tmp_path / "values.yaml"
    values.write_text(block)
    made = {(one["kind"], one["metadata"]["name"]) for one in helm.template(REPOSITORY / "k8s" / "platform", values)}
    services = re.findall(r"\bservice/([\w-]+)", PAGE)
    assert len(services) >= 3
    assert {("Service", name) for name in services} <= made
    assert {("Secret", name) for name in re.findall(r"get secret ([\w-]+)", PAGE)} <= made
