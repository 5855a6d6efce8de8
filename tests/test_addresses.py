"""Addresses and the credentials that are kept apart from them."""

from __future__ import annotations

import pytest

from rattle import addresses
from rattle.addresses import (
    CREDENTIALS_VARIABLE,
    credentials_for_children,
    hide_credentials,
    keep_credentials,
    parse_address,
    without_credentials,
)
from rattle.errors import RattleError

ANNA, BERT = "Basic YW5uYTphYQ==", "Basic YmVydDpiYg=="


def test_parts_of_an_address() -> None:
    address = parse_address("https://u:p@[::1]:8443/under/")
    assert (address.url, address.host, address.port) == ("https://[::1]:8443/under", "::1", 8443)
    assert (address.authority, address.prefix, address.tls) == ("[::1]:8443", "/under", True)


@pytest.mark.parametrize(
    ("url", "authorization"),
    [
        ("http://h:5000", ANNA),
        ("http://H:5000/", ANNA),
        ("http://h:5000/under/it", ANNA),
        ("http://h:5000/other", BERT),
        ("http://h:5000/other/one", BERT),
        ("http://h:5000/others", ANNA),
        ("http://carl:cc@h:5000", "Basic Y2FybDpjYw=="),
        ("http://h:5001", None),
        ("https://h:5000", None),
        ("http://h.example:5000", None),
        ("http://h:50001", None),
    ],
)
def test_credentials_go_to_their_server_only(
    monkeypatch: pytest.MonkeyPatch, url: str, authorization: str | None
) -> None:
    monkeypatch.setenv(CREDENTIALS_VARIABLE, "http://anna:aa@h:5000  http://bert:bb@h:5000/other/")
    assert parse_address(url).authorization == authorization


def test_kept_credentials_are_found_again_and_handed_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CREDENTIALS_VARIABLE, "http://anna:old@h https://bert:bb@other")
    assert keep_credentials("http://anna:aa@h") == "http://h"
    assert keep_credentials("http://plain/") == "http://plain/"
    assert parse_address("http://h:80").authorization == ANNA  # the settings win over the environment
    handed = credentials_for_children()
    monkeypatch.setattr(addresses, "_kept", {})
    monkeypatch.setenv(*handed.popitem())
    assert parse_address("http://h").authorization == ANNA
    assert parse_address("https://other").authorization == BERT


def test_who_knows_no_credentials_hands_none_on() -> None:
    assert credentials_for_children() == {}


@pytest.mark.parametrize("told", ["anna:hidden@h", "http://h", "http://anna:hidden@h:port", "x http://anna:hidden@h"])
def test_a_variable_that_cannot_be_read_is_said_without_what_it_holds(
    monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv(CREDENTIALS_VARIABLE, told)
    with pytest.raises(RattleError, match="Write it as http://USER:PASSWORD@HOST:PORT") as caught:
        parse_address("http://h")
    assert "hidden" not in str(caught.value)


def test_what_is_shown_holds_no_credentials() -> None:
    assert without_credentials("http://u:p@h/\x1b[1m\n") == "http://h/ [1m"
    assert without_credentials("u:p/w@h") == "h"
    assert hide_credentials("env.url='http://u:p/w @x@h:1 and more") == "env.url='http://…@h:1 and more"
    assert hide_credentials("me@example.org") == "me@example.org"
