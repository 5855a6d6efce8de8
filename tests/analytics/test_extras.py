"""What an extra installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import rattle

SOURCES = Path(rattle.__file__).parent
EXTRAS = tomllib.loads((SOURCES.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
#: Packages that are not called like their modules.
PACKAGES = {
    "PIL": "pillow",
    "grpc": "grpcio",
    "grpc-health": "grpcio-health-checking",
    "grpc-reflection": "grpcio-reflection",
    "mlflow": "mlflow-skinny",
}
REQUIRED = re.compile(
    r'for module in \(([^)]+)\):[^\n]*\n\s+require\(module, "([^"]+)"|\brequire\(("[^"]+"), "([^"]+)"', re.DOTALL
)


def installed(extra: str) -> set[str]:
    names = set()
    for wanted in EXTRAS[extra]:
        if others := re.fullmatch(r"rattle\[(.+)\]", wanted):
            names.update(*map(installed, others[1].split(",")))
        else:
            names.add(re.split(r"[\[<>=]", wanted)[0])
    return names


def test_the_extra_that_a_message_names_brings_what_is_missing() -> None:
    required = {
        (PACKAGES.get(name, name), loop_extra or extra)
        for path in SOURCES.rglob("*.py")
        for modules, loop_extra, module, extra in REQUIRED.findall(path.read_text())
        for name in (part.replace("_", "-") for part in re.findall(r'"(\w+)[^"]*"', modules or module))
    }
    assert {("chdb", "analytics"), ("pika", "ingest"), ("grpcio", "training"), ("jinja2", "dashboard")} <= required
    assert {(package, extra) for package, extra in required if package not in installed(extra)} == set()


def test_what_only_run_directories_need_is_not_installed_for_a_store() -> None:
    assert {"clickhouse-connect", "pika", "uvicorn"} <= installed("ingest")
    assert {"chdb", "matplotlib", "pillow"}.isdisjoint(installed("ingest"))
