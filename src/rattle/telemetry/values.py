"""Values of events made fit for JSON: bounded, without secrets, and errors as fields."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Set
from datetime import date, time
from typing import Any, Final

import msgspec

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
_HIDDEN: Final = "***"

_NAMES: Final = r"pass(?:word|wd|phrase)|secret|token(?!s|_?count|_?limit|iz|is)|api_?key|access_?key|private_?key"
_SECRET_KEY: Final = re.compile(rf"(?:{_NAMES}|credential|cookie|auth$|authorization)", re.IGNORECASE)
#: In texts: credentials of a URL, `password=…` and its like, and what follows the name of a scheme of HTTP.
_IN_TEXT: Final = re.compile(
    r"(?P<url>://)(?:[^\s/?#]*|[^\s@/]*:[^\s@]*)@"
    rf"|(?P<name>\b[\w-]*(?:{_NAMES.replace('_?', '[-_]?')})[\w-]*[\"']?\s*[=:]\s*[\"']?)(?!\*)[^\s\"'&,;)\]}}]+"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}",
    re.IGNORECASE,
)


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
        return hide_secrets(value)
    if isinstance(value, dict):
        return {key: _HIDDEN if _is_secret(key, item) else without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return value


def hide_secrets(text: str) -> str:
    """Return a text with *** in the place of credentials in URLs, and of what follows `password=` and its like."""
    return _IN_TEXT.sub(_hide, text) if "=" in text or ":" in text or " " in text else text


def _hide(found: re.Match[str]) -> str:
    end = "@" if found["url"] else ""
    return f"{found['url'] or found['name'] or found['scheme']}{_HIDDEN}{end}"


def _is_secret(key: str, value: Any) -> bool:
    return value is not None and not isinstance(value, bool) and bool(_SECRET_KEY.search(key.replace("-", "_")))


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
    except UnicodeEncodeError:  # lone surrogates, of file names that are no UTF-8
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
    return printable(value) if isinstance(value, str) else value


def _shortened(value: Any) -> Any:
    if isinstance(value, dict | list):
        value = msgspec.json.encode(value).decode()
    return f"{value[: _SHORT - 1]}…" if isinstance(value, str) and len(value) > _SHORT else value
