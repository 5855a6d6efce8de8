"""`rattle` with small processes in the place of services, which behave as the variable BEHAVIOUR says."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rattle.analytics.run_directory import RunDirectory
from rattle.cli import main
from rattle.launch import launched_run, template, up
from rattle.launch.processes import Processes

FAKE = (sys.executable, str(Path(__file__).with_name("fake_service.py")))


def after(done: Callable[..., None], then: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(done)
    def both(directory: RunDirectory, *rest: object) -> None:
        done(directory, *rest)
        then(directory)

    return both


def write_behaviour(directory: RunDirectory) -> None:
    (directory.path / "behaviour.json").write_text(json.dumps(json.loads(os.environ.get("BEHAVIOUR", "{}"))))


if __name__ == "__main__":
    launched_run.Processes = functools.partial(Processes, program=FAKE)  # type: ignore[misc, assignment]
    template.begin = lambda command: None  # of no use to these
    up.store_beginning = after(up.store_beginning, write_behaviour)
    main()
