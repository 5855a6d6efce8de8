"""Secrets are taken out of texts and commands, and nothing else is."""

from __future__ import annotations

import pytest

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
