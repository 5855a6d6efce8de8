"""Nothing in the package unpickles, or runs code that it was given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rattle

SOURCES = sorted(Path(rattle.__file__).parent.rglob("*.py"))

UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
#: Attributes that unpickle, or can be told to, by the last two parts of their dotted name.
UNSAFE_ATTRIBUTES = {
    *(f"{module}.load" for module in ("torch", "yaml")),
    *(f"yaml.{kind}load{more}" for kind in ("full_", "unsafe_") for more in ("", "_all")),
    *(f"pandas.read_{kind}" for kind in ("pickle", "hdf")),
    *(f"pd.read_{kind}" for kind in ("pickle", "hdf")),
    "hub.load",
    "jit.load",
}


def offences(tree: ast.AST) -> Iterator[str]:
    """Yield what in a module could run code from outside."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases if alias.name.split(".")[0] in UNSAFE_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNSAFE_MODULES:
                yield module
            case ast.ImportFrom(module=str(module), names=aliases):
                names = {f"{module.split('.')[-1]}.{alias.name}" for alias in aliases}
                yield from sorted(names & UNSAFE_ATTRIBUTES)
            case ast.Attribute() if ".".join(ast.unparse(node).split(".")[-2:]) in UNSAFE_ATTRIBUTES:
                yield ast.unparse(node)
            case ast.Name(id=name) if name in UNSAFE_CALLS:
                yield name
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                yield "allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_the_package_runs_nothing_that_it_is_given(path: Path) -> None:
    assert list(offences(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import torch, pickle as p",
        "from pickle import loads",
        "from joblib.externals import cloudpickle",
        "import cloudpickle",
        "torch.load('x')",
        "from torch import load",
        "torch.jit.load('x')",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "yaml.load(text, yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "eval('1')",
        "run = exec",
    ],
)
def test_the_check_finds(code: str) -> None:
    assert list(offences(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["re.compile('x')", "yaml.safe_load(text)", "np.load('x', allow_pickle=False)", "model.eval()"]
)
def test_the_check_lets_pass(code: str) -> None:
    assert not list(offences(ast.parse(code)))
