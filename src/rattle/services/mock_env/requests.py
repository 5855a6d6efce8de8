"""What a request must look like; every mistake is a RequestError that names the field."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from rattle.wire.problems import RequestError

_SNAKE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_snake_id(snake_id: str) -> str:
    """Return the id of a snake as it is in a path."""
    if not _SNAKE_ID.fullmatch(snake_id):
        raise RequestError("bad_value", f"id must be 1 to 64 of A-Z a-z 0-9 . _ -, got {snake_id!r:.80}", "id")
    return snake_id


def check_lines(lines: str | None) -> None:
    """Check which lines a reader asks for: every reader gets all of them here."""
    if lines not in (None, "all"):
        raise RequestError("bad_value", f"lines must be 'all' or left out, got {lines!r:.60}", "lines")


def read_move(body: bytes, content_type: str | None) -> object:
    """Return the value of `move`, whatever it is."""
    fields = _fields(body, content_type, {"move"})
    if "move" not in fields:
        raise RequestError("bad_value", "move is missing: one of left, right, forward", "move")
    return fields["move"]


def read_reset(body: bytes, content_type: str | None) -> int | None:
    """Return the seed of a reset, None where it has none."""
    fields = _fields(body or b"{}", content_type, {"seed"})
    if "seed" not in fields:
        return None
    seed = fields["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise RequestError("bad_value", f"seed must be an integer from 0 to 2**63 - 1, got {seed!r:.60}", "seed")
    return seed


def read_nothing(body: bytes, content_type: str | None) -> None:
    """Check that a body is empty or an object without fields."""
    _fields(body or b"{}", content_type, set())


def _fields(body: bytes, content_type: str | None, known: set[str]) -> dict[str, Any]:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestError(
            "unsupported_type", f"Content-Type must be application/json, got {media_type!r:.60}", "Content-Type"
        )
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError("bad_request", f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("bad_request", "the body must be a JSON object")
    for name in fields.keys() - known:
        raise RequestError("bad_value", f"unknown field '{name:.60}'", f"{name:.60}")
    return fields
