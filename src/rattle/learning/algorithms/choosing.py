"""From settings to an algorithm: one that comes with Rattle, or a user's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import Field, TypeAdapter, ValidationError, create_model

from rattle.extensions import ALGORITHM, Extension, ExtensionError, WrongResult, is_not_needed, load
from rattle.learning.algorithms.a2c import A2C
from rattle.learning.algorithms.algorithm import Algorithm
from rattle.learning.algorithms.named import NamedAlgorithm
from rattle.learning.algorithms.ppo import PPO
from rattle.learning.algorithms.reinforce import Reinforce
from rattle.learning.metrics import COLUMNS, check_metrics

_ID = Algorithm.model_fields["id"].description
#: By id: the algorithms that come with Rattle.
BUILT_IN: Mapping[str, type[Algorithm]] = {str(each.model_fields["id"].default): each for each in (A2C, PPO, Reinforce)}


def choose(section: Any) -> Algorithm:
    """Return the algorithm that a section of settings is of; raises ValidationError and, with its name, ExtensionError.

    A class of a user gets the `id` by which it was found as a setting, as the others have. Without PyTorch it is not
    asked for: its settings are then left as they are.
    """
    if isinstance(section, Algorithm):
        return section
    name = section.get("id") if isinstance(section, Mapping) else None
    if isinstance(name, str) and name not in BUILT_IN and is_not_needed(name, ALGORITHM):
        return NamedAlgorithm.model_construct(**section)
    try:
        chosen = find(name) if isinstance(name, str) else None
    except ExtensionError as error:
        raise ExtensionError(f"algorithm.id: {error}") from error
    if chosen is None or chosen.extension is None:
        return _sections().validate_python(section)
    with chosen.extension.calling("its settings"):
        try:
            algorithm = _sections(chosen).validate_python(section)
        except ValidationError as error:
            wrong = error
        else:
            _check_answers(algorithm)
            return algorithm
    raise wrong


def find(name: str) -> type[Algorithm] | None:
    """Return the class of algorithms that an id names; raises ExtensionError. None where there can be no such id."""
    return BUILT_IN.get(name) or _user_class(load(name, ALGORITHM, Algorithm, BUILT_IN))


@cache
def _user_class(extension: Extension[Algorithm]) -> type[Algorithm]:
    """Return a user's class with an `id`, knowing where it comes from."""
    check_metrics(extension, COLUMNS)
    fields: dict[str, Any] = {"id": (Literal[extension.name], Field(extension.name, description=_ID))}
    cls = extension.cls
    create: Any = create_model  # made at run time, which type checkers cannot follow
    made: type[Algorithm] = create(cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__, **fields)
    made.extension = extension
    return made


@cache
def _sections(more: type[Algorithm] | None = None) -> TypeAdapter[Algorithm]:
    """Return what reads a section of settings of any algorithm, and names its id in what it finds wrong."""
    kinds = [*BUILT_IN.values(), *([more] if more else [])]
    one_of: Any = Annotated[Union[tuple(kinds)], Field(discriminator="id")]  # noqa: UP007  # made of a list
    return TypeAdapter(one_of)


def _check_answers(algorithm: Algorithm) -> None:
    """Raise WrongResult where a user's algorithm does not say how long a rollout is."""
    ticks = algorithm.rollout_ticks
    if not isinstance(ticks, int) or ticks < 1:
        raise WrongResult(f"{ticks!r} as rollout_ticks, where a whole number from 1 on is wanted")
    _ = algorithm.complete_episodes, algorithm.needs_value
