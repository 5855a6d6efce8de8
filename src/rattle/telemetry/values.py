"""Values of events made fit for JSON: bounded, without secrets, and errors as fields."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Set
from datetime import date, time
from typing import Any, Final

import msgspec

from rattle.redaction import HIDDEN, is_secret, redact
from rattle.text import printable

#: Longer texts are cut, in characters; of a traceback the beginning and the end are kept.
MOST_TEXT: Final = 8000
MOST_TRACEBACK: Final = 10_000
#: Fields that are longer as JSON are cut further, in bytes.
MOST_BYTES: Final = 48_000
_MOST_ITEMS: Final = 100  # of a list or mapping
_MOST_DEPTH: Final = 6
_MOST_FRAMES: Final = 50
_SHORT: Final = 500  # characters of each field where all of them are too long together


def plain(value: Any, depth: int = 0) -> Any:
    """Return a copy of a value that is JSON and of bounded size; it changes no more when the value does."""
    kind = type(value)
    if kind is str:
        return value if len(value) <= MOST_TEXT else f"{value[: MOST_TEXT - 1]}…"
    if kind is bool or value is None:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else str(value)[:MOST_TEXT] if value.bit_length() < 10_000 else "…"
    if kind is float:
        return value if value - value == 0.0 else str(value)  # JSON has no infinities, and nothing that is no number
    return _plain_object(value, depth)


def _plain_object(value: Any, depth: int) -> Any:
    try:
        if depth < _MOST_DEPTH and isinstance(value, Mapping):
            items = zip(range(_MOST_ITEMS), value.items(), strict=False)
            return {plain(str(key)): plain(item, depth + 1) for _, (key, item) in items}
        if depth < _MOST_DEPTH and isinstance(value, list | tuple | Set):
            return [plain(item, depth + 1) for _, item in zip(range(_MOST_ITEMS), value, strict=False)]
        if isinstance(value, date | time):
            return value.isoformat()
        if isinstance(value, bytes | bytearray):
            return plain(repr(bytes(value[:MOST_TEXT])))
        if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of NumPy or PyTorch
            return plain(value.item())
        return plain(str(value))
    except Exception:  # objects of users may do anything when they are shown
        return f"<{type(value).__name__} that cannot be shown>"


def without_secrets(value: Any) -> Any:
    """Return a plain value without passwords, tokens and keys, in fields of such names and in texts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            key: HIDDEN if is_secret(key) and item is not None else without_secrets(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return value


def error_fields(error: BaseException) -> dict[str, Any]:
    """Return the fields of an error: `exception` with its type, message, frames and cause, and `traceback` as text."""
    text = "".join(traceback.format_exception(error))
    half = MOST_TRACEBACK // 2
    if len(text) > 2 * half:
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    frames = [
        {"file": frame.filename, "line": frame.lineno, "function": frame.name}
        for frame in traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    ]
    about: dict[str, Any] = {**_in_short(error), "frames": frames}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        about["cause"] = _in_short(cause)
    return {"exception": about, "traceback": text}


def _in_short(error: BaseException) -> dict[str, str]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {"type": name, "message": plain(str(plain(error)))}


def fitting(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields that can be encoded, and are not too long together: then each is cut to its beginning."""
    try:
        encoded = msgspec.json.encode(fields)
    except ValueError:  # lone surrogates, of file names that are no UTF-8, or endless numbers
        fields = _encodable(fields)
        encoded = msgspec.json.encode(fields)
    if len(encoded) <= MOST_BYTES:
        return fields
    short = {key[:_SHORT]: _shortened(value) for key, value in list(fields.items())[:_MOST_ITEMS]}
    return {**short, "cut": len(encoded)}


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return printable(value) if isinstance(value, str) else plain(value)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict | list):
        value = msgspec.json.encode(value).decode()
    return f"{value[: _SHORT - 1]}…" if isinstance(value, str) and len(value) > _SHORT else value
