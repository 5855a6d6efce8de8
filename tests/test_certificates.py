"""Certificates that are made, and what is said of those that cannot be used; dates are made here, none is stored."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from rattle.analytics.run_directory import RunDirectory
from rattle.certificates import (
    LOCAL_HOSTS,
    CertificateError,
    Signed,
    make_authority,
    make_client,
    make_server,
    make_set,
)
from rattle.cli import main
from rattle.errors import RattleError
from rattle.runs.find_policy import FoundPolicy, _played_in
from rattle.services.utils.server_tls import server_tls, shake_hands
from rattle.settings.services import SecuritySection
from rattle.settings.yaml_values import read_document
from rattle.tls import TlsFiles, keep_tls, tls_context, tls_files

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> Signed:
    return make_authority()


def security(folder: Path, made: Signed, **others: object) -> SecuritySection:
    pem, key = made.write(folder / "own")
    return SecuritySection.model_validate({"certificate": str(pem), "private_key": str(key), **others})


def _server(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path.with_suffix(".pem"), path.with_suffix(".key"))
    return context


@pytest.mark.parametrize("name", ["gpu-box", "10.0.0.5", "*.example.org", "fe80::1", *LOCAL_HOSTS])
def test_a_set_lets_clients_know_services_by_each_of_their_names(tmp_path: Path, name: str) -> None:
    hosts = ("gpu-box", "10.0.0.5", "*.example.org", "fe80::1")
    signer, pem, key = make_set(tmp_path / "set", hosts)
    assert (pem.stem, key.stat().st_mode & 0o777) == ("gpu-box", 0o600)
    client = ssl.create_default_context(cafile=str(signer))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does from 3.13 on
    shake_hands(_server(pem), client, name.replace("*", "any"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(_server(pem), client, "other")


def test_clients_of_a_set_are_taken_by_servers_that_ask_for_a_certificate(tmp_path: Path) -> None:
    signer, pem, _ = make_set(tmp_path, ())
    server, client = _server(pem), ssl.create_default_context(cafile=str(signer))
    server.load_verify_locations(signer)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = ssl.TLSVersion.TLSv1_2  # which tells it within the handshake
    for own in ("client", "localhost"):  # services ask each other with their own
        client.load_cert_chain(tmp_path / f"{own}.pem", tmp_path / f"{own}.key")
        shake_hands(server, client, "localhost")
    with pytest.raises(ssl.SSLError):
        shake_hands(server, ssl.create_default_context(cafile=str(signer)), "localhost")


def test_a_machine_is_added_later_and_nothing_is_written_over(tmp_path: Path) -> None:
    signer, first, _ = make_set(tmp_path, ["one"])
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    _, second, _ = make_set(tmp_path, ["two"])
    client = ssl.create_default_context(cafile=str(signer))
    shake_hands(_server(first), client, "one")
    shake_hands(_server(second), client, "two")
    for again in ("one", "two", "authority", "client"):
        with pytest.raises(CertificateError):
            make_set(tmp_path, [again])
    assert {path: path.read_bytes() for path in kept} == kept
    (tmp_path / "authority.key").unlink()
    with pytest.raises(CertificateError, match=r"authority.key is missing: certificates are made where the"):
        make_set(tmp_path, ["three"])


@pytest.mark.parametrize("host", ["", "a b", "http://a", "a:5", "0.0.0.0", "::", "-a", "a/b", "../a", "gerät", "*"])  # noqa: S104
def test_what_names_no_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(CertificateError):
        make_set(tmp_path / "set", [host])
    assert not (tmp_path / "set").exists()


def test_the_command_prints_settings_that_can_be_used(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["certificates", str(tmp_path / "my: set"), "--host", "127.0.0.1"])
    assert done.exit_code == 0, done.output
    made = SecuritySection.model_validate(read_document(done.stdout)["security"])
    tls = server_tls("127.0.0.1", made)
    assert tls is not None
    assert tls.name == "127.0.0.1"
    again = CliRunner().invoke(main, ["certificates", str(tmp_path / "my: set"), "--host", "127.0.0.1"])
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)


Make = Callable[[Signed], Signed]
WRONG: dict[str, tuple[Make, str]] = {
    "expired": (
        lambda by: make_server(by, LOCAL_HOSTS, 1, NOW - timedelta(days=2)),
        "has expired: make a new one, unless the clock here is wrong",
    ),
    "not yet valid": (
        lambda by: make_server(by, LOCAL_HOSTS, 9, NOW + timedelta(days=2)),
        "is not yet valid: make a new one, unless the clock here is wrong",
    ),
    "other host": (
        lambda by: make_server(by, ["gpu-box"]),
        "is not for 127.0.0.1 or localhost: make one with rattle certificates DIR --host 127.0.0.1",
    ),
    "a client's": (make_client, "unsuitable certificate purpose: name one that is made for servers"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_service_does_not_start_with_a_certificate_that_no_client_takes(
    tmp_path: Path, authority: Signed, wrong: str
) -> None:
    make, says = WRONG[wrong]
    with pytest.raises(RattleError, match=says):
        server_tls("127.0.0.1", security(tmp_path, make(authority)))


def test_a_service_is_known_by_a_name_of_its_certificate(tmp_path: Path, authority: Signed) -> None:
    own = security(tmp_path, make_server(authority, ["GPU-box"]), allowed_hosts=["other", "gpu-box"])
    tls = server_tls("0.0.0.0", own)  # noqa: S104
    assert tls is not None
    assert tls.name == "gpu-box"
    told = server_tls("127.0.0.1", own, "GPU-box")
    assert told is not None
    assert told.name == "GPU-box"
    with pytest.raises(RattleError, match="is not for elsewhere: make one with rattle certificates DIR --host elsewhe"):
        server_tls("0.0.0.0", own, "elsewhere")  # noqa: S104
    assert server_tls("0.0.0.0", SecuritySection()) is None  # noqa: S104


def _spoil(folder: Path, what: str, authority: Signed) -> None:
    pem, key = folder / "own.pem", folder / "own.key"
    match what:
        case "another key":
            key.unlink()
            pem.unlink()
            make_client(authority).write(folder / "own")
            pem.unlink()
            make_server(authority, LOCAL_HOSTS).write(folder / "x")
            (folder / "x.pem").rename(pem)
        case "readable":
            key.chmod(0o640)
        case "no key":
            key.unlink()
        case "key for certificate":
            pem.write_bytes(key.read_bytes())
        case "certificate for key":
            key.write_bytes(pem.read_bytes())
        case "passphrase":
            key.write_bytes(key.read_bytes().replace(b"BEGIN PRIVATE", b"BEGIN ENCRYPTED PRIVATE"))
        case "damaged":
            pem.write_bytes(pem.read_bytes()[:200] + b"\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("another key", r"own.key is not the key of the certificate .*own.pem: name the two files that were made tog"),
        ("readable", r"private_key: other users may read or write .*own.key: chmod 600 .*own.key"),
        ("no key", r"private_key: cannot read .*own.key: No such file"),
        ("key for certificate", r"certificate: .*own.pem holds no certificate in PEM"),
        ("certificate for key", r"private_key: .*own.key holds no private key in PEM"),
        ("passphrase", r"the key in .*own.key has a passphrase.*openssl pkey"),
        ("damaged", r"security.certificate: .*own.pem and .*own.key cannot be used"),
    ],
)
def test_files_that_cannot_be_used_are_named_by_services_and_clients(
    tmp_path: Path, authority: Signed, what: str, says: str
) -> None:
    own = security(tmp_path, make_server(authority, LOCAL_HOSTS))
    _spoil(tmp_path, what, authority)
    with pytest.raises(RattleError, match=says):
        server_tls("127.0.0.1", own)
    known = tls_files()
    try:
        keep_tls(own.tls_files())
        with pytest.raises(RattleError, match=says):
            tls_context()
    finally:
        keep_tls(known)


@pytest.mark.parametrize(
    "wrong",
    [
        {"certificate": "a.pem"},
        {"private_key": "a.key"},
        {"mutual": True},
        {"mutual": True, "certificate": "a.pem", "private_key": "a.key"},
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"go together|mutual needs"):
        SecuritySection.model_validate(wrong)


def test_programs_take_files_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATTLE_SECURITY__AUTHORITY", "a.pem")
    keep_tls(None)
    assert tls_files() == TlsFiles("a.pem")
    monkeypatch.setenv("RATTLE_SECURITY__CERTIFICATE", "b.pem")
    with pytest.raises(RattleError, match=r"security.certificate needs security.private_key"):
        tls_files()


def test_a_run_s_own_authority_is_offered_where_none_is_known(tmp_path: Path) -> None:
    policy = FoundPolicy(None, tmp_path, True, "https://a", None, TlsFiles("run.pem"))  # type: ignore[arg-type]
    try:
        keep_tls(TlsFiles())
        assert policy.url_for("snake") is None
        assert tls_files() == TlsFiles()
        assert policy.url_for(None) == "https://a"
        assert tls_files() == TlsFiles("run.pem")
        keep_tls(TlsFiles("mine.pem"))
        policy.url_for(None)
        assert tls_files() == TlsFiles("mine.pem")
        shown = TlsFiles("run.pem", "run-client.pem", "run-client.key")
        policy._replace(tls=shown).url_for(None)
        assert tls_files() == replace(shown, authority="mine.pem")
    finally:
        keep_tls(None)


def test_what_a_run_asked_its_server_with_is_read_from_its_settings(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.config.write_text("env: {url: 'https://a:1'}\nsecurity: {token_file: t, authority: a.pem, certificate: 7}\n")
    assert _played_in(run) == ("https://a:1", "t", TlsFiles("a.pem"), "never")
    run.config.write_text("env: {}\n")
    assert _played_in(run) == (None, None, TlsFiles(), "never")
