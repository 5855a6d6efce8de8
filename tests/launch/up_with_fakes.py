"""`rattle` with small processes in the place of services, which behave as the variable BEHAVIOUR says."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable

from rattle.analytics.run_directory import RunDirectory
from rattle.cli import main as rattle
from rattle.launch import template, up
from rattle.launch.processes import LEASH
from tests.launch import fake_service

begin_template = template.begin


def after(done: Callable[..., None], then: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(done)
    def both(directory: RunDirectory, *rest: object) -> None:
        done(directory, *rest)
        then(directory)

    return both


def write_behaviour(directory: RunDirectory) -> None:
    (directory.path / "behaviour.json").write_text(json.dumps(json.loads(os.environ.get("BEHAVIOUR", "{}"))))


def fake() -> None:
    """Be a service, as the command of a fork: its arguments follow those of the leash."""
    sys.argv.remove(LEASH)
    fake_service.main()


def main() -> None:
    os.setpgid(0, 0)  # so that tests can signal it and all that shares a terminal with it
    template.begin = lambda command: begin_template(fake)
    up.store_beginning = after(up.store_beginning, write_behaviour)
    rattle()
