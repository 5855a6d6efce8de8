"""Typed settings from plain mappings, with errors that a user can act on."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    SerializationInfo,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rattle.addresses import hide_credentials
from rattle.envs.errors import EnvError
from rattle.extensions import Extension, ExtensionError
from rattle.text import nearest

Model = TypeVar("Model", bound=BaseModel)

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class OneOf:
    """Marks a setting as a section of one of several models, which its key `id` names."""

    find: Callable[[str], type[BaseModel] | None]  # raises RattleError for a name that there is not


class StrictSettings(BaseModel):
    """Settings that know all their keys and take true and false for nothing but themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        """Take true, which Pydantic takes for 1, for the word, which is no number."""
        if not isinstance(values, Mapping):
            return values
        types = {name: set(types_in(field.annotation)) for name, field in cls.model_fields.items()}
        numbers = {name for name, found in types.items() if found & {int, float} and bool not in found}
        return {name: _as_words(value) if name in numbers else value for name, value in values.items()}


class OwnSettings(StrictSettings):
    """Settings with others next to them, which belong to a class that they name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def own_settings(self) -> dict[str, Any]:
        """Return what the class itself is told."""
        return dict(self.model_extra or {})


class UsedClass(OwnSettings):
    """A class that is named by `use`, and its own settings."""

    use: str

    @model_validator(mode="before")
    @classmethod
    def _is_a_name(cls, values: Any) -> Any:
        """Take a name alone for a class without settings of its own."""
        return {"use": values} if isinstance(values, str) else values


def validated(model: type[Model], values: Mapping[str, Any], owner: str, beside: Iterable[str] = ()) -> Model:
    """Return `values` as a `model`; raises EnvError whose one line names every bad key of `owner`.

    `beside` are keys that are in the same section and belong to others: they are guessed for unknown keys too.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        complaints = "; ".join(complaint(model, details, beside) for details in error.errors(include_url=False))
        raise EnvError(f"bad settings of {owner}: {complaints}") from None


def strict(model: type[Model]) -> type[Model]:
    """Return a user's model of settings with the manners of StrictSettings, unless it takes keys of any name."""
    if issubclass(model, StrictSettings) or model.model_config.get("extra") == "allow":
        return model
    frozen = ConfigDict(frozen=model.model_config.get("frozen", False))
    return type(model.__name__, (StrictSettings, model), {"model_config": frozen, "__module__": model.__module__})


def settings_of(extension: Extension[Any], values: Mapping[str, Any], beside: Iterable[str] = ()) -> BaseModel:
    """Return the settings of a user's class, which are its `Settings`, from plain values; raises as `validated` does.

    What it raises in addition, such as in a validator, is an ExtensionError, and so is a setting with the name of one
    of those `beside`: nobody could set it.
    """
    model = own_model(extension)
    check_free(extension, "Settings", model.model_fields, beside)
    with extension.calling("Settings"):
        return validated(model, values, extension.path, beside)


def own_model(extension: Extension[Any]) -> type[BaseModel]:
    """Return the `Settings` of a user's class, with the manners of StrictSettings; raises ExtensionError."""
    model = getattr(extension.cls, "Settings", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ExtensionError(f"{extension.path}: Settings must be a class of settings, a pydantic.BaseModel")
    with extension.calling("Settings"):
        return strict(model)


def check_free(extension: Extension[Any], where: str, names: Iterable[str], beside: Iterable[str]) -> None:
    """Raise ExtensionError where settings of a user's class have names of those that stand `beside` them."""
    if taken := sorted(set(names) & set(beside)):
        raise ExtensionError(
            f"{extension.path}: {where}: '{taken[0]}' is a setting of Rattle's own in this section: choose another name"
        )


def constructor_model(extension: Extension[Any], skip: int = 0, of_others: str | None = None) -> type[BaseModel]:
    """Return as settings what the constructor of a user's class takes by name, less its first `skip` parameters.

    The parameter `of_others` must be there, and is no setting. Lists are taken for NumPy arrays. Raises ExtensionError.
    """
    cls = extension.cls
    with extension.calling("__init__"):
        parameters = list(inspect.signature(cls).parameters.values())[skip:]
    try:
        hints = get_type_hints(cls.__init__)
    except Exception:  # names that only type checkers know
        hints = {}
    named = [one for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    more = any(one.kind is one.VAR_KEYWORD for one in parameters)
    if of_others is not None:
        if not more and all(one.name != of_others for one in named):
            raise ExtensionError(f"{extension.path}: __init__ must take {of_others} by name")
        named = [one for one in named if one.name != of_others]
    fields: dict[str, Any] = {
        one.name: (_settable(hints.get(one.name, Any)), ... if one.default is one.empty else one.default)
        for one in named
    }
    config = ConfigDict(extra="allow" if more else "forbid", arbitrary_types_allowed=True, allow_inf_nan=True)
    with warnings.catch_warnings(), extension.calling("__init__"):
        warnings.simplefilter("ignore")  # a parameter may be called as a method of models is
        return create_model(
            cls.__name__,
            __base__=StrictSettings,
            __cls_kwargs__={**config, "protected_namespaces": ()},
            __doc__=cls.__doc__,
            **fields,
        )


def _settable(annotation: Any) -> Any:
    """Return the annotation of a parameter as one of a setting: what may be an array may be a list, or a number."""
    arrays = any((get_origin(part) or part) is np.ndarray for part in types_in(annotation))
    return Annotated[Any, BeforeValidator(_as_array), PlainSerializer(_as_plain)] if arrays else annotation


def _as_array(value: Any) -> Any:
    return np.array(value) if isinstance(value, list | tuple) else value


def _as_plain(value: Any, info: SerializationInfo) -> Any:
    return value.tolist() if info.mode == "json" and isinstance(value, np.ndarray) else value


def complaint(model: type[BaseModel], details: ErrorDetails, beside: Iterable[str] = ()) -> str:
    """Return a line about one error of `model`: the key as the user wrote it, what is wanted, and what was found."""
    place, field, known = _follow(model, details["loc"])
    key = ".".join(place)
    if details["type"] == "extra_forbidden":
        own = [*known, *(beside if len(place) == 1 else ())]
        hint = nearest(place[-1], own) or (f", known are {', '.join(known)}" if known else "")
        return f"unknown key '{key}'{hint}"
    if details["type"] == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if details["type"] == "missing":
        return f"{key}: a value is wanted"
    found = details["input"]
    if details["type"] == "union_tag_invalid":
        key, found = f"{key}.id", found.get("id") if isinstance(found, Mapping) else details["ctx"]["tag"]
    return f"{key}: {_wanted(details, field, key)}, got {_shown(found)}{_advice(details['type'], found, key)}"


def _follow(
    model: type[BaseModel] | None, location: tuple[int | str, ...]
) -> tuple[list[str], FieldInfo | None, list[str]]:
    """Return a location as the user wrote it, the setting there, and the keys that exist next to it."""
    place: list[str] = []
    field: FieldInfo | None = None
    choices: list[type[BaseModel]] = [model] if model else []
    one_of: OneOf | None = None
    for part in location:
        if one_of is not None:  # Pydantic names the member that was chosen; the user does not
            choices, one_of = [chosen] if (chosen := one_of.find(str(part))) else [], None
            continue
        if isinstance(part, str) and field is not None and not choices and _has_several_types(field):
            continue  # which of the types Pydantic tried
        if isinstance(part, str):
            place.append(part)
        else:
            place[-1:] = [f"{''.join(place[-1:])}[{part}]"]  # the entry of a list
        fields = {name: info for choice in choices for name, info in choice.model_fields.items()}
        known = list(fields)
        if isinstance(part, str):
            field = fields.get(part)
            choices = [] if field is None else [t for t in types_in(field.annotation) if _is_model(t)]
            one_of = next((each for each in field.metadata if isinstance(each, OneOf)), None) if field else None
    return place, field, known if location and isinstance(location[-1], str) else []


def _has_several_types(field: FieldInfo) -> bool:
    """Whether a value of one type or another is taken, next to null."""
    unions = (get_args(part) for part in types_in(field.annotation) if get_origin(part) in (Union, UnionType))
    return any(len([kind for kind in kinds if kind is not NoneType]) > 1 for kinds in unions)


def _as_words(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_words(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else value


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def types_in(annotation: Any) -> Iterator[Any]:
    """List the types that an annotation is made of."""
    if not isinstance(annotation, list):  # what a function takes
        yield annotation
    for part in annotation if isinstance(annotation, list) else get_args(annotation):
        yield from types_in(part)


#: By the beginnings of Pydantic's names of errors: what is wanted.
_WANTED = {
    "int_": "a whole number is wanted, such as {number}",
    "float_": "a number is wanted, such as {number}",
    "finite_number": "a finite number is wanted",
    "bool_": "true or false is wanted",
    "string_type": "text is wanted",
    "string_unicode": "text is wanted",
    "string_pattern": "the text must match {pattern}{like}",
    "string_too_short": "text of at least {min_length} is wanted",
    "string_too_long": "text of at most {max_length} characters is wanted",
    "too_short": "a list with at least {min_length} is wanted, such as {list}",
    "too_long": "a list with at most {max_length} is wanted",
    "tuple_": "a list is wanted, such as {list}",
    "list_": "a list is wanted, such as {list}",
    "model_": "a section with keys of its own is wanted{inner}",
    "dict_": "a section with keys of its own is wanted",
    "union_tag_not_found": "say in {key}.id which one is meant",
    "union_tag_invalid": "choose one of {expected_tags}",
    "literal_error": "choose {expected}",
    "greater_than_equal": "at least {ge} is wanted",
    "greater_than": "more than {gt} is wanted",
    "less_than_equal": "at most {le} is wanted",
    "less_than": "less than {lt} is wanted",
    "invalid_key": "keys are text",
}


def _wanted(details: ErrorDetails, field: FieldInfo | None, key: str) -> str:
    """Say what belongs here, with an example where the kind of value is wrong."""
    kind, example = details["type"], _example(field)
    for beginning, wanted in _WANTED.items():
        if kind.startswith(beginning):
            otherwise = 1000 if beginning == "int_" else 0.5
            parts = example if isinstance(example, tuple) and example else ("first", "second")
            return wanted.format(
                **details.get("ctx", {}),
                key=key,
                number=example if isinstance(example, (int, float)) else otherwise,
                list=f"[{', '.join(map(str, parts))}]",
                like=f", as '{example}' does" if isinstance(example, str) else "",
                inner=_a_key(example, key),
            ) + _or_words(field, kind)
    return f"{details['msg'].removeprefix('Input should be ')} is wanted"


def _or_words(field: FieldInfo | None, kind: str) -> str:
    """Return the words that may be in place of another type, as in ", or 'auto'"."""
    literals = [part for part in get_args(field.annotation) if get_origin(part) is Literal] if field else []
    return "".join(f", or '{word}'" for part in literals for word in get_args(part)) if kind != "literal_error" else ""


def _example(field: FieldInfo | None) -> Any:
    """Return a value that would be right: the default, or the one that the definition gives."""
    default = field.get_default(call_default_factory=True) if field and not field.is_required() else None
    return field.examples[0] if field and field.examples else default


def _a_key(example: Any, key: str) -> str:
    """Return an example of a key in the section `key`."""
    if not isinstance(example, BaseModel):
        return ""
    name, value = next(pair for pair in example.model_dump().items() if pair[1] is not None)
    return f", such as {key}.{name}={value}"


def _shown(found: Any) -> str:
    """Return what was found, in the words of YAML and without what nobody else may read."""
    if isinstance(found, Mapping):
        return "a section"
    if isinstance(found, (list, tuple)):
        return f"a list of {len(found)}" if found else "an empty list"
    if found is None or isinstance(found, bool):
        return {None: "null", True: "true", False: "false"}[found]
    text = hide_credentials(f"'{found}'" if isinstance(found, str) else str(found))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _advice(kind: str, found: Any, key: str) -> str:
    """Return how to write what was probably meant, or nothing."""
    if kind == "string_type" and isinstance(found, (bool, int, float)):
        on_command_line = "" if key.endswith("]") else f", or --set {key}='\"{_shown(found)}\"'"
        return f', which is text in quotes only: "{_shown(found)}"{on_command_line}'
    if kind in ("tuple_type", "list_type") and isinstance(found, str):
        parts = _shown(found).strip("'").replace(",", " ").split()
        return f": write [{', '.join(parts)}]"
    if kind in ("tuple_type", "list_type") and isinstance(found, Mapping):
        return ": write [{…}]"
    if isinstance(found, str) and found.lower() == "none":
        return ": nothing is written null"
    return ""
