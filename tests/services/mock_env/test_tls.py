"""The mock environment over TLS: a client that makes no handshake keeps nobody waiting."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rattle.certificates import make_set
from rattle.clients.addresses import read_address
from rattle.clients.agent_client import AgentClient, LinkTimeouts
from rattle.clients.errors import NotTrusted
from rattle.services.mock_env.server import MockEnv, MockSettings
from rattle.settings.services import SecuritySection
from rattle.tls import TlsFiles, keep_tls


def test_it_is_played_by_those_who_show_a_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, certificate, key = map(str, make_set(tmp_path, ()))
    security = SecuritySection(authority=authority, certificate=certificate, private_key=key, mutual=True)
    try:
        with MockEnv(MockSettings(length=2, security=security)) as env:
            address = read_address(env.url)
            assert env.url == f"https://127.0.0.1:{address.port}"
            with socket.create_connection((address.host, address.port)):
                keep_tls(TlsFiles(authority))
                with AgentClient(env.url, "anna", LinkTimeouts(retry=0.1)) as client, pytest.raises(NotTrusted):
                    client.health()
                keep_tls(TlsFiles(authority, str(tmp_path / "client.pem"), str(tmp_path / "client.key")))
                with AgentClient(env.url, "anna") as client:
                    assert [state.game_over for state in client.states()][-1]
    finally:
        keep_tls(None)
    assert not caplog.records
