"""Code of users, named as `module:Class` or by the name of an entry point: found, checked, and known by its source."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from rattle.errors import RattleError
from rattle.own_source import own_files, source_hash
from rattle.text import nearest, one_line, with_article

T = TypeVar("T")

#: Errors say no more characters.
_LONGEST_TEXT = 500
#: Methods of classes of others that their subclasses must write, and that are not abstract there.
_WRITTEN = {
    "gymnasium.Env": ("reset", "step"),
    "gymnasium.VectorEnv": ("reset", "step"),
    "pettingzoo.ParallelEnv": ("reset", "step"),
    "pettingzoo.AECEnv": ("reset", "step"),
}

#: What code that others wrote may raise at any time; its wish to end the process is one of them.
FOREIGN_ERRORS = (Exception, SystemExit)


class ExtensionError(RattleError):
    """A class of a user is missing, is of the wrong kind, or has raised something."""


class WrongResult(Exception):
    """A user's code has handed out something else than it should: says what, after "METHOD returned"."""

    def __init__(self, text: str, method: str | None = None) -> None:
        super().__init__(text)
        self.method = method


class Kind(NamedTuple):
    """A kind of thing that users write."""

    noun: str
    article: str

    @property
    def word(self) -> str:
        """Return the noun with its article."""
        return f"{self.article} {self.noun}"

    @property
    def group(self) -> str:
        """Return the group of entry points."""
        return f"rattle.{self.noun}s"

    def base(self, classes: tuple[type, ...]) -> str:
        """Say what a class of this kind is, as the end of a sentence; nothing where it may be any."""
        if classes == (object,):
            return ""
        names = " or ".join(f"{_public(each)}.{each.__name__}" for each in classes)
        return f": {self.word} is a subclass of {names}"


NETWORK = Kind("network", "a")
ALGORITHM = Kind("algorithm", "an")
ENVIRONMENT = Kind("environment", "an")
HOOK = Kind("hook", "a")
WRAPPER = Kind("wrapper", "a")


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
        """Return the hash of the file that defines it, as it was when the class was first asked for.

        It covers the files of the same package, or of the same folder, that this file imports.
        """
        return _source_hash(self.cls.__module__, self.path)

    @property
    def version(self) -> str | None:
        """Return the version of the package that it was installed with, None where it was not installed."""
        return _version(self.cls.__module__.partition(".")[0])

    @contextmanager
    def calling(self, method: str) -> Iterator[None]:
        """Turn what the block raises, but errors of Rattle's own, into an ExtensionError that names the method.

        Where another method of the class has raised it, that one is named.
        """
        try:
            yield
        except RattleError:
            raise
        except WrongResult as wrong:
            raise ExtensionError(f"{self.path}: {wrong.method or method} returned {wrong}") from wrong
        except FOREIGN_ERRORS as error:
            method, place = self._place(error, method)
            raise ExtensionError(f"{self.path}: {method} raised {what(error)}{place}") from error

    def _place(self, error: BaseException, method: str) -> tuple[str, str]:
        """Return the last method of the class that an error passed through, and the user's last line, for a message.

        Methods that only the user's own code calls are not counted: the one that called them is known to more readers.
        """
        place, own = "", _own_modules(self.cls.__module__)
        prefixes = tuple(f"{base.__qualname__}." for base in self.cls.__mro__ if base.__module__ in own)
        known = {name for base in self.cls.__mro__ if base.__module__ not in own for name in vars(base)}
        for frame in _frames(error, own):
            place = f" in {frame.file}, line {frame.line}"
            prefix = next(filter(frame.name.startswith, prefixes), frame.name)
            name = frame.name.removeprefix(prefix).partition(".")[0]
            if name in known or (name and frame.is_entry and not name.startswith("_")):
                method = name
        return method, place


def calling(extension: Extension[Any] | None, method: str) -> AbstractContextManager[None]:
    """Return `extension.calling(method)`, or nothing for what comes with Rattle."""
    return nullcontext() if extension is None else extension.calling(method)


def load(
    name: str, kind: Kind, bases: type[T] | Callable[[], tuple[type[T], ...]], built_in: Iterable[str] = ()
) -> Extension[T]:
    """Return the class that `module:Class`, or the name of an entry point of the kind's group, names.

    It is imported, and checked to be a subclass of one of `bases`, but not made; a function returns those when the
    module is there. `built_in` are names that mean something else, for the message. Raises ExtensionError.
    """
    place = name if ":" in name else _entry_point(name, kind, built_in)
    module, _, qualified = place.partition(":")
    if module.endswith(".py") or "/" in module:
        raise ExtensionError(f"'{one_line(name, 100)}' names a file: write the module as it is imported, without .py")
    if not module or not qualified or not all(part.isidentifier() for part in qualified.split(".")):
        raise ExtensionError(f"'{one_line(name, 100)}' names no class: write it as module:Class")
    found = _find(_import(module, qualified, kind), qualified, kind)
    wanted = (bases,) if isinstance(bases, type) else bases()
    if not isinstance(found, type):
        raise ExtensionError(f"'{place}' is no class, but {with_article(type(found).__name__)}{kind.base(wanted)}")
    if not issubclass(found, wanted) or found in wanted:
        raise ExtensionError(f"'{place}' is not {kind.word}{kind.base(wanted)}")
    if lacking := sorted(getattr(found, "__abstractmethods__", ())) or _not_written(found, wanted):
        missing = ", ".join(lacking)
        raise ExtensionError(f"'{place}' cannot be used: it does not define {missing}")
    extension: Extension[T] = Extension(name, found)  # type: ignore[arg-type]  # a class of one of `bases`
    _ = extension.sha256
    return extension


def is_not_needed(name: str, kind: Kind) -> bool:
    """Tell whether a class that learns can be left alone: this process has no PyTorch, so it learns nothing.

    Names without a class are left out.
    """
    return find_spec("torch") is None and (":" in name or name in entry_point_names(kind))


def import_module(module: str, role: str) -> ModuleType:
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
    place = "".join([f" in {frame.file}, line {frame.line}" for frame in _frames(error, (module,))][-1:])
    if isinstance(error, ModuleNotFoundError) or (
        isinstance(error, ImportError | TypeError | ValueError) and not place
    ):
        advice = "install the package that has it, or start in the folder that holds the module"
        return f"cannot import '{module}', which should {role} ({said(error)}{place}): {advice}"
    return f"cannot import '{module}', which should {role} ({what(error)}{place})"


def entry_point_names(kind: Kind) -> list[str]:
    """Return the short names that installed packages give to things of a kind."""
    return sorted(entry_points(group=kind.group).names)


def said(error: BaseException) -> str:
    """Return what an error says in one line, or its name where it says nothing."""
    return _text(error) or type(error).__name__


def what(error: BaseException) -> str:
    """Return the name of an error and what it says in one line."""
    text, name = _text(error), type(error).__name__
    return f"{name}: {text}" if text else name


def _text(error: BaseException) -> str:
    """Return what an error says in one line; nothing where its own `__str__` fails."""
    try:
        return one_line(_without_links(error), _LONGEST_TEXT)
    except FOREIGN_ERRORS:
        return ""


def _without_links(error: BaseException) -> str:
    """Return what an error says; of those of Pydantic what is wrong where, and no links."""
    if type(error).__name__ == "ValidationError" and type(error).__module__.partition(".")[0].startswith("pydantic"):
        wrong: list[dict[str, Any]] = error.errors(include_url=False)  # type: ignore[attr-defined]
        return "; ".join(": ".join([*map(str, each["loc"]), each["msg"]]) for each in wrong)
    return str(error).partition("\n\nFor further information visit")[0]


def _not_written(found: type, bases: tuple[type, ...]) -> list[str]:
    """Return which methods a class should have, and has as its base class has them, where they only raise."""
    own = [base for base in bases if issubclass(found, base)]
    wanted = {
        name: base for base in own for name in _WRITTEN.get(f"{base.__module__.partition('.')[0]}.{base.__name__}", ())
    }
    return [name for name, base in wanted.items() if getattr(found, name, None) is getattr(base, name)]


class _Frame(NamedTuple):
    """What an error passed through."""

    name: str  # of the function
    file: str
    line: int
    is_entry: bool  # whether code outside these modules called it, such as a loss that was handed over


def _frames(error: BaseException, modules: Container[str]) -> Iterator[_Frame]:
    """Yield what an error passed through in some modules, the innermost last."""
    trace, is_outside = error.__traceback__, True
    while trace is not None:
        code = trace.tb_frame.f_code
        is_inside = trace.tb_frame.f_globals.get("__name__") in modules
        if is_inside:
            yield _Frame(code.co_qualname, Path(code.co_filename).name, trace.tb_lineno, is_outside)
        trace, is_outside = trace.tb_next, not is_inside


def _own_modules(module: str) -> Container[str]:
    """Return a module and those of its own package or folder that it imports."""
    try:
        return own_files(module, _file_of(module))
    except (OSError, IndexError):
        return (module,)


def _entry_point(name: str, kind: Kind, built_in: Iterable[str]) -> str:
    """Return the `module:Class` that installed packages say a short name is."""
    places = {entry.value for entry in entry_points(group=kind.group, name=name)}
    if len(places) > 1:
        raise ExtensionError(f"'{name}' is the name of {' and of '.join(sorted(places))}: write the one that is meant")
    if not places:
        known = [*built_in, *entry_point_names(kind)]
        hint = nearest(name, known) or (f": there are {', '.join(known)}." if known else ".")
        raise ExtensionError(
            f"there is no {kind.noun} '{one_line(name, 100)}'{hint} A class of your own is named module:Class"
        )
    return places.pop().replace(" ", "")


def _import(module: str, qualified: str, kind: Kind) -> Any:
    return import_module(module, f"hold {kind.word}, {qualified}")


def _find(module: Any, qualified: str, kind: Kind) -> Any:
    found = module
    for part in qualified.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if isinstance(value, type)]
            hint = nearest(qualified, names)
            hint = hint or _shadowed(module) or f" that is {kind.word}"
            raise ExtensionError(f"'{module.__name__}' has no class '{qualified}'{hint}")
        found = getattr(found, part)
    return found


def _shadowed(module: Any) -> str:
    """Say where a module is from, if a file of that name lies in the current folder and is not it."""
    here, file = Path.cwd() / f"{module.__name__}.py", getattr(module, "__file__", None)
    is_other = here.exists() and (file is None or not here.samefile(file))
    return f": it is {file or 'built in'}, so call your own file something else" if is_other else ""


def _public(cls: type) -> str:
    """Return the module that users import a base class from."""
    return "rattle.extend" if cls.__module__.startswith("rattle.") else cls.__module__.partition(".")[0]


@cache
def _source_hash(module: str, path: str) -> str:
    try:
        return source_hash(module, _file_of(module))
    except (OSError, IndexError):
        raise ExtensionError(
            f"'{path}' cannot be used: the file that defines it cannot be read, and other processes need one to import"
        ) from None


def _file_of(module: str) -> Path:
    return Path(str(getattr(sys.modules.get(module), "__file__", None)))


def _version(package: str) -> str | None:
    names: Mapping[str, list[str]] = packages_distributions()
    return version(names[package][0]) if names.get(package) else None
