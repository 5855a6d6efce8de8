"""Certificates for your own services and clients: an authority, and what it signs (X.509, ECDSA P-256)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rattle.errors import RattleError

#: By these every service of a machine is known to the others there.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
#: How long certificates are valid: browsers take no server's for longer than this.
_AUTHORITY_DAYS, _DAYS = 3650, 825
#: They begin so long ago, for clocks that are behind.
_CLOCK_SLACK = timedelta(hours=1)
_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")
_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)  # services ask each other, too
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


class CertificateError(RattleError):
    """Certificates cannot be made."""


@dataclass(frozen=True)
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    def write(self, stem: Path) -> tuple[Path, Path]:
        """Write STEM.pem, and STEM.key for its owner alone; raises FileExistsError, and OSError."""
        pem, key = stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}.key")
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(key, self.key.private_bytes(*form), 0o600)
        _write(pem, self.certificate.public_bytes(Encoding.PEM), 0o644)
        return pem, key


def make_authority(days: int = _AUTHORITY_DAYS, begins: datetime | None = None) -> Signed:
    """Return a new authority, which signs itself."""
    key = generate_private_key(SECP256R1())
    name = _named(f"Rattle authority {os.urandom(4).hex()}")
    builder = _begun(name, key, name, days, begins)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Signed(builder.sign(key, SHA256()), key)


def make_server(authority: Signed, hosts: Sequence[str], days: int = _DAYS, begins: datetime | None = None) -> Signed:
    """Return the certificate of services at these names and addresses; raises CertificateError for what is neither."""
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    return _sign(authority, hosts[0], _SERVER, days, begins, names)


def make_client(authority: Signed, days: int = _DAYS, begins: datetime | None = None) -> Signed:
    """Return a certificate for programs that ask services."""
    return _sign(authority, "Rattle client", _CLIENT, days, begins, [x509.DNSName("rattle-client")])


def make_set(folder: Path, hosts: Sequence[str]) -> tuple[Path, Path, Path]:
    """Make what services at these hosts need: the authority and a client's certificate if there are none yet.

    Returns the files of the authority, the services' certificate and its key, the latter named after the first host;
    they are also known as `LOCAL_HOSTS`. Raises CertificateError, or OSError; no file is written over.
    """
    hosts = (*hosts, *LOCAL_HOSTS)
    for host in hosts:
        _general_name(host)
    stem = folder / re.sub(r"[:*]", "_", hosts[0].lower())
    authority, client = folder / "authority", folder / "client"
    if stem in (authority, client):
        raise CertificateError(f"the files of '{hosts[0]}' would be called like others of the set: name it second")
    if (there := next((path for path in _both(stem) if path.exists()), None)) is not None:
        raise CertificateError(
            f"{there} is there already, so nothing was made: delete {stem}.pem and {stem}.key, or name another folder"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signing = _read_authority(authority) if any(path.exists() for path in _both(authority)) else None
    if signing is None:
        signing = make_authority()
        signing.write(authority)
    if not any(path.exists() for path in _both(client)):
        make_client(signing).write(client)
    return _both(authority)[0], *make_server(signing, hosts).write(stem)


def _read_authority(stem: Path) -> Signed:
    """Return the authority that is there; raises CertificateError where it cannot sign."""
    pem, key_file = _both(stem)
    try:
        certificate = x509.load_pem_x509_certificate(pem.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), None)
    except FileNotFoundError as error:
        raise CertificateError(
            f"{error.filename} is missing: certificates are made where the authority's key is, or in another folder"
        ) from None
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{pem} and {key_file} are no authority that can sign: {error}") from None
    try:
        certificate.verify_directly_issued_by(certificate)
        fits = isinstance(key, EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
    except (ValueError, TypeError, InvalidSignature):
        fits = False
    if not fits or not isinstance(key, EllipticCurvePrivateKey):
        raise CertificateError(f"{pem} and {key_file} are not an authority and its key as this command makes them")
    if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=_DAYS):
        raise CertificateError(
            f"the authority {pem} is valid until {certificate.not_valid_after_utc:%Y-%m-%d}, which is shorter than "
            "what it would sign: make a new one in another folder"
        )
    return Signed(certificate, key)


def _sign(
    authority: Signed,
    name: str,
    purposes: Sequence[x509.ObjectIdentifier],
    days: int,
    begins: datetime | None,
    names: Sequence[x509.GeneralName],
) -> Signed:
    key = generate_private_key(SECP256R1())
    builder = _begun(_named(name), key, authority.certificate.subject, days, begins)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage(purposes), False),
        (x509.SubjectAlternativeName(names), False),
        (signer, False),
    ):
        builder = builder.add_extension(extension, critical)
    return Signed(builder.sign(authority.key, SHA256()), key)


def _begun(
    subject: x509.Name, key: EllipticCurvePrivateKey, issuer: x509.Name, days: int, begins: datetime | None
) -> x509.CertificateBuilder:
    begins = begins or datetime.now(UTC) - _CLOCK_SLACK
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(identifier, critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        if _NAME.fullmatch(host) and len(host) < 254:
            return x509.DNSName(host)
        raise CertificateError(
            f"'{host}' is no name or address of a host, such as gpu-box, gpu-box.example.org or 10.0.0.5: without a "
            "scheme and a port"
        ) from None
    if address.is_unspecified:
        raise CertificateError(
            f"{host} means all addresses of a machine: give the names and addresses that clients use"
        )
    return x509.IPAddress(address)


def _both(stem: Path) -> tuple[Path, Path]:
    return stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}.key")


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
