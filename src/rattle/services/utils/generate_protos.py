"""Generates code and type stubs from the protocol buffer definitions; `--check` says whether they are current.

`make protos` writes the files and `make lint` checks them. Needs the packages grpcio-tools and mypy-protobuf.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

SOURCE_ROOT = Path(__file__).parents[3]
PROTOS = Path(__file__).parent / "protos"
_GENERATED = "*_pb2*.py*"


def generate(target: Path) -> None:
    """Write the generated files of every definition below `target`, at the path of their package."""
    from grpc_tools import protoc

    plugins = Path(sys.executable).parent
    definitions = sorted(str(path) for path in PROTOS.glob("*.proto"))
    arguments = [
        "protoc",
        f"--proto_path={SOURCE_ROOT}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        *(f"--{kind}_out={target}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")),
        *definitions,
    ]
    if protoc.main(arguments):
        raise click.ClickException("protoc has refused the definitions")


def stale() -> list[str]:
    """Return the names of generated files that are missing, out of date or left over."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = {path.name: path.read_bytes() for path in (Path(folder) / PROTOS.relative_to(SOURCE_ROOT)).iterdir()}
    here = {path.name: path.read_bytes() for path in PROTOS.glob(_GENERATED)}
    return sorted(name for name in fresh.keys() | here.keys() if fresh.get(name) != here.get(name))


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail when the files are not current.")
def main(check: bool) -> None:
    """Generate code from the protocol buffer definitions."""
    if not check:
        generate(SOURCE_ROOT)
    elif names := stale():
        raise click.ClickException(f"not current: {', '.join(names)}; run 'make protos' and commit what it writes")


if __name__ == "__main__":
    main()
