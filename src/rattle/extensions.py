"""Code of users, named as `module:Class` or by the name of an entry point: found, checked, and known by its source."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rattle.errors import RattleError
from rattle.text import nearest, one_line

T = TypeVar("T")

#: What code that others wrote may raise at any time; its wish to end the process is one of them.
FOREIGN_ERRORS = (Exception, SystemExit)


class ExtensionError(RattleError):
    """A class of a user is missing, is of the wrong kind, or has raised something."""


class Kind(NamedTuple):
    """A kind of thing that users write."""

    word: str  # with its article
    group: str  # of entry points

    def base(self, classes: tuple[type, ...]) -> str:
        """Say what a class of this kind is."""
        names = " or ".join(f"{_public(each)}.{each.__name__}" for each in classes)
        return f"{self.word} is a subclass of {names}"


NETWORK = Kind("a network", "rattle.networks")
ALGORITHM = Kind("an algorithm", "rattle.algorithms")
ENVIRONMENT = Kind("an environment", "rattle.environments")
HOOK = Kind("a hook", "rattle.hooks")


@dataclass(frozen=True)
class Extension(Generic[T]):
    """A class of a user."""

    name: str  # as the user gave it
    cls: type[T]

    @property
    def path(self) -> str:
        """Return where it is: `module:Class`."""
        return f"{self.cls.__module__}:{self.cls.__qualname__}"

    @property
    def sha256(self) -> str:
        """Return the hash of the file that defines it, as it was when the class was first asked for."""
        return _source_hash(self.cls.__module__, self.path)

    @property
    def version(self) -> str | None:
        """Return the version of the package that it was installed with, None where it was not installed."""
        return _version(self.cls.__module__.partition(".")[0])

    @contextmanager
    def calling(self, method: str) -> Iterator[None]:
        """Turn what the block raises, but errors of Rattle's own, into an ExtensionError that names the method."""
        try:
            yield
        except RattleError:
            raise
        except FOREIGN_ERRORS as error:
            where = _where(error, self.cls.__module__)
            raise ExtensionError(f"{self.path}: {method} raised {what(error)}{where}") from error


def load(name: str, kind: Kind, bases: type[T] | tuple[type[T], ...], built_in: Iterable[str] = ()) -> Extension[T]:
    """Return the class that `module:Class`, or the name of an entry point of the kind's group, names.

    It is imported, and checked to be a subclass of one of `bases`, but not made. `built_in` are names that mean
    something else, for the message. Raises ExtensionError.
    """
    place = name if ":" in name else _entry_point(name, kind, built_in)
    module, _, qualified = place.partition(":")
    if not module or not qualified or not all(part.isidentifier() for part in qualified.split(".")):
        raise ExtensionError(f"'{one_line(name, 100)}' names no class: write it as module:Class")
    found = _find(_import(module, qualified, kind), qualified, kind)
    bases = bases if isinstance(bases, tuple) else (bases,)
    if not isinstance(found, type):
        raise ExtensionError(f"'{place}' is no class, but a {type(found).__name__}: {kind.base(bases)}")
    if not issubclass(found, bases) or found in bases:
        raise ExtensionError(f"'{place}' is not {kind.word}: {kind.base(bases)}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ExtensionError(f"'{place}' cannot be used: it does not define {missing}")
    extension = Extension(name, found)
    _ = extension.sha256
    return extension


def import_module(module: str, role: str) -> Any:
    """Import a module "which should" play its `role`, from the current folder too; raises ExtensionError.

    The current folder stays at the end of the path: what the module imports later is found there as well.
    """
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except FOREIGN_ERRORS as error:  # TypeError: a relative name; ValueError: an empty one
        raise ExtensionError(cannot_import(module, role, error)) from error


def cannot_import(module: str, role: str, error: BaseException) -> str:
    """Return what to say of a module "which should" play its `role` and could not be imported."""
    if isinstance(error, ImportError | TypeError | ValueError):
        advice = "install the package that has it, or start in the folder that holds the module"
        return f"cannot import '{module}', which should {role} ({said(error)}): {advice}"
    return f"cannot import '{module}', which should {role} ({what(error)}{_where(error, module)})"


def entry_point_names(kind: Kind) -> list[str]:
    """Return the short names that installed packages give to things of a kind."""
    return sorted(entry_points(group=kind.group).names)


def said(error: BaseException) -> str:
    """Return what an error says in one line, or its name where it says nothing."""
    return one_line(error) or type(error).__name__


def what(error: BaseException) -> str:
    """Return the name of an error and what it says in one line."""
    text, name = one_line(error), type(error).__name__
    return f"{name}: {text}" if text else name


def _where(error: BaseException, module: str) -> str:
    """Return the last line of a module that an error passed through, for a message."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == module:
            place = f" in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _entry_point(name: str, kind: Kind, built_in: Iterable[str]) -> str:
    """Return the `module:Class` that installed packages say a short name is."""
    places = {entry.value for entry in entry_points(group=kind.group, name=name)}
    if len(places) > 1:
        raise ExtensionError(f"'{name}' is the name of {' and of '.join(sorted(places))}: write the one that is meant")
    if not places:
        known = [*built_in, *entry_point_names(kind)]
        hint = nearest(name, known) or (f", there are {', '.join(known)}" if known else "")
        raise ExtensionError(f"there is not {kind.word} '{one_line(name, 100)}'{hint}; a class is named module:Class")
    return places.pop().replace(" ", "")


def _import(module: str, qualified: str, kind: Kind) -> Any:
    return import_module(module, f"hold {kind.word}, {qualified}")


def _find(module: Any, qualified: str, kind: Kind) -> Any:
    found = module
    for part in qualified.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if isinstance(value, type)]
            hint = nearest(qualified, names)
            raise ExtensionError(f"'{module.__name__}' has no class '{qualified}'{hint or f' that is {kind.word}'}")
        found = getattr(found, part)
    return found


def _public(cls: type) -> str:
    """Return the module that users import a base class from."""
    return "rattle.extend" if cls.__module__.startswith("rattle.") else cls.__module__.partition(".")[0]


@cache
def _source_hash(module: str, path: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    try:
        return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()
    except OSError:
        raise ExtensionError(
            f"'{path}' cannot be used: the file that defines it cannot be read, and other processes need one to import"
        ) from None


def _version(package: str) -> str | None:
    names: Mapping[str, list[str]] = packages_distributions()
    return version(names[package][0]) if names.get(package) else None
