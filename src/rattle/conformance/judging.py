"""How a check says that something is wrong: what is expected and what was got, in words for any language."""

from __future__ import annotations

from typing import Any, NoReturn

#: How much of a request, an answer or a value is shown.
_SHOWN = 300


class Failed(Exception):
    """The server does something else than docs/env-api.md says."""

    def __init__(self, sentence: str, expected: str | None = None, got: str | None = None) -> None:
        super().__init__(sentence)
        self.expected = expected
        self.got = got


class Skipped(Exception):
    """The check cannot be judged on this server; the message says why."""


def fail(sentence: str, *, expected: object = None, got: object = None) -> NoReturn:
    """End the check: the server is wrong."""
    raise Failed(sentence, _shown(expected), _shown(got))


def expect(condition: object, sentence: str, *, expected: object = None, got: object = None) -> None:
    """End the check with `sentence` unless `condition` holds."""
    if not condition:
        fail(sentence, expected=expected, got=got)


def skip(reason: str) -> NoReturn:
    """End the check: it cannot be judged here."""
    raise Skipped(reason)


def an_object(value: Any, name: str) -> dict[str, Any]:
    """Return `value`; end the check unless it is an object."""
    if not isinstance(value, dict):
        fail(f"{name} is {kind(value)}, not an object", expected="an object", got=value)
    return value


def shorten(text: str, limit: int = _SHOWN) -> str:
    """Return `text` with its middle left out where it is longer than `limit`."""
    return text if len(text) <= limit else f"{text[: limit - 60]} ... {text[-55:]}"


def kind(value: Any) -> str:
    """Return a value's JSON type in words, as an engineer in any language knows it."""
    for types, word in _WORDS:
        if isinstance(value, types):
            return word
    return type(value).__name__


#: A bool is an int in Python, so it comes first.
_WORDS: tuple[tuple[type, str], ...] = (
    (type(None), "null"),
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number with a fraction"),
    (str, "a string"),
    (bytes, "binary data"),
    (list, "a list"),
    (dict, "an object"),
)


def _shown(value: object) -> str | None:
    if value is None:
        return None
    return shorten(value if isinstance(value, str) else repr(value))
