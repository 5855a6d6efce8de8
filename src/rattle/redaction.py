"""Secrets of users, taken out of what is stored, shown or sent: passwords in URLs, and values whose names say so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

#: What is in place of a secret.
HIDDEN = "…"

#: A name that says that its value is a secret: `db_password`, `api-key`, `auth.token`; but `key_file` is a path.
_NAME = r"[\w.-]*(?:password|passwd|passphrase|secret|token|credentials?|authorization|cookie|apikey|(?<![a-z])key)"
_IS_SECRET = re.compile(rf"{_NAME}", re.IGNORECASE)
#: What advice has in place of a token is none: Authorization: Bearer TOKEN, or what a shell puts there.
_NO_ADVICE = r"(?!(?:bearer\s+)?(?:(?-i:TOKEN)(?![\w.~+/=-])|\$\())"
_WITH_VALUE = re.compile(
    rf"(?<![\w.-])({_NAME}[\"']?\s*[:=]\s*){_NO_ADVICE}(\"[^\"]*\"|'[^']*'|[^\s,;}}\])]+)", re.IGNORECASE
)
#: What advice has in their place is none: http://USER:PASSWORD@HOST.
_IN_URL = re.compile(r"(?<=://)(?!USER:PASSWORD@)\S*@")
#: What follows the scheme in a header of HTTP: `Authorization: Bearer …`.
_IN_HEADER = re.compile(
    rf"(\bbearer\s+|authorization[\"']?\s*[:=]\s*[\"']?\w+\s+){_NO_ADVICE}[\w.~+/=-]{{4,}}", re.IGNORECASE
)


#: Secrets that this process knows, which are hidden wherever they stand.
_known: set[str] = set()

#: Without one of these nothing names a secret: most texts have none, and take a microsecond.
_SIGNS = ("pass", "secret", "token", "credential", "authorization", "cookie", "key", "bearer")


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether the value of a setting, field or variable of this name must not be shown."""
    return _IS_SECRET.fullmatch(name) is not None


def hide(secret: str) -> None:
    """Have a secret hidden in all texts from now on, whatever stands around it."""
    _known.add(secret)


def redact(text: str) -> str:
    """Return a text without known secrets, the credentials of URLs, and values that it names as secrets."""
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _IN_URL.sub(f"{HIDDEN}@", text)
    lower = text.lower()
    if not any(sign in lower for sign in _SIGNS):
        return text
    return _WITH_VALUE.sub(rf"\1{HIDDEN}", _IN_HEADER.sub(rf"\1{HIDDEN}", text))


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """Return the arguments of a command, less secrets: in them, or after a flag such as --token."""
    shown, hide = list[str](), False
    for argument in arguments:
        shown.append(HIDDEN if hide else redact(argument))
        hide = argument.startswith("-") and is_secret(argument.lstrip("-"))
    return shown
