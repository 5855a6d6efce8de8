"""What has passed whole, and runs whole again when its inputs have changed: `.ci/passed` has a line NAME HASH for each.

python -m tests.passed NAME              run the tests of NAME whole, and write the line when they have passed
python -m tests.passed --unchanged NAME  exit with 0 where the line is that of today's inputs, else with 1

A hash is that of the inputs' names and contents, so that it says the same on every machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
RECORD = ".ci/passed"
#: The environment variable that has tests run whole, whatever has passed.
WHOLE = "TESTS_WHOLE"


class Suite(NamedTuple):
    """Tests that are slow, as arguments of pytest, and what decides how they end, as patterns of git."""

    tests: tuple[str, ...]
    inputs: tuple[str, ...]


SUITES = {
    # The two sides of the protocol and its datagrams. Not the settings: the simulation gives those that matter.
    "lockstep": Suite(
        ("tests/services/sync/test_lockstep_properties.py", "-n", "2"),
        (
            "src/rattle/clients/lockstep.py",
            "src/rattle/services/sync/*.py",
            "src/rattle/wire/lockstep.py",
            "src/rattle/wire/round_trips.py",
            "tests/services/sync/simulation.py",
            "tests/services/sync/test_lockstep_properties.py",
        ),
    ),
    # Whatever takes twenty seconds: targets of learning, services that are killed again and again, requests made up by
    # the thousand. All code and all tests are inputs, for these tests use most of them.
    "slow": Suite(
        ("tests/", "-n", "3", "--dist", "loadfile", "-m", "whole(suite='slow')"),
        ("examples/", "pyproject.toml", "requirements/", "src/", "tests/"),
    ),
    # How images are made and services start in them, and who starts them there. What services do when they have started
    # is tested without images, hundreds of times quicker: an ordinary change of the core builds none. pyproject.toml is
    # left out for the same reason: its packages are those of requirements/, and its wheel has a test of its own.
    "images": Suite(
        ("tests/deploy/test_images.py", "tests/deploy/test_compose.py", "tests/deploy/test_pods_in_containers.py"),
        (
            ".ci/images",
            ".dockerignore",
            "compose.yaml",
            "deploy/images/",
            "examples/extend/my_algorithm.py",
            "examples/extend/my_world.py",
            "k8s/platform/Chart.yaml",
            "k8s/platform/files/",
            "k8s/platform/templates/",
            "k8s/platform/values.yaml",
            "requirements/pytorch.txt",
            "requirements/services/",
            "scripts/build-and-push.sh",
            "scripts/compose.sh",
            "src/rattle/__main__.py",
            "src/rattle/cli/__init__.py",
            "src/rattle/cli/services.py",
            "src/rattle/envs/compiled.py",
            "src/rattle/services/*Dockerfile",
            "src/rattle/services/*/serve.py",
            "src/rattle/services/mock_env/server.py",
            "src/rattle/services/utils/compile_kernels.py",
            "src/rattle/services/utils/health.py",
            "src/rattle/services/utils/serving.py",
            "src/rattle/settings/sources.py",
            "src/rattle/stop_signals.py",
            "tests/clickhouse.py",
            "tests/deploy/compose.override.yaml",
            "tests/deploy/containers.py",
            "tests/deploy/manifests.py",
            "tests/deploy/pods.py",
            "tests/deploy/pods_in_containers.py",
            "tests/deploy/rabbitmq/",
            "tests/deploy/test_compose.py",
            "tests/deploy/test_images.py",
            "tests/deploy/test_platform_pods.py",
            "tests/deploy/test_pods_in_containers.py",
        ),
    ),
}


def matching(patterns: Sequence[str], root: Path = REPOSITORY) -> list[str]:
    """Return the files of a checkout that match, as paths from its root; raises OSError without git."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    done = subprocess.run([*listing, *patterns], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    return sorted({path for path in done.stdout.split("\0") if path and (root / path).is_file()})


def hash_of(name: str, root: Path = REPOSITORY) -> str:
    """Return the hash of a suite's inputs; raises OSError without git."""
    lines = [
        f"{path} {sha256((root / path).read_bytes()).hexdigest()}\n" for path in matching(SUITES[name].inputs, root)
    ]
    return sha256("".join(lines).encode()).hexdigest()[:16]


def recorded(root: Path = REPOSITORY) -> dict[str, str]:
    """Return the hashes with which suites have passed."""
    try:
        lines = (root / RECORD).read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split() for line in lines)


def is_unchanged(name: str, root: Path = REPOSITORY) -> bool:
    """Tell whether a suite has passed whole with the inputs that it has."""
    try:
        return recorded(root).get(name) == hash_of(name, root)
    except OSError:
        return False


def record(name: str, passed: str, root: Path = REPOSITORY) -> None:
    """Write down the hash with which a suite has passed."""
    lines = {**recorded(root), name: passed}
    (root / RECORD).write_text("".join(f"{name} {passed}\n" for name, passed in sorted(lines.items())))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a suite whole, or tell whether that is needed; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.passed", description=__doc__.splitlines()[0])
    parser.add_argument("--unchanged", action="store_true", help="only tell whether it has passed with these inputs")
    parser.add_argument("name", choices=sorted(SUITES))
    given = parser.parse_args(arguments)
    if given.unchanged:
        return 0 if is_unchanged(given.name) else 1
    inputs = hash_of(given.name)
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES[given.name].tests]
    status = subprocess.run(pytest, cwd=REPOSITORY, env={**os.environ, WHOLE: "1"}, check=False).returncode
    if status == 0:
        record(given.name, inputs)
        sys.stdout.write(f"{RECORD} has a new line for {given.name}: commit it with the change\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
