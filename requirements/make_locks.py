"""Make the lists of pinned packages with hashes beside this file from pyproject.toml: `make locks`.

Versions stay as they are where pyproject.toml admits them; arguments such as `--upgrade` or
`--upgrade-package numpy` are those of `uv pip compile`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

HERE = Path(__file__).parent
DEVELOPERS, USERS, PYTORCH, GPU = (HERE / f"{name}.txt" for name in ("developers", "users", "pytorch", "gpu"))

#: What only PyTorch's build for GPUs needs: several gigabytes.
_FOR_GPUS: Final = re.compile(r"(nvidia|cuda)-|triton=")

#: PyPI has PyTorch for Linux with GPU code only. These are the CPU builds of https://download.pytorch.org/whl/cpu for
#: CPython 3.11, 3.12 and 3.13: on x86-64, then on AArch64.
_CPU_BUILDS: Final = {
    "2.13.0": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
        "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
        "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
        "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
        "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
    )
}


def pinned(extras: tuple[str, ...], known: str, *arguments: str) -> list[str]:
    """Return a text for each package that the extras need, with the versions of a known list where they still fit."""
    with TemporaryDirectory() as folder:
        output = Path(folder, "lock.txt")
        output.write_text(known)  # uv keeps the versions and hashes that it finds
        chosen = [word for extra in extras for word in ("--extra", extra)]
        how = ["--universal", "--python-version", "3.11", "--generate-hashes", "--only-binary", ":all:", "--no-header"]
        uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", *chosen, *how, *arguments]
        done = subprocess.run([*uv, "--output-file", str(output)], cwd=HERE.parent, check=False)  # noqa: S603 (no shell)
        if done.returncode:
            sys.exit(done.returncode)  # uv has said why
        return packages_of(output)


def packages_of(path: Path) -> list[str]:
    """Return the texts of the packages of a list, each with its hashes and what it is needed for."""
    return re.findall(r"^[A-Za-z].*\n(?:[ #].*\n)*", path.read_text() if path.exists() else "", re.MULTILINE)


def pytorch_for_cpus(torch: str) -> str:
    """Return PyTorch as it is installed: on Linux its CPU build, elsewhere what PyPI has."""
    version = torch.split()[0].removeprefix("torch==")
    if version not in _CPU_BUILDS:
        sys.exit(f"PyTorch {version}: write the hashes of its CPU builds into {__file__}, or hold its version back")
    hashes = " \\\n    ".join(f"--hash=sha256:{digest}" for digest in _CPU_BUILDS[version])
    return f"torch=={version}+cpu ; sys_platform == 'linux' \\\n    {hashes}\n" + _only(torch, "!= 'linux'")


def _only(package: str, platform: str) -> str:
    return package.replace(" \\\n", f" ; sys_platform {platform} \\\n", 1)


def write(path: Path, purpose: str, packages: list[str]) -> None:
    """Write a list of packages, below what it is for."""
    path.write_text(f"# {purpose}\n# Made from pyproject.toml by `make locks`.\n{''.join(packages)}")


def main(*arguments: str) -> None:
    """Make the lists of developers, of users, of PyTorch, and of PyTorch for GPUs."""
    known = "".join(text for path in (DEVELOPERS, GPU) for text in packages_of(path))
    developers = pinned(("dev", "gpu"), known, *arguments)
    users = pinned(("all", "gpu"), "".join(developers))
    (torch,) = (text for text in users if text.startswith("torch=="))
    for path, purpose, packages in (
        (DEVELOPERS, "What `make test` installs: the extra `dev`.", developers),
        (USERS, "What `make train` installs: the extra `all`.", users),
    ):
        others = [text for text in packages if not (text.startswith("torch==") or _FOR_GPUS.match(text))]
        write(path, purpose, ["-r pytorch.txt\n", *others])
    write(PYTORCH, "PyTorch for CPUs: on Linux from https://download.pytorch.org/whl/cpu.", [pytorch_for_cpus(torch)])
    gpu = [_only(torch, "== 'linux'"), *(text for text in users if _FOR_GPUS.match(text))]
    write(GPU, "PyTorch for NVIDIA's GPUs on Linux, and what it needs besides.", gpu)


if __name__ == "__main__":
    main(*sys.argv[1:])
