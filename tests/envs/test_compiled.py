"""Kernels compile wherever they are installed, with a place for compiled code or without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import rattle
from rattle.envs.compiled import compiled


def test_what_cannot_be_cached_is_compiled_all_the_same() -> None:
    names: dict[str, Any] = {}
    exec("def double(x): return 2 * x", names)  # noqa: S102 - a function without a file has no place in the cache
    assert compiled(names["double"])(21) == 42


def test_an_installation_that_cannot_be_written_is_imported(tmp_path: Path) -> None:
    """Files stand where the cache's folders would be: that stops even an administrator's process."""
    package = tmp_path / "rattle"
    shutil.copytree(Path(rattle.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (folder / "__pycache__").touch()
    program = (
        "from rattle.envs.snake import kernel; from rattle.policies.mlp import kernel as acting;"
        "print(kernel.__file__, kernel.step.stats.cache_path, acting.act.stats.cache_path)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    environment |= {"HOME": "/dev/null", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [f"{package}/envs/snake/kernel.py", "None", "None"], done.stderr


def test_an_installation_that_cannot_be_written_has_the_code_that_it_came_with(tmp_path: Path) -> None:
    """As in an image: compiled when it was installed, and run by a process that may write elsewhere only."""
    (tmp_path / "installed").mkdir()
    module = tmp_path / "installed" / "double.py"
    module.write_text(
        "from rattle.envs.compiled import compiled\n\n@compiled\ndef double(x):\n    return 2 * x\n\n"
        "print(double(21), sum(double.stats.cache_hits.values()))\n"
    )
    here = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}

    def run(**more: str) -> list[str]:
        done = subprocess.run([sys.executable, module], capture_output=True, text=True, env={**here, **more})
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    elsewhere = {"NUMBA_CACHE_DIR": str(tmp_path / "elsewhere")}
    assert run() == ["42", "0"]
    assert run(**elsewhere) == ["42", "1"]
    assert not list((tmp_path / "elsewhere").rglob("*.nbc"))
    module.write_text(module.read_text().replace("2 * x", "3 * x"))
    assert run(**elsewhere) == ["63", "0"]


def test_a_cache_that_takes_no_more_stops_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, numpy as np\n"
        "from rattle.policies import sampling\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "print(sampling._make_up(np.ones(1, np.int64), 1))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout == "True\n", done.stderr


def test_code_that_was_stored_for_other_types_is_not_run(tmp_path: Path) -> None:
    """Two processes that compile at the same time may write to the same file of the cache."""
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "from rattle.envs.compiled import compiled\n\n"
        "@compiled\ndef first(array):\n    return array[0]\n\n"
        "print(first(np.array([3])), first(np.array([0.5])), sum(first.stats.cache_hits.values()))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> list[str]:
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert [run(), run()] == [["3", "0.5", "0"], ["3", "0.5", "2"]]
    one, other = sorted((tmp_path / "cache").rglob("*.nbc"))
    whole = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(whole)
    assert [run(), run()] == [["3", "0.5", "0"], ["3", "0.5", "2"]]


def test_code_whose_types_have_other_names_by_now_is_compiled_anew(tmp_path: Path) -> None:
    """As after an update in place: the index of the stored code names a class that is gone."""
    module = tmp_path / "add.py"
    module.write_text(
        "from typing import NamedTuple\nfrom rattle.envs.compiled import compiled\n\n"
        "class Pair(NamedTuple):\n    a: int\n    b: int\n\n"
        "@compiled\ndef add(pair):\n    return pair.a + pair.b\n"
    )
    program = "import add; print(add.add(add.{}(40, 2)), sum(add.add.stats.cache_hits.values()))"
    here = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}

    def run(name: str, **more: str) -> list[str]:
        command = [sys.executable, "-c", program.format(name)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**here, **more})
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert run("Pair") == ["42", "0"]
    assert run("Pair") == ["42", "1"]
    module.write_text(module.read_text().replace("Pair", "Two"))
    assert run("Two", NUMBA_CACHE_DIR=str(tmp_path / "elsewhere")) == ["42", "0"]  # beside what it came with
    assert run("Two") == ["42", "0"]
    assert run("Two") == ["42", "1"]
