"""Secrets are taken out of texts and commands, and nothing else is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rattle
from rattle.redaction import is_secret, redact, redact_arguments


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@host:5000/x", "http://…@host:5000/x"),
        ("amqps://me:p@ss/word@host", "amqps://…@host"),
        ("at http://a:b@one and http://two", "at http://…@one and http://two"),
        ("api_key=abc", "api_key=…"),
        ("hooks=[{use: wandb, api_key: abc, project: x}]", "hooks=[{use: wandb, api_key: …, project: x}]"),
        ("broker.password='a b' next", "broker.password=… next"),
        ('{"token": "abc", "steps": 5}', '{"token": …, "steps": 5}'),
        ("Authorization: Bearer", "Authorization: …"),
    ],
)
def test_secrets_are_left_out(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sync.key_file=key.txt",
        "max_tokens=5",
        "env.url=http://host:5000",
        "monkey=1",
        "a@b.org",
        "env={id: 'gym:X-v1'}",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_the_value_after_a_flag_is_left_out() -> None:
    command = ["rattle", "up", "--token", "abc", "--password=x", "--seed", "3", "--key"]
    assert redact_arguments(command) == ["rattle", "up", "--token", "…", "--password=…", "--seed", "3", "--key"]


def test_names_of_secrets() -> None:
    assert all(map(is_secret, ["password", "DB_PASSWORD", "api-key", "auth.token", "client_secret", "key"]))
    assert not any(map(is_secret, ["key_file", "tokens", "monkey", "seed", "keys_per_second"]))


def sentences(path: Path) -> Iterator[str]:
    """Yield the texts of a module that have several words, with X for what is put into them, without docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    left_out = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    left_out |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


def test_no_sentence_of_ours_is_taken_for_a_secret() -> None:
    ours = [text for path in Path(rattle.__file__).parent.rglob("*.py") for text in sentences(path) if " " in text]
    assert len(ours) > 1000
    assert [text for text in ours if redact(text) != text] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer TOKEN", "Authorization: Bearer TOKEN"),
        (
            'curl -H "Authorization: Bearer $(cat run/.token)" URL',
            'curl -H "Authorization: Bearer $(cat run/.token)" URL',
        ),
        (
            'echo "Authorization: Bearer $(cat run/.token)" | curl -H @- URL',
            'echo "Authorization: Bearer $(cat run/.token)" | curl -H @- URL',
        ),
        ("Authorization: Bearer TOKEN-abc1", "Authorization: … …"),
        ("Authorization: Bearer abcd1234", "Authorization: … …"),
        ("bearer  token123, and more", "bearer  …, and more"),
        ("x-token: TOKEN1", "x-token: …"),
    ],
)
def test_advice_is_shown_and_what_begins_as_it_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
