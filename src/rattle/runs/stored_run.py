"""A run as it is found in its directory: what it was started with, and the checkpoint that it can continue from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from rattle.analytics.directory_sink import WRITER, check_reach
from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.run_directory import TABLES, RunDirectory
from rattle.analytics.table_writer import last_row
from rattle.analytics.writer import write_atomically
from rattle.envs.vector import EnvironmentSpec
from rattle.events import emit, of_runs
from rattle.rollouts.worlds import settings_of_policy
from rattle.runs.checkpoint import Checkpoint, checkpoint_file, list_checkpoints, load_checkpoint
from rattle.runs.errors import RunError
from rattle.runs.progress import Summary
from rattle.runs.run_tables import read_run_row, run_row, write_run_row
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import check_settings, read_yaml, to_yaml
from rattle.text import one_line
from rattle.wire.vector import load_environment

#: Settings that make another run, by the beginnings of their keys; a server may have moved.
_DECISIVE = ("seed", "env.", "policy.", "policies.", "algorithm.", "inference.api", "inference.snakes")
_FREE = ("env.url", "env.wait_seconds", "env.answer_seconds", "env.processes")
#: Of these, those that a run can continue with all the same.
_TUNING = "algorithm."


@dataclass(frozen=True)
class ResumableRun:
    """What a run continues with."""

    run_id: str
    settings: ExperimentSettings
    checkpoint: Checkpoint | None  # None: the run was stopped before its first

    @property
    def updates(self) -> int:
        """Return the updates that it has made; 0 where a damaged checkpoint does not say: nothing continues from it."""
        tensors = {} if self.checkpoint is None else self.checkpoint.tensors
        return int(tensors.get("learner/version", 0))


def read_together(directories: Sequence[RunDirectory]) -> list[ResumableRun]:
    """Read what the runs of policies that play together continue with: checkpoints of the same update.

    Raises a RattleError as `read_stored_run` does, and where there is no such update.
    """
    runs = [read_stored_run(directory) for directory in directories]
    while len({run.updates for run in runs}) > 1:
        most = min(run.updates for run in runs)
        runs = [
            run if run.updates == most else read_stored_run(directory, most_updates=most)
            for run, directory in zip(runs, directories, strict=True)
        ]
    if any(run.checkpoint is None for run in runs):  # they were stopped before all had their first, which is of none
        return [replace(run, checkpoint=None) for run in runs]
    return runs


def read_stored_run(directory: RunDirectory, *, plays: bool = True, most_updates: int | None = None) -> ResumableRun:
    """Read what a run continues with, and write its row of `runs` again where that was lost.

    It is the newest checkpoint whose rows the tables have, of those after at most `most_updates`.
    Says in warnings what is not as it was. `plays`: see `check_settings`. Raises a RattleError with what to do when the
    run cannot continue.
    """
    settings = read_settings(directory, plays=plays)
    row = read_or_mend_row(directory, plays=plays)
    checkpoint = _newest_that_fits(directory, row["run_id"], most_updates)
    _check_settings(directory, settings, _began_with(checkpoint) or row.get("config") or {})
    if most_updates is not None and checkpoint is None:
        raise RunError(
            f"{directory.checkpoints} has none of update {most_updates} or before, where another policy's run "
            "continues: restore one from a copy, or start a new run"
        )
    if row["updates"] and checkpoint is None:
        raise RunError(f"{directory.checkpoints} is empty, so the run cannot be resumed; its tables are intact")
    return ResumableRun(row["run_id"], settings, checkpoint)


def accept_code(directory: RunDirectory) -> None:
    """Have a run continue with the code of users as it is now, and warn of what has changed; raises a RattleError.

    The caller holds the directory's lock. All who read the run's settings afterwards accept that code.
    """
    values = read_yaml(directory.config)
    now = check_settings({**values, "code": []}, str(directory.config))
    stated = {entry.get("name"): entry.get("sha256") for entry in values.get("code") or []}
    changed = [entry.name for entry in now.code if stated.get(entry.name, entry.sha256) != entry.sha256]
    if changed:
        write_atomically(directory.config, to_yaml(now).encode())
        emit(of_runs.CodeChanged(names=", ".join(changed)))


def accept_code_of(run_dir: Path | None) -> None:
    """Do what `accept_code` does where there is a run in `run_dir` to continue with."""
    directory = None if run_dir is None else RunDirectory(run_dir)
    if directory is not None and directory.is_run:
        with directory.locked():
            accept_code(directory)


def read_settings(directory: RunDirectory, *, plays: bool = True) -> ExperimentSettings:
    """Return the settings in a run's config.yaml; raises SettingsError. `plays`: see `check_settings`."""
    return check_settings(read_yaml(directory.config), str(directory.config), plays=plays)


def read_environment(directory: RunDirectory) -> EnvironmentSpec | None:
    """Return what the environment of a run is; None for a run of an earlier version, which did not write that down.

    Raises RunError for a file that is damaged.
    """
    if not directory.environment.exists():
        return None
    with reading(directory.environment):
        text = directory.environment.read_bytes()
    try:
        return load_environment(text)
    except ValueError as error:
        raise RunError(f"{directory.environment} is damaged: move it away ({one_line(error)})") from None


def read_or_mend_row(directory: RunDirectory, *, plays: bool = True) -> dict[str, Any]:
    """Return the run's row of `runs`, made again from its checkpoint where it is missing or damaged."""
    try:
        return read_run_row(directory)
    except RunError as error:
        run_id = _run_id_in_tables(directory)
        checkpoint = None if run_id is None else _newest_that_fits(directory, run_id)
        if run_id is None or checkpoint is None:
            raise RunError(f"{error}, and there is no checkpoint to make it again from: start a new run") from None
        settings, summary = read_settings(directory, plays=plays), _summary(directory, run_id, checkpoint)
        _check_settings(directory, settings, _began_with(checkpoint))
        numbers = checkpoint.numbers
        write_run_row(directory, run_row(settings, summary, numbers["started"], numbers.get("origin", {})))
        emit(of_runs.RunRowMade(error=str(error)))
        return read_run_row(directory)


def _check_settings(directory: RunDirectory, settings: ExperimentSettings, began_with: Mapping[str, Any]) -> None:
    """Raise RunError when config.yaml was changed so that it describes another run, and warn of lesser changes."""
    seeds = {settings.seed} | {settings_of_policy(settings, one).seed for one in settings.training.policies}
    before, now = dict(_flat(began_with)), dict(_flat(settings.model_dump(mode="json")))
    if not before:
        return
    if before.get("seed") in seeds:
        now["seed"] = before["seed"]
    stated = dict(_flat(read_yaml(directory.config)))
    changed = [
        key
        for key in {**now, **before}
        if key.startswith(_DECISIVE) and key not in _FREE and _differ(key, before, now, stated)
    ]
    if not changed:
        return
    how = (f"{key} is {_shown(now.get(key, 'not set'))}, was {_shown(before.get(key, 'not set'))}" for key in changed)
    said = f"{directory.config} was changed after the run began: {', '.join(how)}"
    if any(not key.startswith(_TUNING) or key == f"{_TUNING}id" for key in changed):
        raise RunError(f"{said}: put that back, or start a new run")
    emit(of_runs.SettingsChanged(change=said))


def _differ(key: str, before: Mapping[str, Any], now: Mapping[str, Any], stated: Mapping[str, Any]) -> bool:
    """Whether a setting is another one now; `stated` are those that config.yaml has.

    Versions of Rattle differ in what settings there are: one that is new has its default, and one that is gone was read
    without an error. Environments of others have no defaults that are known here, so theirs are all stated.
    """
    if key not in before:
        return key in stated
    if key not in now:
        return key.startswith("env.")
    return bool(now[key] != before[key])


def _shown(value: Any) -> str:
    """Return a setting's value as a YAML file has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _began_with(checkpoint: Checkpoint | None) -> Mapping[str, Any]:
    """Return the settings that a checkpoint was made with; nothing where it is of an earlier version."""
    return {} if checkpoint is None else checkpoint.numbers.get("config") or {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _newest_that_fits(directory: RunDirectory, run_id: str, most_updates: int | None = None) -> Checkpoint | None:
    """Return the newest checkpoint whose rows the tables still have, None where the run has no checkpoint at all."""
    lost = ""
    last = None if most_updates is None else checkpoint_file(directory, most_updates)
    for path in reversed([path for path in list_checkpoints(directory) if last is None or path <= last]):
        checkpoint = load_checkpoint(path, run_id)
        try:
            check_reach(directory, checkpoint.numbers.get("tables") or {})
        except AnalyticsError as error:
            lost = lost or str(error)
            continue
        if lost:
            emit(of_runs.OlderCheckpoint(error=lost, checkpoint=path.name))
        return checkpoint
    if lost:
        raise RunError(f"{lost}, and no older checkpoint fits: restore it from a copy, or start a new run")
    return None


def _run_id_in_tables(directory: RunDirectory) -> str | None:
    """Return the run_id in the last row of the first table that has one."""
    for name in TABLES:
        try:
            return str(msgspec.json.decode(last_row(directory.table(name), WRITER))["run_id"])
        except (AnalyticsError, msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            continue
    return None


def _summary(directory: RunDirectory, run_id: str, checkpoint: Checkpoint) -> Summary:
    """Return what is known of a run from its checkpoint alone."""
    numbers = checkpoint.numbers
    steps, seconds = numbers["env_steps"], numbers["seconds"]
    return Summary(
        run_id=run_id,
        run_dir=str(directory.path),
        status="interrupted",
        env_steps=steps,
        seconds=seconds,
        env_steps_per_second=steps / seconds if seconds else 0.0,
        updates=checkpoint.update,
        episodes=int(checkpoint.tensors["tracker/ended"]),
        mean_return=None,
        mean_episode_length=None,
        policy_version=checkpoint.update,
        policy_sha256="",
        best_mean_return=numbers.get("best_mean_return"),
        best_policy_version=numbers.get("best_policy_version"),
    )
