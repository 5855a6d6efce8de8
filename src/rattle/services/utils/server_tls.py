"""TLS of services: the certificate that they show, what they ask of clients, and what is wrong with it at the start."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import cached_property

from rattle.addresses import certificate_problem
from rattle.services.utils.sockets import EVERYWHERE, ServiceError, reachable
from rattle.settings.services import SecuritySection
from rattle.tls import TlsFiles, tls_context


@dataclass(frozen=True)
class ServerTls:
    """How a service speaks TLS; `name` is the host by which its certificate lets clients know it."""

    files: TlsFiles
    mutual: bool
    name: str

    @cached_property
    def context(self) -> ssl.SSLContext:
        """Return what connections are accepted with."""
        return _server_context(self.files, mutual=self.mutual)


def server_tls(host: str, security: SecuritySection, advertise: str | None = None) -> ServerTls | None:
    """Return how a service that listens on `host`, and is called `advertise`, speaks TLS; None where it does not.

    Raises TlsFileError or ServiceError, in one line, for a certificate that clients would not take.
    """
    files = security.tls_files()
    if files.certificate is None:
        return None
    context = _server_context(files, mutual=False)
    problem = _problem(context, files.certificate, None)
    if problem is not None:
        raise ServiceError(f"security.certificate: {files.certificate}: {problem}")
    names = _names(host, security) if advertise is None else (advertise,)
    fitting = next((name for name in names if _problem(context, files.certificate, name) is None), None)
    if fitting is None:
        raise ServiceError(
            f"security.certificate: {files.certificate} is not for {' or '.join(names)}: make one with rattle "
            f"certificates DIR --host {names[0]}, or name the host that it is for in security.allowed_hosts"
        )
    return ServerTls(files, security.mutual, fitting)


def check_trust(tls: ServerTls) -> None:
    """Raise ServiceError where the clients of this process would not take what it serves, or it would not take them."""
    try:
        shake_hands(tls.context, tls_context(), tls.name)
    except ssl.SSLCertVerificationError as error:
        signed = f"{tls.files.certificate} is not taken by services that ask each other"
        raise ServiceError(f"security.certificate: {signed}: {certificate_problem(error)}") from None


def _names(host: str, security: SecuritySection) -> tuple[str, ...]:
    """List the hosts by which clients may know a service, the best first."""
    own = reachable(host)
    if host in EVERYWHERE:
        return tuple(dict.fromkeys((own, *security.allowed_hosts, "127.0.0.1", "localhost")))
    local = ("localhost",) if own in ("127.0.0.1", "::1") else ()
    return tuple(dict.fromkeys((own, *local, *security.allowed_hosts)))


def _server_context(files: TlsFiles, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files.add_own(context)
    if mutual:
        files.add_authority(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _problem(context: ssl.SSLContext, certificate: str, name: str | None) -> str | None:
    """Return why a client that trusts this certificate would not take it as that of a server called `name`."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(certificate)
    trusting.check_hostname = name is not None
    try:
        shake_hands(context, trusting, name)
    except ssl.SSLCertVerificationError as error:
        return certificate_problem(error)
    return None


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> None:
    """Have two contexts speak to each other within this process; raises ssl.SSLError as the first of them does."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
