"""Where a run began: its command, machine, the state of the user's repository, and versions that decide results."""

from __future__ import annotations

import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from rattle.analytics.run_directory import RunDirectory
from rattle.redaction import redact_arguments
from rattle.text import one_line

#: Columns of `runs` that say it.
COLUMNS = ("host", "command", "git_commit", "git_dirty", "packages")
#: Packages that numbers depend on, where they are installed.
_PACKAGES = ("gymnasium", "numba", "numpy", "onnxruntime", "pettingzoo", "safetensors", "torch")
_LONGEST_COMMAND = 4000
#: How long Git may take for an answer, in seconds: a run does not wait for a slow disk.
_PATIENCE = 1.0


def origin() -> dict[str, Any]:
    """Return the columns of `runs` for a run that this process begins; never raises, and never takes long."""
    return {
        "host": platform.node(),
        "command": command_line(sys.argv),
        **repository(Path()),
        "packages": {"python": platform.python_version(), **dict(_versions())},
    }


def known_origin(directory: RunDirectory) -> dict[str, Any]:
    """Return what a run's row says of where it began; {} where there is none yet, or none that can be read."""
    try:
        row: Mapping[str, Any] = msgspec.json.decode(directory.run.read_bytes(), type=dict)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return {name: row[name] for name in COLUMNS if name in row}


def command_line(arguments: list[str]) -> str:
    """Return a command as it may be typed again, less secrets, on one line."""
    program, *others = arguments or [""]
    name = Path(program).name
    shown = "rattle" if name in ("rattle", "__main__.py") else program
    return one_line(shlex.join(redact_arguments([shown, *others])), _LONGEST_COMMAND)


def repository(folder: Path) -> dict[str, Any]:
    """Return the commit of the Git repository around a folder, and whether files that it tracks differ from it.

    "" and None where there is none, or no Git, or no answer soon. Files that Git does not track do not count: what
    a run itself writes is among them.
    """
    said = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty")
    if said is None:
        return {"git_commit": (_git(folder, "rev-parse", "--verify", "-q", "HEAD") or "").strip(), "git_dirty": None}
    lines = said.splitlines()
    commit = next((line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")), "")
    if not commit or commit == "(initial)":
        return {"git_commit": "", "git_dirty": None}
    return {"git_commit": commit, "git_dirty": any(not line.startswith("#") for line in lines)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what Git prints, None where it fails; it starts no programs that the repository names, and no pager."""
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        with tempfile.TemporaryFile() as output:  # no pipe: what Git may have started could hold it open
            process = subprocess.Popen(  # noqa: S603  # its arguments are our own
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                env=variables,
                start_new_session=True,
            )
            try:
                status = process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
            output.seek(0)
            return output.read().decode(errors="replace") if status == 0 else None
    except OSError:
        return None


def _versions() -> list[tuple[str, str]]:
    found = []
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append((package, version(package)))
    return found
