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
DEVELOPERS, USERS, PYTORCH, GPU, GAMES = (
    HERE / f"{name}.txt" for name in ("developers", "users", "pytorch", "gpu", "games")
)
SERVICE_LISTS = HERE / "services"

#: What the images of services hold besides Rattle and what all of it needs (services/base.txt): extras, and packages of
#: theirs that are left out. The dashboard's image shows stores: SQL over run directories needs chDB, half a gigabyte.
SERVICES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "base": ((), ()),
    "env": (("env", "publish"), ()),
    "mock_env": (("mock-env", "publish"), ()),
    "training": (("training", "telemetry"), ()),
    "inference": (("inference", "publish"), ()),
    "sync": (("sync", "publish"), ()),
    "ingest": (("ingest",), ()),
    "dashboard": (("dashboard", "store", "publish"), ("chdb", "chdb-core", "pandas", "python-dateutil")),
}

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


def write_services(known: str) -> None:
    """Write the list of each service's image, in the versions of a known list; PyTorch has lists of its own."""
    common = pinned((), known)
    tools = [text for text in packages_of(USERS) if name_of(text) == "setuptools"]
    write(SERVICE_LISTS / "build.txt", "What Rattle is built with in images.", tools)
    for name, (extras, without) in SERVICES.items():
        packages = common if name == "base" else pinned(extras, known)
        left_out = {*without, "torch", *(set() if name == "base" else map(name_of, common))}
        kept = [text for text in packages if not (name_of(text) in left_out or _FOR_GPUS.match(text))]
        purpose = (
            "What every image holds" if name == "base" else f"What the image snake_rl_{name} holds besides base.txt"
        )
        write(SERVICE_LISTS / f"{name}.txt", f"{purpose}.", kept)


def name_of(package: str) -> str:
    """Return the name of a package by its text in a list."""
    return package.partition("==")[0]


def main(*arguments: str) -> None:
    """Make the lists of developers, of users, of PyTorch, of its build for GPUs, of games, and of services' images."""
    known = "".join(text for path in (DEVELOPERS, GPU, GAMES) for text in packages_of(path))
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
    there = set(map(name_of, developers))
    games = pinned(("games",), known + "".join(developers), *arguments)
    write(GAMES, "What CI installs besides: the extra `games`.", [one for one in games if name_of(one) not in there])
    write_services("".join(users))


if __name__ == "__main__":
    main(*sys.argv[1:])
