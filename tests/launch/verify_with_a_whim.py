"""`rattle verify-determinism` with services of which one is not deterministic."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from rattle.cli import main
from rattle.launch import launched_run, template
from rattle.launch.processes import Processes

if __name__ == "__main__":
    program = (sys.executable, str(Path(__file__).with_name("rattle_with_a_whim.py")))
    launched_run.Processes = functools.partial(Processes, program=program)  # type: ignore[misc, assignment]
    template.begin = lambda command: None  # of no use to these
    main()
