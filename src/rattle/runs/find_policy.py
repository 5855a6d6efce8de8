"""Finding a policy by the name of its run, or by its file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rattle.addresses import keep_credentials
from rattle.analytics.run_directory import RUNS_ROOT, RunDirectory, find_run
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, load_policy
from rattle.runs.errors import RunError
from rattle.settings.errors import SettingsError
from rattle.settings.sources import read_yaml


class FoundPolicy(NamedTuple):
    """A policy, and what is known of it by the name that it was found under."""

    policy: StoredPolicy
    path: Path
    own: bool  # found as a run
    url: str | None = None  # of the server that the run played at

    @property
    def may_import(self) -> bool:
        """Whether it lies in a run directory, whose environment may name a module to import."""
        return RunDirectory(self.path.parent).is_run

    def url_for(self, environment: str | None) -> str | None:
        """Return the server that plays it where nobody names one: the run's, unless another environment is wanted."""
        return self.url if environment is None else None


def find_policy(name: str, *, best: bool = False) -> FoundPolicy:
    """Find a policy by policy file or by run, whose newest or `best` it is; raises RattleError when there is none."""
    path, own, url = Path(name), False, None
    if not path.is_file():
        run = find_run(name, RUNS_ROOT)
        path, own, url = run.best_policy if best else run.policy, True, _url_of(run)
        if best and not path.exists():
            judged = "100 episodes, or the first evaluation where evaluation.every_steps is set,"
            raise RunError(f"{run.path} has no best policy yet: the first checkpoint after {judged} stores one")
    elif best:
        raise RunError(f"{path} is a policy file: --best wants the run that it belongs to")
    try:
        return FoundPolicy(load_policy(path.read_bytes()), path, own, url)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except PolicyError as error:
        raise RunError(f"{path}: {error}") from None


def _url_of(run: RunDirectory) -> str | None:
    """Return the environment server that a run played at, None where it played in its own process or does not say."""
    try:
        section = read_yaml(run.config).get("env")
    except SettingsError:
        return None  # its policy can be played all the same
    url = section.get("url") if isinstance(section, dict) else None
    try:
        return keep_credentials(url) if isinstance(url, str) else None
    except ValueError as error:
        raise RunError(f"{run.config}: env.url: {error}") from None
