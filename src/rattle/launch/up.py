"""Starting an experiment's services and stopping them at the end of the run: what `rattle up` does."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import get_args

from rattle.addresses import parse_address
from rattle.analytics.run_directory import RunDirectory, find_run
from rattle.analytics.writer import storing
from rattle.clients.keys import sync_key
from rattle.launch.launched_run import Launch, RunOutcome
from rattle.launch.plan import check_topology, plan, section_of
from rattle.launch.service import Kind, LaunchedService
from rattle.launch.view import LaunchView, choose_view
from rattle.rollouts.complete import complete
from rattle.rollouts.worlds import check_one_policy
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.find_policy import policy_run_directory
from rattle.runs.new_runs import make_folder, name_run, store_beginning
from rattle.runs.run_clock import RunLimits
from rattle.runs.stored_run import ResumableRun, accept_code, read_or_mend_row, read_settings, read_stored_run
from rattle.services.utils.server_tls import check_trust, server_tls
from rattle.services.utils.sockets import listen
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import SECURITY_FILES, keep_security, with_named_files
from rattle.tokens import keep_token, make_token


def up(settings: ExperimentSettings, run_dir: Path | None, *, kill_every: float | None, as_json: bool) -> None:
    """Start a run in `run_dir`, or below runs/, and have services train it until a limit or a signal.

    Raises RattleError with one line when it cannot start, when a service cannot be kept running, or when training
    fails.
    """
    launch(settings, run_dir, choose_view(as_json=as_json), kill_every=kill_every, say=_say)


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more
        sys.stderr.write(line + "\n")


def launch(
    settings: ExperimentSettings,
    run_dir: Path | None,
    view: LaunchView,
    *,
    kill_every: float | None = None,
    patience: float | None = None,
    say: Callable[[str], object] | None = None,
) -> RunOutcome:
    """Do what `up` does, for any view, and return the result.

    `patience` is how many seconds may pass without a tick before the run has failed; None: any number. `say` is told
    what was chosen for settings that are not given.
    """
    check_topology(settings)  # before a server elsewhere is waited for
    _check_key(settings)
    _check_tls(settings)
    check_one_policy(settings)
    settings = complete(settings, say=say)
    directory, run_id, environments = name_run(settings, run_dir)
    environment = environments["main"]
    services = plan(settings, directory.config)
    _check_ports(services, settings)
    make_folder(directory)
    with directory.launching(), _token(settings, directory) as overrides:
        store_beginning(directory, run_id, settings, environment)
        limits = RunLimits(settings.train.steps, settings.train.seconds)
        begun = Launch(
            settings,
            directory,
            services,
            limits,
            view,
            kill_every=kill_every,
            patience=patience,
            overrides=overrides,
        )
        outcome = begun.run()
    return _end_if_killed(outcome)


@contextmanager
def _token(settings: ExperimentSettings, directory: RunDirectory) -> Iterator[list[str]]:
    """Give the block what services are told of the token: which file the user has named, or that of a new one.

    The run's own lies in its directory as long as the run is in progress.
    """
    path, url = RunDirectory(directory.path.resolve()).token, settings.env.url
    if (named := settings.security.token_file) is not None:
        if Path(named).resolve() != path:  # what a killed launcher has left would be shown as the way to ask
            with suppress(OSError):
                path.unlink(missing_ok=True)
        yield [f"security.token_file={json.dumps(named)}"]
        return
    with storing(path):
        token = make_token(path)
    keep_token(token, [] if url is None else [parse_address(url).url])
    try:
        yield [f"security.token_file={json.dumps(str(path))}"]
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def resume(
    name: str,
    steps: int | None,
    seconds: float | None,
    *,
    kill_every: float | None,
    as_json: bool,
    allow_changed_code: bool = False,
) -> None:
    """Continue with a run from its newest checkpoint; `steps` and `seconds` replace the run's own limits."""
    directory = find_run(name)
    with directory.launching():
        if allow_changed_code:
            accept_code(directory)
        run, updates = _stored(directory)
        settings = with_named_files(run.settings, os.environ)
        keep_security(settings, os.environ)
        services = plan(settings, directory.config)
        _check_key(settings)
        _check_tls(settings)
        _check_ports(services, settings)
        _check_other_policies(directory, settings, allow_changed_code=allow_changed_code)
        _put_aside(directory.history)
        limits = RunLimits(steps or settings.train.steps, seconds or settings.train.seconds)
        view = choose_view(as_json=as_json)
        with _token(settings, directory) as overrides:
            begun = Launch(
                settings,
                directory,
                services,
                limits,
                view,
                resumed_at=updates,
                kill_every=kill_every,
                overrides=[*_moved_files(run.settings, settings), *overrides],
            )
            outcome = begun.run()
    _end_if_killed(outcome)


def _stored(directory: RunDirectory) -> tuple[ResumableRun, int]:
    """Return a run, and the updates that it has made; where Training stores it elsewhere, as far as that is known here.

    Raises a RattleError where it cannot continue.
    """
    settings = read_settings(directory)
    if settings.topology.prefix.training and not list_checkpoints(directory):
        row = read_or_mend_row(directory)
        return ResumableRun(row["run_id"], settings, None), row["updates"]
    run = read_stored_run(directory)
    return run, run.updates


def _end_if_killed(outcome: RunOutcome) -> RunOutcome:
    """End this process where a second signal says so, now that nothing of the run is left to be put away."""
    if outcome.killed_by is not None:
        signal.signal(outcome.killed_by, signal.SIG_DFL)
        os.kill(os.getpid(), outcome.killed_by)
    return outcome


def _moved_files(stored: ExperimentSettings, settings: ExperimentSettings) -> list[str]:
    """Return what services are told of the files of `security` that are not those that they find in the run."""
    before, now = (one.security.model_dump(include=set(SECURITY_FILES)) for one in (stored, settings))
    return [f"security.{key}={json.dumps(path)}" for key, path in now.items() if path != before[key]]


def _check_other_policies(first: RunDirectory, settings: ExperimentSettings, *, allow_changed_code: bool) -> None:
    """Raise a RattleError, before a service is started, for a policy's run that cannot continue."""
    for policy_id in settings.training.policies[1:]:
        directory = policy_run_directory(first, policy_id)
        if directory.is_run:
            if allow_changed_code:
                accept_code(directory)
            read_stored_run(directory)


def _put_aside(history: Path) -> None:
    """Keep the history of an earlier command under a name of its own: the ticks of this one begin with 1 again."""
    if history.exists():
        others = (history.with_name(f"{history.stem}-{number}{history.suffix}") for number in count(1))
        with storing(history):
            history.rename(next(other for other in others if not other.exists()))


def _check_key(settings: ExperimentSettings) -> None:
    """Raise a RattleError for a key that no service could read."""
    if settings.sync.mode != "none":
        sync_key(settings.sync.key_file, settings.security.token_file)


def _check_tls(settings: ExperimentSettings) -> None:
    """Raise a RattleError for a certificate that no service could show, or by which they would not know each other."""
    here = [section_of(settings, kind) for kind in get_args(Kind) if not settings.topology.prefix.of(kind)]
    for host, advertise in dict.fromkeys((section.host, section.advertise) for section in here):
        if (tls := server_tls(host, settings.security, advertise)) is not None:
            check_trust(tls)


def _check_ports(services: Sequence[LaunchedService], settings: ExperimentSettings) -> None:
    """Raise ServiceError for a fixed port that is taken."""
    for service in services:
        for port in service.ports:
            if port.number and not service.prefix:
                kind = socket.SOCK_DGRAM if port.is_udp else socket.SOCK_STREAM
                listen(section_of(settings, service.kind).host, port.number, kind).close()
