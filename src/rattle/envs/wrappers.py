"""Wrappers of environments, by name: found, checked, and put around each environment that is made."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

import gymnasium
from pydantic import BaseModel, Field

from rattle.envs.errors import EnvError, NotImported
from rattle.envs.validation import StrictSettings, UsedClass, constructor_model, types_in, validated
from rattle.extensions import FOREIGN_ERRORS, WRAPPER, Extension, ExtensionError, import_module, load, what

#: The key in an environment's settings.
KEY = "wrappers"
MOST_WRAPPERS = 16

#: Wrappers of Gymnasium that a stranger may name: they write no files, open no windows, and keep little.
_HARMLESS = frozenset(
    {
        "AtariPreprocessing",
        "ClipAction",
        "ClipReward",
        "DelayObservation",
        "DiscretizeAction",
        "DiscretizeObservation",
        "DtypeObservation",
        "FilterObservation",
        "FlattenObservation",
        "FrameStackObservation",
        "GrayscaleObservation",
        "MaxAndSkipObservation",
        "NormalizeObservation",
        "NormalizeReward",
        "OrderEnforcing",
        "RepeatAction",
        "RescaleAction",
        "RescaleObservation",
        "ReshapeObservation",
        "ResizeObservation",
        "StickyAction",
        "TimeAwareObservation",
        "TimeLimit",
    }
)
#: Whole numbers in a stranger's wrappers, all multiplied: they repeat steps, and say how large observations are.
_MOST_WORK = 2**20
#: Whole numbers that cost nothing, however large.
_FREE = frozenset({"max_episode_steps"})


class WrapperSection(UsedClass):
    """A wrapper, and its own settings in addition to `use`."""

    use: str = Field(
        description="The name of one of gymnasium.wrappers, such as FrameStackObservation, or module:Class. For "
        "pettingzoo:MODULE, the name of one of pettingzoo.utils.wrappers: a parallel one, or one for games in turns."
    )


class _Wrappers(StrictSettings):
    wrappers: tuple[WrapperSection, ...] = Field((), max_length=MOST_WRAPPERS)


@dataclass(frozen=True)
class Face:
    """The interface of the environments that wrappers go around."""

    package: str  # that brings wrappers of its own
    find_bases: Callable[[], tuple[type, ...]]  # that all wrappers are subclasses of one of

    def find(self, use: str) -> Extension[Any]:
        """Return a wrapper's class by `module:Class`, or its name in the package; raises ExtensionError."""
        brought = import_module(self.package, "bring wrappers")
        known = sorted(name for name, value in vars(brought).items() if isinstance(value, type))
        return load(f"{self.package}:{use}" if use in known else use, WRAPPER, self.find_bases, known)


def _of_pettingzoo() -> tuple[type, ...]:
    from pettingzoo.utils.wrappers import BaseParallelWrapper, BaseWrapper

    return BaseParallelWrapper, BaseWrapper


GYMNASIUM = Face("gymnasium.wrappers", lambda: (gymnasium.Wrapper,))
PETTINGZOO = Face("pettingzoo.utils.wrappers", _of_pettingzoo)


def checked(given: Any, face: Face, environment: str) -> list[dict[str, Any]]:
    """Return the wrappers in an environment's settings in one form; raises EnvError."""
    return [{"use": one.use, **one.plain} for one in _found(given, face, environment)]


def wrapping(environment: str, make: Callable[..., Any], settings: Mapping[str, Any], face: Face) -> Callable[..., Any]:
    """Return what makes an environment of its settings and puts the wrappers among them around it.

    The first one is the innermost. Raises EnvError, as what is returned does, for wrappers that there are not and that
    do not fit.
    """
    found = list(_found(settings.get(KEY, ()), face, environment))

    def made(**given: Any) -> Any:
        env = make(**{name: value for name, value in given.items() if name != KEY})
        for wrapper in found:
            env = wrapper.around(env, environment)
        return env

    return made


def extensions(given: Any, face: Face, environment: str) -> list[Extension[Any]]:
    """Return the classes of users among the wrappers in an environment's settings; raises EnvError."""
    return [one.extension for one in _found(given, face, environment) if not one.comes_with(face)]


def check_harmless_wrappers(environment: str, given: Any, trusted: Sequence[Any] = ()) -> None:
    """Raise EnvError unless a stranger's wrappers are `trusted` ones, or harmless ones of Gymnasium.

    A class of a user raises NotImported: who asked may name the environment, and so trust it.
    """
    work = 1
    for number, section in enumerate(_sections(given, environment)):
        if section.model_dump(mode="json") in trusted:
            continue
        name = section.use.removeprefix(f"{GYMNASIUM.package}:")
        where = f"'{environment}': {KEY}[{number}]"
        if ":" in name or name not in vars(gymnasium.wrappers):
            raise NotImported(f"{where} names '{section.use}', which is not imported because a file says so")
        if name not in _HARMLESS:
            raise EnvError(f"{where} may not be '{name}' from outside: take it out of the settings")
        sizes = _whole_numbers({key: value for key, value in section.own_settings.items() if key not in _FREE})
        work *= math.prod(max(1, abs(size)) for size in sizes)
        if work > _MOST_WORK:
            raise EnvError(
                f"{where} may not be so large from outside: the whole numbers in wrappers, multiplied, come to more "
                f"than {_MOST_WORK:,}"
            )


def takes_turns(env: Any) -> bool:
    """Whether an environment, or a class of them, is one of PettingZoo's turn-based ones; who has one imported it."""
    turn_based = getattr(sys.modules.get("pettingzoo"), "AECEnv", None)
    return turn_based is not None and issubclass(env if isinstance(env, type) else type(env), turn_based)


@dataclass(frozen=True)
class _Wrapper:
    use: str  # as it was given
    place: str
    extension: Extension[Any]
    own: BaseModel

    @property
    def plain(self) -> dict[str, Any]:
        """Return its settings as JSON has them."""
        return self.own.model_dump(mode="json", exclude_unset=True)

    def comes_with(self, face: Face) -> bool:
        """Whether it is one of the package that the interface is from."""
        package = face.package.partition(".")[0]
        return self.extension.cls.__module__.partition(".")[0] == package

    def around(self, env: Any, environment: str) -> Any:
        """Return an environment in the wrapper."""
        if (in_turns := takes_turns(env)) != takes_turns(self.extension.cls):
            kinds = ("a game in turns", "parallel ones") if in_turns else ("a parallel game", "games in turns")
            raise EnvError(f"'{environment}' is {kinds[0]}, and {self.extension.name}, {self.place}, is for {kinds[1]}")
        try:
            with warnings.catch_warnings():  # numbers of settings are always double
                warnings.filterwarnings("ignore", ".*precision lowered by casting")
                return self.extension.cls(env, **self.own.model_dump(exclude_unset=True))
        except FOREIGN_ERRORS as error:
            given = ", ".join(f"{key}={value!r}" for key, value in self.plain.items())
            told = f" with {given}" if given else ""
            raise EnvError(
                f"'{environment}' cannot be wrapped in {self.extension.name}{told}, {self.place}: {what(error)}"
            ) from error


def _found(given: Any, face: Face, environment: str) -> Iterator[_Wrapper]:
    for number, section in enumerate(_sections(given, environment)):
        place = f"{KEY}[{number}]"
        try:
            extension = face.find(section.use)
            own = validated(_model(extension, section.own_settings), section.own_settings, extension.name, ("use",))
        except (ExtensionError, EnvError) as error:
            raise EnvError(f"{place}: {error}") from error.__cause__
        yield _Wrapper(section.use, place, extension, own)


def _sections(given: Any, environment: str) -> tuple[WrapperSection, ...]:
    return validated(_Wrappers, {KEY: given}, environment).wrappers


def _model(extension: Extension[Any], given: Mapping[str, Any]) -> type[BaseModel]:
    """Return the settings of a wrapper: what its constructor takes next to the environment; raises EnvError.

    A wrapper is refused where it must be handed a function or a space, or is `given` one: settings have none.
    """
    model = constructor_model(extension, skip=1)
    for name, field in model.model_fields.items():
        thing = next((thing for part in types_in(field.annotation) if (thing := _what_is_no_setting(part))), None)
        if thing is not None and (field.is_required() or name in given):
            raise EnvError(
                f"{extension.name} takes {thing}, '{name}', which settings cannot say: write a wrapper of your own, "
                "and name it as module:Class"
            )
    return model


def _what_is_no_setting(annotation: Any) -> str | None:
    origin = get_origin(annotation) or annotation
    if origin is Callable:
        return "a function"
    return "a space" if isinstance(origin, type) and issubclass(origin, gymnasium.Space) else None


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _whole_numbers(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _whole_numbers(part)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
