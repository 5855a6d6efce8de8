"""The analytics package is the bottom layer, and importing it costs next to nothing."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import rattle.analytics

HEAVY = (
    "chdb",
    "pyarrow",
    "pandas",
    "matplotlib",
    "PIL",
    "imageio",
    "tensorboardX",
    "torch",
    "numba",
    "rich",
    "pydantic",
)


def test_heavy_libraries_and_higher_layers_are_not_imported() -> None:
    modules = [module.name for module in pkgutil.walk_packages(rattle.analytics.__path__, "rattle.analytics.")]
    assert "rattle.analytics.replay.terminal" in modules
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = ended.stdout.split()
    assert [name for name in HEAVY if name in imported] == []
    own = {name for name in imported if name.startswith("rattle.")}
    assert {
        name
        for name in own
        if not name.startswith(
            (
                "rattle.analytics",
                "rattle.addresses",
                "rattle.errors",
                "rattle.events",
                "rattle.redaction",
                "rattle.text",
                "rattle.tls",
                "rattle.tokens",
            )
        )
    } == set()
