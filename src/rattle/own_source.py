"""The source of a user's module, with the modules of the user's own package or folder that it imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

#: Folders that hold packages of many owners: there a module's own package alone is the user's.
_SHARED_FOLDERS = frozenset(("site-packages", "dist-packages"))


def source_hash(module: str, file: Path) -> str:
    """Return the SHA-256 of a module's file, or of all own files that it imports too, wherever they import each other.

    Imports are read, not made, so those within functions count as well. Raises OSError where a file cannot be read.
    """
    files = own_files(module, file)
    if len(files) == 1:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    parts = (f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for name, path in sorted(files.items()))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def own_files(module: str, file: Path) -> dict[str, Path]:
    """Return a module's file, and those of own modules that it imports, by the modules' names."""
    root = file.parents[module.count(".") + (file.name == "__init__.py")]
    package = module.partition(".")[0]
    own = f"{package}." if root.name in _SHARED_FOLDERS else ""
    found: dict[str, Path] = {}
    left = [*_with_parents(module)]
    while left:
        name = left.pop()
        is_own = f"{name}.".startswith(own) and name.partition(".")[0] != "rattle"
        path = file if name == module else _file_of(root, name) if is_own else None
        if path is not None and name not in found:
            found[name] = path
            left += [part for one in _imports(name, path) for part in _with_parents(one)]
    return found


def _with_parents(module: str) -> Iterator[str]:
    """List a module and the packages that it is in, which are imported with it."""
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _file_of(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next((path for path in (place / "__init__.py", place.with_name(f"{place.name}.py")) if path.is_file()), None)


def _imports(module: str, path: Path) -> Iterator[str]:
    """List what a file imports, by absolute names; a name that is taken from a module may be a module itself."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # of a file that nothing has imported yet
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*filter(None, above), *([node.module] if node.module else [])])
            if origin:
                yield origin
            yield from (f"{origin}.{alias.name}" if origin else alias.name for alias in node.names)
