"""Environments that others wrote: their modules, their settings, and what to say when they cannot be made."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from numpy.typing import NDArray

from rattle.envs import wrappers
from rattle.envs.errors import EnvError, NotImported
from rattle.extensions import FOREIGN_ERRORS, ExtensionError, import_module, said, what
from rattle.samples.spaces import (
    MOST_CODES,
    ActionSpace,
    BoxSpace,
    DiscreteSpace,
    MultiDiscreteSpace,
)
from rattle.text import one_line, with_article

#: Settings by which `gymnasium.make` would take code, or the name of code, to run.
_NAMES_OF_CODE = frozenset({"entry_point", "vector_kwargs", "vectorization_mode"})
#: Settings that would open windows on this machine.
_NAMES_OF_WINDOWS = frozenset({"render_mode"})


#: Kinds of arrays that hold numbers.
NUMBERS = frozenset("fiub")


#: What foreign code is asked for.
Asked = Literal["make", "reset", "step", "close"]
_listener: Callable[[Asked], object] | None = None


def listen(listener: Callable[[Asked], object]) -> None:
    """Have someone told what foreign code is asked for from now on: it may end the process, or hang."""
    global _listener
    _listener = listener


def asking(what: Asked) -> None:
    """Say what foreign code is asked for next, to whom listens."""
    if _listener is not None:
        _listener(what)


#: Folders that packages are installed in, and the one of Python's own modules.
_PACKAGES = frozenset({"site-packages", "dist-packages"})
_STANDARD = Path(warnings.__file__).parent.name
#: Packages whose lines say nothing of an environment.
_CALLERS = frozenset({"rattle", "gymnasium", "pettingzoo", "numpy"})


class WrongValue(ValueError):
    """An environment handed out something else than it declared."""


def import_named(environment: str, module: str, role: str, *, allow_imports: bool) -> ModuleType:
    """Return the module that an environment's name names, "which should" play its `role`.

    Raises EnvError when it cannot be imported, and with `allow_imports` false NotImported unless this process has
    imported it.
    """
    if allow_imports:
        try:
            return import_module(module, role)
        except ExtensionError as error:
            raise EnvError(str(error)) from error.__cause__
    if module not in sys.modules:
        raise NotImported(f"'{environment}' names the module '{module}', which is not imported because a file says so")
    return sys.modules[module]


def check_harmless(environment: str, settings: Mapping[str, Any], trusted: Mapping[str, Any] | None = None) -> None:
    """Raise EnvError unless all settings are plain JSON values and none is a name by which code is handed over.

    Wrappers must be harmless ones of Gymnasium, or be among the `trusted` settings: see `check_harmless_wrappers`.
    """
    for name, value in settings.items():
        if name in _NAMES_OF_CODE | _NAMES_OF_WINDOWS:
            raise EnvError(f"'{environment}' may not be given '{name}' from outside: take it out of the settings")
        if not _is_json(value):
            kind = type(value).__name__
            raise EnvError(f"'{environment}' may not be given '{name}' from outside: {kind} is no plain JSON value")
    if wrappers.KEY in settings:
        own = (trusted or {}).get(wrappers.KEY, ())
        wrappers.check_harmless_wrappers(environment, settings[wrappers.KEY], own)


def _cannot_make(environment: str, settings: Mapping[str, Any], error: BaseException) -> EnvError:
    """Return what to say about one of FOREIGN_ERRORS that the making of an environment raised."""
    if isinstance(error, EnvError):
        return error
    if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
        return EnvError(f"'{environment}' needs a package that is not installed: {said(error)}")
    given = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "its defaults"
    return EnvError(f"'{environment}' cannot be made with {given}: {said(error)}{_advice_on_windows(error)}")


def _advice_on_windows(error: BaseException) -> str:
    """Return what helps where pygame opens no window, as on machines without a display; nothing for other errors."""
    if type(error).__module__.partition(".")[0] != "pygame":
        return ""
    return ": where there is no display, leave out render_mode, or set SDL_VIDEODRIVER=dummy"


def make_one(environment: str, make: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Make one environment; raises EnvError for settings that it does not take and packages that it misses."""
    asking("make")
    try:
        return make(**settings)
    except FOREIGN_ERRORS as error:
        raise _cannot_make(environment, settings, error) from error


def cannot_describe(environment: str, error: BaseException) -> EnvError:
    """Return what to say about one of FOREIGN_ERRORS that came when an environment was asked for agents and spaces."""
    return EnvError(f"'{environment}' cannot say what its agents observe and do: {what(error)}")


def close_all(environment: str, envs: Iterable[Any]) -> None:
    """Close environments; one that cannot is said to, and harms nothing: it has been played."""
    asking("close")
    for env in envs:
        try:
            env.close()
        except FOREIGN_ERRORS as error:
            warnings.warn(f"'{environment}': close raised {what(error)}", stacklevel=2)


def failed(environment: str, world: int | range, doing: str, error: BaseException) -> EnvError:
    """Return what to say, in one line, of one of FOREIGN_ERRORS that came while a world was `doing` something.

    Where worlds are stepped in one call, it is a range of worlds.
    """
    of = f"'{environment}', " + (f"world {world}" if isinstance(world, int) else f"worlds {world[0]} to {world[-1]}")
    if isinstance(error, WrongValue):
        return EnvError(f"{of}: {doing} handed out {error}")
    advice = _advice_on_windows(error)
    if isinstance(error, TypeError) and doing == "reset" and "unexpected keyword argument" in str(error):
        advice = ": an environment's reset must take the keywords seed and options"
    return EnvError(f"{of}: {doing} raised {what(error)}{_place(error)}{advice}")


def _place(error: BaseException) -> str:
    """Return the last line of the environment's own code that an error passed through, for a message.

    That is the innermost one that is in no package, or else in one that is not among those that call environments.
    """
    own, of_packages = "", ""
    trace = error.__traceback__
    while trace is not None:
        module, file = str(trace.tb_frame.f_globals.get("__name__")), Path(trace.tb_frame.f_code.co_filename)
        place = f" in {file.name}, line {trace.tb_lineno}"
        if module.partition(".")[0] in _CALLERS or _STANDARD in file.parts[-2:]:
            pass
        elif _PACKAGES.isdisjoint(file.parts):
            own = place
        else:
            of_packages = place
        trace = trace.tb_next
    return own or of_packages


def action_space(name: str, space: Any) -> ActionSpace:
    """Return the actions of one of Gymnasium's spaces, counted from 0; raises EnvError for those that cannot be had."""
    if space is None:
        raise EnvError(
            f"'{name}' has no action_space: set it in __init__; that of a wrapper must call super().__init__(env)"
        )
    if isinstance(space, Discrete):
        return DiscreteSpace(n=int(space.n))
    try:
        if isinstance(space, Box) and space.dtype is not None and space.dtype.kind == "f":
            return BoxSpace.of(space.low, space.high)
        if (counts := _counts(space)) is not None:
            return MultiDiscreteSpace(sizes=tuple(counts.ravel().tolist()))
    except ValueError as error:
        raise EnvError(f"'{name}' takes actions from {one_line(space, 300)}: {said(error)}") from None
    raise EnvError(
        f"'{name}' takes actions from {one_line(space, 300)}: only Discrete, MultiDiscrete and MultiBinary ones, and a "
        f"Box of floats or of whole numbers of at most {MOST_CODES} values each, can be trained, so choose an "
        "environment that has them, or register it wrapped in a gymnasium.ActionWrapper"
    )


def _counts(space: Any) -> NDArray[Any] | None:
    """Return how many values each of several whole numbers has, in the space's shape; None for other spaces."""
    if isinstance(space, MultiBinary):
        return np.full(space.shape, 2)
    if isinstance(space, MultiDiscrete):
        return space.nvec
    if isinstance(space, Box) and space.dtype is not None and space.dtype.kind in "iu":
        counts: NDArray[Any] = space.high.astype(object) - space.low.astype(object) + 1  # which cannot overflow
        return counts if (counts <= MOST_CODES).all() else None
    return None


def as_taken(rows: NDArray[Any], space: Space[Any]) -> NDArray[Any]:
    """Return actions (..., *row) as one of Gymnasium's spaces has them: counted from its start, within its bounds."""
    if isinstance(space, Discrete):
        counted: NDArray[Any] = np.add(rows, int(space.start), dtype=np.int64)
        return counted
    if isinstance(space, Box) and rows.dtype.kind == "f":
        bounded: NDArray[Any] = np.clip(rows, space.low, space.high).astype(space.dtype, copy=False)
        return bounded
    least = space.low if isinstance(space, Box) else getattr(space, "start", 0)  # a MultiBinary has no start
    numbers = rows.reshape(*rows.shape[:-1], *(space.shape or ()))
    taken: NDArray[Any] = np.add(numbers, least, dtype=np.int64, casting="unsafe").astype(space.dtype, copy=False)
    return taken


def one_by_one(actions: NDArray[Any], space: Space[Any]) -> Iterable[Any]:
    """Return actions (A, ...) one by one: those of a Box are arrays even where they are single numbers."""
    return [actions[number, ...] for number in range(len(actions))] if isinstance(space, Box) else actions


def check_same_actions(space: Any, first: Any) -> None:
    """Raise WrongValue when an episode takes other actions than those that the first world took at the start."""
    if space != first:
        raise WrongValue(f"the action space {one_line(space, 100)}, but it was {one_line(first, 100)} at the start")


def as_number(value: Any, what: str) -> float:
    """Return a number, or the one number of an array, as a float; raises WrongValue."""
    if type(value) is float:
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in NUMBERS:
        raise WrongValue(f"{with_article(what)} that is not one number: {one_line(repr(value), 80)}")
    return float(array.reshape(-1)[0])


def as_flag(value: Any, what: str) -> bool:
    """Return a truth value, or the one of an array; raises WrongValue."""
    return value if type(value) is bool else bool(as_number(value, what))


def observed(answer: Any, is_observation: Callable[[Any], bool]) -> tuple[Any, Any]:
    """Return the observation and the infos that a reset answers, or an observation alone and no infos."""
    if isinstance(answer, tuple) and len(answer) == 2 and (isinstance(answer[1], Mapping) or is_observation(answer[0])):
        return answer
    return answer, {}


def parts_of_step(answer: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return the five things that a step answers; raises WrongValue."""
    if not isinstance(answer, tuple | list) or len(answer) != 5:
        got = f"{len(answer)} values" if isinstance(answer, tuple | list) else type(answer).__name__
        raise WrongValue(f"{got} instead of the five observation, reward, terminated, truncated and info")
    return answer  # type: ignore[return-value]


def _is_json(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_json(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(entry) for key, entry in value.items())
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
