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
from rattle.tokens import offer_token


class FoundPolicy(NamedTuple):
    """A policy, and what is known of it by the name that it was found under."""

    policy: StoredPolicy
    path: Path
    own: bool  # found as a run
    url: str | None = None  # of the server that the run played at
    token_file: str | None = None  # with which it did

    @property
    def may_import(self) -> bool:
        """Whether it lies in a run directory, whose environment may name a module to import."""
        return RunDirectory(self.path.parent).is_run

    def url_for(self, environment: str | None) -> str | None:
        """Return the server that plays it where nobody names one: the run's, unless another environment is wanted.

        It is sent the token that the run was given, unless another is known; raises TokenFileError.
        """
        if environment is not None or self.url is None:
            return None
        offer_token(self.token_file)
        return self.url


def find_policy(name: str, *, best: bool = False) -> FoundPolicy:
    """Find a policy by policy file or by run, whose newest or `best` it is; raises RattleError when there is none."""
    path, own, url, token_file = Path(name), False, None, None
    if not path.is_file():
        run = find_run(name, RUNS_ROOT)
        path, own, (url, token_file) = run.best_policy if best else run.policy, True, _server_of(run)
        if best and not path.exists():
            judged = "100 episodes, or the first evaluation where evaluation.every_steps is set,"
            raise RunError(f"{run.path} has no best policy yet: the first checkpoint after {judged} stores one")
    elif best:
        raise RunError(f"{path} is a policy file: --best wants the run that it belongs to")
    try:
        return FoundPolicy(load_policy(path.read_bytes()), path, own, url, token_file)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except PolicyError as error:
        raise RunError(f"{path}: {error}") from None


def _server_of(run: RunDirectory) -> tuple[str | None, str | None]:
    """Return the environment server that a run played at and the file of its token.

    The former is None where it played in its own process, or where the run does not say.
    """
    try:
        values = read_yaml(run.config)
    except SettingsError:
        return None, None  # its policy can be played all the same
    sections = [section if isinstance(section := values.get(name), dict) else {} for name in ("env", "security")]
    url, token_file = sections[0].get("url"), sections[1].get("token_file")
    try:
        known = keep_credentials(url) if isinstance(url, str) else None
        return known, token_file if isinstance(token_file, str) else None
    except ValueError as error:
        raise RunError(f"{run.config}: env.url: {error}") from None
