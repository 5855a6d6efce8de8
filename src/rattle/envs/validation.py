"""Typed settings from plain mappings, with errors that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rattle.envs.errors import EnvError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any], owner: str) -> Model:
    """Return `values` as a `model`; raises EnvError whose one line names every bad key of `owner`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        complaints = "; ".join(_complaint(model, details) for details in error.errors())
        raise EnvError(f"bad settings of {owner}: {complaints}") from None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ', did you mean ...?' with the names nearest to `name`, or nothing when none is near."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f", did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def _complaint(model: type[BaseModel], details: ErrorDetails) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        known = _keys_beside(model, details["loc"])
        hint = nearest(str(details["loc"][-1]), known) or (f", known are {', '.join(known)}" if known else "")
        return f"unknown key '{key}'{hint}"
    message = details["msg"].removeprefix("Value error, ")
    return f"'{key}': {message}, got {details['input']!r}" if key else message


def _keys_beside(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """List the keys that exist where `place` points, following nested models."""
    for part in place[:-1]:
        nested = model.model_fields[str(part)].annotation
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return []
        model = nested
    return list(model.model_fields)
