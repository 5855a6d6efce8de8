"""Finding a policy by the name of its run, or by its file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, get_args

from rattle.addresses import keep_credentials
from rattle.analytics.run_directory import RUNS_ROOT, RunDirectory, find_run
from rattle.envs.vector import Vector
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, load_policy
from rattle.runs.errors import RunError
from rattle.settings.errors import SettingsError
from rattle.settings.sources import SECURITY_FILES, read_yaml
from rattle.text import one_line
from rattle.tls import TlsFiles, offer_tls
from rattle.tokens import offer_token


class FoundPolicy(NamedTuple):
    """A policy, and what is known of it by the name that it was found under."""

    policy: StoredPolicy
    path: Path
    own: bool  # found as a run
    url: str | None = None  # of the server that the run played at
    token_file: str | None = None  # with which it did, and with TLS by these files
    tls: TlsFiles = TlsFiles()
    vector: Vector = "never"  # whether the run stepped Gymnasium's vector environments
    patterns: Mapping[str, str] = MappingProxyType({})  # of agents' names: which policy plays whom, where several do
    together: Mapping[str, StoredPolicy] = MappingProxyType({})  # all policies of these, by name

    @property
    def may_import(self) -> bool:
        """Whether it lies in a run directory, whose environment may name a module to import."""
        return RunDirectory(self.path.parent).is_run

    def url_for(self, environment: str | None) -> str | None:
        """Return the server that plays it where nobody names one: the run's, unless another environment is wanted.

        It is sent the token that the run was given, and trusted by the run's authority, unless others are known; raises
        TokenFileError.
        """
        if environment is not None or self.url is None:
            return None
        offer_token(self.token_file)
        offer_tls(self.tls)
        return self.url


def find_policy(name: str, *, best: bool = False) -> FoundPolicy:
    """Find a policy by policy file or by run, whose newest or `best` it is; raises RattleError when there is none.

    With a run's policy come those that play other agents of the same worlds.
    """
    path, own, played, patterns, beside = Path(name), False, _Played(), dict[str, str](), dict[str, Path]()
    if not os.path.isfile(name):  # noqa: PTH113  # `Path.is_file` raises for a name that no file can have
        if name.endswith(".safetensors") and not RunDirectory(path).is_run:
            raise RunError(f"there is no policy file {one_line(name)}")
        run = find_run(name, RUNS_ROOT)
        path, own, played = run.best_policy if best else run.policy, True, _played_in(run)
        if best and not path.exists():
            judged = "100 episodes, or the first evaluation where evaluation.every_steps is set,"
            raise RunError(f"{run.path} has no best policy yet: the first checkpoint after {judged} stores one")
        patterns = _patterns_of(run)
        names = tuple(dict.fromkeys(patterns.values()))
        for policy, directory in zip(names, find_together(run, names), strict=bool(names)):
            beside[policy] = directory.best_policy if best else directory.policy
    elif best:
        raise RunError(f"{path} is a policy file: --best wants the run that it belongs to")
    found = _load(path)
    together = {name: found if file.resolve() == path.resolve() else _load(file) for name, file in beside.items()}
    return FoundPolicy(found, path, own, *played, patterns, together)


def find_together(directory: RunDirectory, names: Sequence[str]) -> list[RunDirectory]:
    """Return the runs of all policies that play the same worlds, of which one is given: the first, or another.

    Without names it is that run alone. Raises RunError where one is missing.
    """
    path = directory.path.resolve()
    called = next((name for name in names[1:] if path.name.endswith(f"-{name}")), None)
    if called is not None:
        first = RunDirectory(path.with_name(path.name.removesuffix(f"-{called}")))
        directory = first if first.is_run else directory
    found = [directory, *(policy_run_directory(directory, name) for name in names[1:])]
    for missing in (one for one in found if not one.is_run):
        raise RunError(f"{missing.path} holds no run: those of {', '.join(names)}, who play together, lie side by side")
    return found


def policy_run_directory(directory: RunDirectory, policy_id: str) -> RunDirectory:
    """Return where another policy's run is stored than the first, whose directory is the experiment's."""
    return RunDirectory(directory.path.with_name(f"{directory.path.name}-{policy_id}"))


def _load(path: Path) -> StoredPolicy:
    try:
        return load_policy(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except PolicyError as error:
        raise RunError(f"{path}: {error}") from None


def _patterns_of(run: RunDirectory) -> dict[str, str]:
    """Return which policies play which agents in a run; nothing where one plays all, or it does not say."""
    try:
        given = read_yaml(run.config).get("policies")
    except SettingsError:
        return {}
    return {str(pattern): str(policy) for pattern, policy in given.items()} if isinstance(given, dict) else {}


class _Played(NamedTuple):
    """The environment server that a run played at, None where there is none, its credentials, and `env.vector`."""

    url: str | None = None
    token_file: str | None = None
    tls: TlsFiles = TlsFiles()
    vector: Vector = "never"


def _played_in(run: RunDirectory) -> _Played:
    """Return where a run played: at no server where it played in its own process, or does not say."""
    try:
        values = read_yaml(run.config)
    except SettingsError:
        return _Played()  # its policy can be played all the same
    sections = [section if isinstance(section := values.get(name), dict) else {} for name in ("env", "security")]
    url = sections[0].get("url")
    vector: Vector = next((one for one in get_args(Vector) if one == sections[0].get("vector")), "never")
    files = (path if isinstance(path := sections[1].get(key), str) else None for key in SECURITY_FILES)
    try:
        return _Played(keep_credentials(url) if isinstance(url, str) else None, next(files), TlsFiles(*files), vector)
    except ValueError as error:
        raise RunError(f"{run.config}: env.url: {error}") from None
