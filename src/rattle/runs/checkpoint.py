"""Checkpoints: everything that decides how a run continues, in one safetensors file, which is renamed when complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from numpy.typing import NDArray

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.writer import put_aside, storing
from rattle.policies.errors import PolicyError
from rattle.policies.file import dump_tensors, load_tensors
from rattle.runs.errors import RunError
from rattle.text import one_line

FORMAT = "rattle.checkpoint"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """Arrays under "PART/name", and the plain numbers of a run."""

    tensors: Mapping[str, NDArray[Any]]
    numbers: Mapping[str, Any]

    @property
    def update(self) -> int:
        """Return the update that it was taken after."""
        return int(self.tensors["learner/version"])

    def part(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of one part under their own names."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): array for key, array in self.tensors.items() if key.startswith(prefix)}


def join_parts(parts: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of all parts under "PART/name"."""
    return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def dump_checkpoint(checkpoint: Checkpoint, run_id: str, update: int) -> bytes:
    """Return the file of a checkpoint that was taken of a run after an update."""
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "run_id": run_id,
        "update": str(update),
        "numbers": json.dumps(dict(checkpoint.numbers), sort_keys=True),
    }
    return dump_tensors(checkpoint.tensors, metadata)


def checkpoint_file(directory: RunDirectory, update: int) -> Path:
    """Return where the checkpoint of an update is kept."""
    return directory.checkpoints / _name(update)


def drop_checkpoints(directory: RunDirectory, run_id: str, keep: int) -> None:
    """Delete all checkpoints of a run but the newest `keep`; files that it did not make stay, and do not count."""
    with storing(directory.checkpoints):
        own = [path for path in list_checkpoints(directory) if _is_of(path, run_id)]
        for old in own[:-keep]:
            old.unlink()


def oldest_mark(directory: RunDirectory, run_id: str) -> dict[str, int]:
    """Return how far the tables reached at the oldest checkpoint that a run still has: it may be cut back so far."""
    for path in list_checkpoints(directory):
        if _is_of(path, run_id):
            with storing(path), safetensors.safe_open(path, "numpy") as file:
                numbers: dict[str, Any] = json.loads(file.metadata()["numbers"])
            return numbers.get("tables") or {}
    return {}


def make_room(path: Path, run_id: str) -> None:
    """Put aside a file in the place of a checkpoint that the run `run_id` will store, unless the run made it."""
    with storing(path):
        if path.exists() and not _is_of(path, run_id):
            put_aside(path, "other")


def list_checkpoints(directory: RunDirectory) -> list[Path]:
    """List what has the name of a checkpoint in a run's directory, oldest first."""
    return sorted(directory.checkpoints.glob("update-*.safetensors"))


def load_checkpoint(path: Path, run_id: str) -> Checkpoint:
    """Read a checkpoint of the run `run_id`.

    Raises RunError that says what to do when it is damaged, renamed, or of something else. Checkpoints of earlier
    versions do not say which run they are of, and are taken.
    """
    try:
        tensors, metadata = load_tensors(path.read_bytes())
    except (OSError, PolicyError) as error:
        raise RunError(f"{path} cannot be read ({error}): {_way_out(path)}") from None
    if metadata.get("format") != FORMAT:
        raise RunError(f"{path} is not a checkpoint of Rattle: {_way_out(path)}")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise RunError(
            f"{path} has checkpoint format {metadata.get('format_version')}, and this version reads {FORMAT_VERSION}: "
            "resume the run with the version that made it"
        )
    if metadata.get("run_id", run_id) != run_id:
        raise RunError(
            f"{path} belongs to the run {one_line(metadata['run_id'], 100)}, not to {run_id}: "
            "move it out of this folder"
        )
    if "update" in metadata and path.name != _name(int(metadata["update"])):
        raise RunError(
            f"{path} was renamed: it was made at update {metadata['update']}. Call it {_name(int(metadata['update']))} "
            "again, or move it out of this folder"
        )
    return Checkpoint(tensors, json.loads(metadata["numbers"]))


def _is_of(path: Path, run_id: str) -> bool:
    """Whether a file says that it is a checkpoint of the run `run_id`, of the update that its name says."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        said = metadata.get("format"), metadata.get("run_id"), _name(int(metadata.get("update", "")))
    except (OSError, ValueError, safetensors.SafetensorError):
        return False
    return said == (FORMAT, run_id, path.name)


def _name(update: int) -> str:
    return f"update-{update:010d}.safetensors"


def _way_out(path: Path) -> str:
    """Return what to do about a checkpoint that cannot be used."""
    if any(other < path for other in path.parent.glob("update-*.safetensors")):
        return "delete it to continue from the one before"
    return "there is none before it, so the run cannot be resumed; its tables are intact"
