"""scripts/release.sh in a small checkout: what it refuses, and what it builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tests.deploy.helm import ROOT, Helm

#: What says the version in the repository, as the stand-in has it; the Makefile's site takes no time.
FILES = {
    "pyproject.toml": """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "rattle"
version = "1.2.3"
[tool.setuptools.packages.find]
where = ["src"]
""",
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.3\n",
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 1.2.3 (2026-01-31)\n\n## 1.2.0\n",
    "src/rattle/__init__.py": "",
    "src/rattle/services/Dockerfile": "ARG VERSION=1.2.3\n",
    "k8s/data-stack/Chart.yaml": 'apiVersion: v2\nname: rattle-data-stack\nversion: 1.2.3\nappVersion: "1.2.3"\n',
    "k8s/platform/Chart.yaml": 'apiVersion: v2\nname: rattle-platform\nversion: 1.2.3\nappVersion: "1.2.3"\n',
    "k8s/platform/values-production.yaml": "image:\n  tag: 1.2.3\n",
    "Makefile": "site:\n\t@mkdir -p dist/site && echo page >dist/site/index.html\n",
    "scripts/build-and-push.sh": '#!/bin/sh\necho "images of ($1) ($2)"\n',
    ".gitignore": ".venv\n/dist/\n",
}


def git(checkout: Path, *arguments: str) -> None:
    who = ("-c", "user.name=Anna", "-c", "user.email=anna@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", checkout, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout whose files are all of version 1.2.3, committed and not tagged."""
    place = tmp_path / "checkout"
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (place / "scripts" / "build-and-push.sh").chmod(0o755)
    shutil.copy(ROOT / "scripts" / "release.sh", place / "scripts")
    (place / ".venv").symlink_to(Path(sys.prefix))
    git(place, "init", "--quiet")
    commit(place)
    return place


def commit(checkout: Path) -> None:
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "Change files")


def release(checkout: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY", "MAKE"))}
    command = [checkout / "scripts" / "release.sh", *arguments]
    return subprocess.run(command, env=given | more, capture_output=True, text=True, check=False, timeout=300)


def refusal(checkout: Path, *arguments: str) -> str:
    """Return the one line that says why there is no release."""
    done = release(checkout, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert not (checkout / "dist").exists()
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("name", [name for name, text in FILES.items() if "1.2.3" in text])
def test_every_file_must_say_the_version(checkout: Path, name: str) -> None:
    file = checkout / name
    file.write_text(file.read_text().replace("1.2.3", "1.2.2"))
    commit(checkout)
    line = refusal(checkout, "1.2.3")
    assert line.startswith("Error: not everything is of version 1.2.3: ")
    assert f"{name} has no heading '## 1.2.3'" in line or f"{name} says 1.2.2" in line
    others = FILES.keys() - {name}
    assert not [other for other in others if f"{other} " in line]


def test_the_stand_in_has_the_files_that_say_the_version_here() -> None:
    for name in (name for name, text in FILES.items() if "1.2.3" in text):
        assert (ROOT / name).exists()
    assert {f"k8s/{path.parent.name}/Chart.yaml" for path in ROOT.glob("k8s/*/Chart.yaml")} <= FILES.keys()


def test_all_that_differs_is_in_one_line(checkout: Path) -> None:
    (checkout / "CITATION.cff").write_text("cff-version: 1.2.0\n")
    commit(checkout)
    line = refusal(checkout, "1.3.0")
    for said in ("pyproject.toml says 1.2.3", "CITATION.cff says nothing", "CHANGELOG.md has no heading '## 1.3.0'"):
        assert said in line


def test_versions_and_checkouts_that_make_no_release(checkout: Path) -> None:
    assert refusal(checkout) == "Error: HEAD has no tag: name the version, such as: make release VERSION=0.2.0"
    assert refusal(checkout, "1.2") == "Error: '1.2' is not a version like 0.2.0"
    git(checkout, "tag", "v1.2.3")
    (checkout / "CHANGELOG.md").write_text(FILES["CHANGELOG.md"] + "\nMore.\n")
    assert refusal(checkout, "1.2.3").startswith("Error: the checkout has changes: ")
    commit(checkout)
    assert refusal(checkout, "1.2.3") == "Error: the tag v1.2.3 is at another commit: check it out first"
    shutil.rmtree(checkout / ".git")
    assert refusal(checkout, "1.2.3") == "Error: this is not a git checkout with a commit"


@pytest.mark.integration
@pytest.mark.promised
def test_a_release_is_built_and_not_published(checkout: Path, helm: Helm) -> None:
    git(checkout, "tag", "v1.2.3")
    (checkout / "src" / "rattle" / "stray.pyc").write_text("")  # ignored files are no part of it
    (checkout / ".git" / "info" / "exclude").write_text("*.pyc\n")
    done = release(checkout, PATH=f"{helm.folder}:{os.environ['PATH']}", REGISTRY="registry.example.org/anna")
    assert done.returncode == 0, done.stderr
    built = checkout / "dist" / "1.2.3"
    sums = dict(line.split()[::-1] for line in (built / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == {
        "rattle-1.2.3-py3-none-any.whl",
        "rattle-1.2.3.tar.gz",
        "rattle-data-stack-1.2.3.tgz",
        "rattle-platform-1.2.3.tgz",
        "rattle-site-1.2.3.tar.gz",
    }
    assert sums == {name: sha256((built / name).read_bytes()).hexdigest() for name in sums}
    with zipfile.ZipFile(built / "rattle-1.2.3-py3-none-any.whl") as wheel:
        assert [name for name in wheel.namelist() if name.startswith("rattle/")] == ["rattle/__init__.py"]
    commands = done.stdout.partition("These commands publish it:\n")[2]
    assert [line.split()[:2] for line in commands.splitlines()] == [
        ["git", "push"],
        [".venv/bin/uv", "publish"],
        ["scripts/build-and-push.sh", "registry.example.org/anna"],
        ["helm", "push"],
        ["helm", "push"],
    ]
    assert "\nimages of () (1.2.3)\n" in done.stdout  # without a registry none is pushed
