"""What users' code builds on: few names, documented, and light to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rattle.extend

EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "extend").glob("*.py"))

NAMES = {
    "algorithms": {"A2C", "ActorCritic", "Algorithm", "CorrectedActorCritic", "OneStep", "PPO", "Reinforce"},
    "what an update is made of": {"Batch", "Distribution", "Loss", "Optimisation", "Rollout"},
    "numbers that are reported": {"COMMON", "Metric"},
    "environments": {"BoxSpace", "DiscreteSpace", "MultiDiscreteSpace", "Worlds"},
    "what is observed": {"ArraySpace", "CodeSpace", "FloatSpace", "MaskSpace", "Part", "PartsSpace"},
    "hooks": {"Hook", "RunInfo"},
    "networks": {"Network", "Spaces"},
}


def test_the_public_names_are_these() -> None:
    assert set(rattle.extend.__all__) == set().union(*NAMES.values())
    assert set(rattle.extend.__all__) <= set(dir(rattle.extend))


@pytest.mark.parametrize("name", sorted(set().union(*NAMES.values()) - {"COMMON"}))
def test_each_is_documented(name: str) -> None:
    found = getattr(rattle.extend, name)
    assert found.__doc__
    methods = [value for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
    assert all(method.__doc__ for method in methods if getattr(method, "__module__", "").startswith("rattle"))


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"rattle\.extend"):
        _ = rattle.extend.Nothing


def test_importing_it_and_an_algorithm_imports_no_pytorch() -> None:
    code = "import sys, rattle.extend; rattle.extend.A2C, rattle.extend.Hook; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_use_public_names_only(example: Path) -> None:
    text = example.read_text()
    assert len(text.splitlines()) <= 40
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imported if str(node.module).startswith("rattle")]
    assert {node.module for node in own} == {"rattle.extend"}
    assert {alias.name for node in own for alias in node.names} <= set(rattle.extend.__all__)
