"""All clients speak TLS alike: who is trusted, who is shown, and what is wrong is said at once, over gRPC too."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from rattle.certificates import LOCAL_HOSTS, Signed, make_authority, make_client, make_server
from rattle.cli import main
from rattle.clients.channels import why_no_channel
from rattle.clients.connections import SocketSteps
from rattle.clients.errors import ClientError, ConnectionBroken, NotTrusted
from rattle.conformance.errors import ConformanceError
from rattle.conformance.probe import absent_faces
from rattle.conformance.target import Target
from rattle.services.inference.training_link import TrainingLink
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.server_tls import ServerTls
from rattle.tls import TlsFiles, keep_tls
from tests.clients.test_addresses import ALL, Ask, Server

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two authorities, and what the first, or the other, has signed."""
    folder = tmp_path_factory.mktemp("tls")
    own, other = make_authority(), make_authority()
    yesterday, tomorrow = NOW - timedelta(days=1), NOW + timedelta(days=1)
    made: dict[str, Signed] = {
        "authority": own,
        "other-authority": other,
        "server": make_server(own, LOCAL_HOSTS),
        "elsewhere": make_server(own, ["gpu-box"]),
        "expired": make_server(own, LOCAL_HOSTS, 1, yesterday - timedelta(days=1)),
        "future": make_server(own, LOCAL_HOSTS, 9, tomorrow),
        "client": make_client(own),
        "other-client": make_client(other),
        "expired-client": make_client(own, 1, yesterday - timedelta(days=1)),
    }
    for name, signed in made.items():
        signed.write(folder / name)
    return folder


def _files(folder: Path, authority: str | None, own: str | None) -> TlsFiles:
    path = {name: str(folder / name) for name in (authority, own) if name}
    return TlsFiles(authority and f"{path[authority]}.pem", own and f"{path[own]}.pem", own and f"{path[own]}.key")


@dataclass(frozen=True)
class Case:
    """What a server shows, if it has TLS, and asks for; whom a client trusts and what it shows; what it then says."""

    says: str
    server: str | None = "server"
    mutual: bool = False
    authority: str | None = "authority"
    own: str | None = None


NO_CERTIFICATE = "wants a certificate of its clients: name one that its authority has signed in security.certificate"
CASES = {
    "unknown authority": Case("is not accepted: .*: name the file of the authority", authority="other-authority"),
    "other host": Case("is not accepted: .*'127.0.0.1': use a name that it is for, or make one", server="elsewhere"),
    "expired": Case("is not accepted: certificate has expired: .* unless the clock here is wrong", server="expired"),
    "future": Case("is not accepted: certificate is not yet valid: .* unless the clock here is", server="future"),
    "no TLS": Case("does not speak TLS", server=None),
    "no certificate": Case(NO_CERTIFICATE, mutual=True),
    "another's certificate": Case(
        "does not know the authority that has signed our cert", mutual=True, own="other-client"
    ),
    "expired certificate": Case(
        "our certificate, security.certificate, is not valid now", mutual=True, own="expired-client"
    ),
}


@contextmanager
def _told(files: TlsFiles) -> Iterator[None]:
    keep_tls(files)
    try:
        yield
    finally:
        keep_tls(None)


@contextmanager
def _http(tls: ServerTls | None) -> Iterator[str]:
    """Serve HTTP or HTTPS, handshakes in threads of their own as they may fail; yields HOST:PORT."""
    with Server() as server:
        server.status = 418
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls is not None:
            server.socket = tls.context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.authority
        server.shutdown()
        thread.join()


@contextmanager
def _grpc(tls: ServerTls | None) -> Iterator[str]:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        if tls is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            certificate, key, authority = tls.files.read()
            trusted = authority if tls.mutual else None
            made = grpc.ssl_server_credentials([(key or b"", certificate or b"")], trusted, tls.mutual)
            port = server.add_secure_port("127.0.0.1:0", made)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def _socket(url: str) -> None:
    SocketSteps(url, "session", 10).send("step", b"")


def _server_tls(folder: Path, name: str | None, *, mutual: bool) -> ServerTls | None:
    return None if name is None else ServerTls(_files(folder, "authority", name), mutual, "127.0.0.1")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ask", [*ALL.args[1], _socket])
def test_what_is_wrong_with_tls_is_said_at_once(folder: Path, ask: Ask, case: str) -> None:
    wrong = CASES[case]
    with (
        _told(_files(folder, wrong.authority, wrong.own)),
        _http(_server_tls(folder, wrong.server, mutual=wrong.mutual)) as authority,
        pytest.raises(NotTrusted, match=wrong.says) as caught,
    ):
        ask(f"https://{authority}")
    assert not isinstance(caught.value, ConnectionBroken), "which is tried again"
    assert str(caught.value).isprintable()


@ALL
def test_a_server_with_tls_is_known_by_its_silence(folder: Path, ask: Ask) -> None:
    with (
        _told(TlsFiles()),
        _http(_server_tls(folder, "server", mutual=True)) as authority,
        pytest.raises(NotTrusted, match=f"http://{authority} speaks TLS: write it as https://{authority}"),
    ):
        ask(f"http://{authority}")


@ALL
@pytest.mark.parametrize(("mutual", "own"), [(False, None), (True, "client"), (True, "server")])
def test_who_is_trusted_is_asked(folder: Path, ask: Ask, mutual: bool, own: str | None) -> None:
    with (
        _told(_files(folder, "authority", own)),
        _http(_server_tls(folder, "server", mutual=mutual)) as authority,
        pytest.raises(ClientError, match="answered 418"),
    ):
        ask(f"https://{authority}")


@pytest.mark.parametrize("case", CASES)
def test_check_env_says_the_same(folder: Path, case: str) -> None:
    wrong = CASES[case]
    with (
        _told(_files(folder, wrong.authority, wrong.own)),
        _http(_server_tls(folder, wrong.server, mutual=wrong.mutual)) as authority,
        pytest.raises(ConformanceError, match=f"{wrong.says}|hangs up when TLS begins"),
    ):
        absent_faces(Target(f"https://{authority}"))


def test_commands_are_told_an_authority(folder: Path) -> None:
    def check(url: str, *options: str) -> str:
        done = CliRunner().invoke(main, ["check-env", url, "--only", "agent.health", *options])
        assert done.exit_code in (1, 2)
        assert "Traceback" not in done.output
        return done.output

    with _told(TlsFiles()), _http(_server_tls(folder, "server", mutual=False)) as authority:
        assert "name the file of the authority that signed it in" in check(f"https://{authority}")
        assert "speaks TLS: write it as https://" in check(f"http://{authority}")
        assert "status 418" in check(f"https://{authority}", "--authority", str(folder / "authority.pem"))
        assert "--authority: cannot read" in check(f"https://{authority}", "--authority", str(folder / "none.pem"))


def _call(address: str) -> Exception:
    """Ask a Training service once, and return the error: UNIMPLEMENTED, where it was reached."""
    link = TrainingLink(address, 2**20)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            link.stub.GetStatus(training_pb2.GetStatusRequest(), timeout=30)
        return link.failure(caught.value)
    finally:
        link.close()


@pytest.mark.parametrize("case", CASES)
def test_grpc_says_the_same(folder: Path, case: str) -> None:
    wrong = CASES[case]
    with (
        _told(_files(folder, wrong.authority, wrong.own)),
        _grpc(_server_tls(folder, wrong.server, mutual=wrong.mutual)) as address,
    ):
        error = _call(address)
    assert isinstance(error, NotTrusted)
    assert address in str(error)
    assert re.search(f"{wrong.says}|Training service: {address} hangs up" if wrong.mutual else wrong.says, str(error))


def test_grpc_says_where_only_the_server_has_tls(folder: Path) -> None:
    with _told(TlsFiles()), _grpc(_server_tls(folder, "server", mutual=True)) as address:
        error = _call(address)
    assert str(error).startswith(f"Training service: {address} speaks TLS: name the authority that signed its certif")


@pytest.mark.parametrize(("mutual", "own"), [(False, None), (True, "client"), (True, "server")])
def test_grpc_reaches_whom_it_trusts(folder: Path, mutual: bool, own: str | None) -> None:
    with (
        _told(_files(folder, "authority", own)),
        _grpc(_server_tls(folder, "server", mutual=mutual)) as address,
    ):
        assert "UNIMPLEMENTED" in str(_call(address))


def test_the_scheme_of_an_address_says_whether_grpc_uses_tls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _files(folder, "authority", None)
    with _grpc(None) as plain, _grpc(_server_tls(folder, "server", mutual=False)) as secured:
        with _told(files):
            assert "UNIMPLEMENTED" in str(_call(f"http://{plain}/"))
            assert f"https://{plain} does not speak TLS: write it as http://" in str(_call(f"https://{plain}"))
            assert f"http://{secured} speaks TLS: write it as https://" in str(_call(f"http://{secured}"))
        monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
        with _told(TlsFiles()):
            assert "UNIMPLEMENTED" in str(_call(f"https://{secured}"))


@pytest.mark.parametrize(
    "address", ["localhost", "unix:/none", "127.0.0.1:0", "127.0.0.1:99999", "dns:///none.invalid:1"]
)
def test_addresses_that_only_grpc_reads_are_not_looked_into(address: str) -> None:
    with _told(TlsFiles()):
        assert why_no_channel(address) is None


def test_grpc_trusts_whom_the_system_does(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README").write_text("no certificate")
    (tmp_path / "0a1b2c3d.0").write_bytes((folder / "other-authority.pem").read_bytes())
    (tmp_path / "ffffffff.1").write_bytes((folder / "authority.pem").read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))  # as on systems with a folder only
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with (
        _told(_files(folder, None, "client")),
        _grpc(_server_tls(folder, "server", mutual=True)) as address,
    ):
        assert "UNIMPLEMENTED" in str(_call(address))


def test_grpc_trusts_whom_the_environment_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))
    with (
        _told(_files(folder, None, "client")),
        _grpc(_server_tls(folder, "server", mutual=True)) as address,
    ):
        assert "UNIMPLEMENTED" in str(_call(address))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_not_spoken(folder: Path, version: ssl.TLSVersion) -> None:
    tls = _server_tls(folder, "server", mutual=False)
    assert tls is not None
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
