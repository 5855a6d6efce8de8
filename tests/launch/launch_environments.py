"""Starts real Env services as `rattle up` does and says their pids: to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rattle.launch.notes import Note
from rattle.launch.plan import plan
from rattle.launch.processes import Processes
from rattle.launch.service import command
from rattle.launch.supervisor import Supervisor
from rattle.settings.sources import load_settings, to_yaml


def main() -> None:
    config = Path(sys.argv[1]) / "config.yaml"
    settings = load_settings(None, ["topology.env=2"])
    config.write_text(to_yaml(settings))
    services = {service.name: service for service in plan(settings, config) if service.kind == "env"}
    supervisor = Supervisor(services.values())

    def show(note: Note) -> None:
        sys.stdout.write(f"{note.event.name} {note.event.fields().get('service_pid')}\n")
        sys.stdout.flush()

    processes = Processes(supervisor, lambda name: command(services[name], supervisor.hellos), config.parent, show)
    asyncio.run(processes.run())


if __name__ == "__main__":
    main()
