"""What this process trusts, and shows of itself, where it speaks TLS: as its settings or environment say.

All clients, HTTP and gRPC, take it from here; no file is read, and nothing costs anything, where no server has TLS.
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rattle.errors import RattleError
from rattle.tokens import read_secret

#: How long it may take to find out whether a server speaks TLS, in seconds.
PROBE_SECONDS = 2.0
#: The files that OpenSSL reads in a folder of certificates: each is named after the hash of its subject.
_HASHED = f"{'[0-9a-f]' * 8}.[0-9]"
_ADVICE = "rattle certificates makes a working set"


class TlsFileError(RattleError):
    """A file with certificates or a key cannot be used."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: of the authority that signs others, and a certificate of our own with its key."""

    authority: str | None = None
    certificate: str | None = None
    private_key: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            there, missing = ("certificate", "private_key") if self.certificate else ("private_key", "certificate")
            raise TlsFileError(f"security.{there} needs security.{missing}: {_ADVICE}")

    def __bool__(self) -> bool:
        return self.authority is not None or self.certificate is not None

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return what is in the files of certificate, key and authority, for libraries that open none."""
        return (
            read_certificates(self.certificate, "security.certificate") if self.certificate else None,
            read_key(self.private_key) if self.private_key else None,
            read_certificates(self.authority, "security.authority") if self.authority else None,
        )

    def add_own(self, context: ssl.SSLContext) -> None:
        """Show the certificate of our own, if there is one; raises TlsFileError."""
        self.read()
        if self.certificate is None:
            return
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except ssl.SSLError as error:
            raise TlsFileError(self._not_a_pair(error)) from None

    def add_authority(self, context: ssl.SSLContext) -> None:
        """Trust what the authority has signed; raises TlsFileError."""
        if self.authority is None:
            return
        self.read()
        try:
            context.load_verify_locations(self.authority)
        except ssl.SSLError as error:
            raise TlsFileError(f"security.authority: {self.authority} holds no certificate: {error.reason}") from None

    def _not_a_pair(self, error: ssl.SSLError) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return (
                f"security: {self.private_key} is not the key of the certificate {self.certificate}: name the two "
                "files that were made together in security.certificate and security.private_key"
            )
        return f"security.certificate: {self.certificate} and {self.private_key} cannot be used: {error.reason}"


class _KnownFiles:
    """What this process was told."""

    files: TlsFiles | None = None


def keep_tls(files: TlsFiles | None) -> None:
    """Have all clients of this process use these files from now on; None: those that the environment names."""
    _KnownFiles.files = files


def offer_tls(files: TlsFiles) -> None:
    """Have all clients use the authority if they know none, and the certificate if they have none."""
    known = tls_files()
    own = known if known.certificate else files
    keep_tls(TlsFiles(known.authority or files.authority, own.certificate, own.private_key))


def tls_files() -> TlsFiles:
    """Return the files of this process: those it was told, else those that environment variables name."""
    if _KnownFiles.files is not None:
        return _KnownFiles.files
    keys = ("AUTHORITY", "CERTIFICATE", "PRIVATE_KEY")
    return TlsFiles(*(os.environ.get(f"RATTLE_SECURITY__{key}") or None for key in keys))


def tls_context() -> ssl.SSLContext:
    """Return how clients check certificates: by the authority, else by those of SSL_CERT_FILE, else the system's.

    Servers that ask for a certificate are shown that of this process. Raises TlsFileError.
    """
    return _context(tls_files(), os.environ.get("SSL_CERT_FILE"))


@lru_cache(8)  # loading certificates takes longer than many a game
def _context(files: TlsFiles, _: str | None) -> ssl.SSLContext:
    return _new_context(files)


def _new_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if files.authority else ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files.add_authority(context)
    files.add_own(context)
    return context


def speaks_tls(host: str, port: int) -> bool:
    """Whether a server answers as one with TLS does; takes a moment at most, and believes no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), PROBE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # of a server that wants a certificate, say
    except OSError:
        return False


def greet(host: str, port: int) -> bool:
    """Make a connection as clients do, and listen for a moment; whether the server kept it open.

    Raises OSError, of which ssl.SSLError is one. Only what follows the handshake tells whether the server took our
    certificate: some say that they did not, others just hang up.
    """
    context = _new_context(tls_files())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), PROBE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        try:
            return bool(secured.recv(1))  # with which servers of HTTP/2 begin by themselves
        except TimeoutError:
            return True
        except (ssl.SSLEOFError, ConnectionError):
            return False


def system_authorities() -> bytes | None:
    """Return whom clients trust where no authority is named, for gRPC: None where it has to know itself."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return read_certificates(paths.cafile, "SSL_CERT_FILE")
    found = sorted(Path(paths.capath).glob(_HASHED)) if paths.capath else []
    return b"\n".join(read_certificates(str(path), "SSL_CERT_DIR") for path in found) or None


def read_certificates(path: str, setting: str) -> bytes:
    """Return the content of a file with certificates; raises TlsFileError for what holds none."""
    content = _read(path, setting)
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise TlsFileError(f"{setting}: {path} holds no certificate in PEM: {_ADVICE}")
    return content


def read_key(path: str, setting: str = "security.private_key") -> bytes:
    """Return the content of a file with a key, which no other user may read; raises TlsFileError."""
    content = _read(path, setting, private=True)
    if b"PRIVATE KEY-----" not in content:
        raise TlsFileError(f"{setting}: {path} holds no private key in PEM: {_ADVICE}")
    if b"ENCRYPTED" in content:
        raise TlsFileError(
            f"{setting}: the key in {path} has a passphrase, which services cannot ask for: take it away with "
            f"openssl pkey -in {path} -out {path}.plain, and chmod 600 {path}.plain"
        )
    return content


def _read(path: str, setting: str, *, private: bool = False) -> bytes:
    try:
        if private:
            return read_secret(path, 2**20)
        with Path(path).open("rb") as file:
            return file.read(2**20)
    except OSError as error:
        raise TlsFileError(f"{setting}: cannot read {path}: {error.strerror}; {_ADVICE}") from None
    except ValueError as error:
        raise TlsFileError(f"{setting}: {error}") from None
