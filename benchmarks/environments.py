"""Which environments of Gymnasium and PettingZoo train, each for two updates, and why the others do not."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import gymnasium
from measure import report, table

RATTLE = [sys.executable, "-P", "-m", "rattle.cli"]
WORLDS, TICKS, UPDATES = 2, 16, 2
#: What Gymnasium registers and does not bring: older versions of itself.
NOT_ITS_OWN = frozenset({"GymV21Environment", "GymV26Environment"})
FAMILIES = ("atari", "butterfly", "classic", "sisl")


@dataclass(frozen=True)
class Outcome:
    """What became of one environment."""

    environment: str
    updates: int
    reason: str  # why there are not two

    @property
    def trains(self) -> bool:
        """Whether it was learnt from."""
        return self.updates >= UPDATES


def of_gymnasium() -> list[str]:
    """Return the newest version of each environment that Gymnasium brings."""
    newest: dict[str, gymnasium.envs.registration.EnvSpec] = {}
    for spec in gymnasium.registry.values():
        is_own = not spec.namespace and spec.name not in NOT_ITS_OWN
        if is_own and (spec.name not in newest or (newest[spec.name].version or 0) < (spec.version or 0)):
            newest[spec.name] = spec
    return [f"gym:{spec.id}" for spec in newest.values()]


def of_pettingzoo() -> list[str]:
    """Return the modules that PettingZoo brings, also where what they need is not installed."""
    found = find_spec("pettingzoo")
    if found is None or found.origin is None:
        return []
    folder = Path(found.origin).parent
    names = [path.stem for family in FAMILIES for path in sorted((folder / family).glob("*_v*.py"))]
    owners = {path.stem: path.parent.name for family in FAMILIES for path in (folder / family).glob("*_v*.py")}
    return [f"pettingzoo:pettingzoo.{owners[name]}.{name}" for name in names if re.search(r"_v\d+$", name)]


def own_settings(environment: str) -> list[str]:
    """Return what an environment must be told: where Atari's games are, which PettingZoo does not bring."""
    roms = find_spec("ale_py") if ".atari." in environment else None
    return [f"env.auto_rom_install_path={Path(roms.origin).parent}"] if roms is not None and roms.origin else []


def train(environment: str, folder: str, seconds: float) -> Outcome:
    """Train an environment for two updates in a process of its own, which is ended after so many seconds."""
    settings = [f"env.id={environment}", f"env.worlds={WORLDS}", f"algorithm={{id: ppo, ticks: {TICKS}}}"]
    command = [*RATTLE, "train", "--steps", str(WORLDS * TICKS * UPDATES), "--json"]
    command += ["--run-dir", f"{folder}/{re.sub(r'[^A-Za-z0-9]', '-', environment)}"]
    for setting in (*settings, *own_settings(environment)):
        command += ["--set", setting]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "SDL_VIDEODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=quiet
    )
    try:
        shown, told = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome(environment, 0, f"two updates took more than {seconds:.0f} seconds")
    lines = [line for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")] or lines[-1:] or [f"exit {process.returncode}"]
    if process.returncode:
        return Outcome(environment, 0, errors[-1].removeprefix("Error: "))
    return Outcome(environment, int(json.loads(shown.splitlines()[-1])["updates"]), "")


def rows(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """Return the table's rows."""
    return [
        (f"`{one.environment}`", "yes" if one.trains else "no", one.reason.replace("|", "\\|").replace("\n", " "))
        for one in outcomes
    ]


def main() -> None:
    """Try all environments, or those whose names hold a text, and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="", help="a text that the names of environments hold")
    arguments.add_argument("--seconds", type=float, default=120.0, help="how long each may take")
    arguments.add_argument("--jobs", type=int, default=2, help="environments that are tried at the same time")
    given = arguments.parse_args()
    parts = []
    for package, names in (("Gymnasium", of_gymnasium()), ("PettingZoo", of_pettingzoo())):
        chosen = [name for name in names if given.only in name]
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
            outcomes = list(pool.map(lambda name, folder=folder: train(name, folder, given.seconds), chosen))
        trained = sum(one.trains for one in outcomes)
        parts.append(f"{package}: {trained} of {len(outcomes)} train.")
        parts.append(table(("environment", "trains", "why not"), rows(outcomes)))
    if given.only:
        print("\n\n".join(parts))
        return
    report("environments", "Which environments train", *parts)


if __name__ == "__main__":
    main()
