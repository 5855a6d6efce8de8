"""Addresses of servers, read once for all who speak to one, and their credentials, which are kept apart from them.

What is stored, shown or handed to another process never holds a password: settings keep an address without its
credentials, which this process and the services that it starts look up when they connect.
"""

from __future__ import annotations

import os
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from rattle.errors import RattleError
from rattle.text import one_line
from rattle.tls import greet, speaks_tls
from rattle.tokens import bearer

#: The environment variable with credentials: addresses that hold them, apart by blanks.
CREDENTIALS_VARIABLE = "RATTLE_CREDENTIALS"

#: By kind of server, the schemes of its URLs and the port of each where the URL names none.
HTTP = MappingProxyType({"http": 80, "https": 443})
AMQP = MappingProxyType({"amqp": 5672, "amqps": 5671})
_ALL = MappingProxyType({**HTTP, **AMQP})
_WITH_TLS = frozenset({"https", "amqps"})

#: By address without credentials: the same address with those that were told to this process. Nothing is removed.
_kept: dict[str, str] = {}

#: OpenSSL's codes of what is wrong with a certificate. The first are: signed by itself, or by an unknown authority.
_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
_NOT_YET_VALID, _EXPIRED = 9, 10
_OF_ANOTHER_HOST = frozenset({62, 64})
_NOT_FOR_THIS = 26
#: What a server without TLS makes of the first message of TLS, or what is made of its answer.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
_OWN = "security.certificate and security.private_key"
#: The alerts of a server that does not take what we have shown of ourselves, by the end of their names.
_ALERTS = {
    "CERTIFICATE_REQUIRED": f"wants a certificate of its clients: name one that its authority has signed in {_OWN}",
    "HANDSHAKE_FAILURE": f"may want a certificate of its clients: name one that its authority has signed in {_OWN}",
    "UNKNOWN_CA": "does not know the authority that has signed our certificate, security.certificate",
    "CERTIFICATE_EXPIRED": "says that our certificate, security.certificate, is not valid now: look at the clocks, or "
    "make a new one",
    "BAD_CERTIFICATE": "does not accept our certificate, security.certificate",
    "UNSUPPORTED_CERTIFICATE": "does not accept our certificate, security.certificate, as that of a client",
    "PROTOCOL_VERSION": "speaks no version of TLS from 1.2 on",
}


@dataclass(frozen=True)
class ServerAddress:
    """The parts of a server's URL; `url` is without credentials and goes into messages.

    `authority` is what the Host header says, `prefix` what stands before every path; `user` and `password` are None
    where no credentials are known.
    """

    url: str
    tls: bool
    host: str
    port: int
    authority: str
    prefix: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)  # which counts where there are no user and password

    @property
    def authorization(self) -> str | None:
        """Return the value of the header of that name, None where no credentials are known."""
        if not self.has_credentials:
            return None if self.token is None else bearer(self.token)
        pair = f"{self.user or ''}:{self.password or ''}"
        return f"Basic {b64encode(pair.encode()).decode()}"

    @property
    def has_credentials(self) -> bool:
        """Whether a user or a password is known."""
        return bool(self.user or self.password)

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that carry the credentials."""
        return {"Authorization": self.authorization} if self.authorization else {}

    def is_below(self, other: ServerAddress) -> bool:
        """Whether this is an address of the same server, at the other's path or below it."""
        same = (self.tls, self.host, self.port) == (other.tls, other.host, other.port)
        return same and (self.prefix + "/").startswith(other.prefix + "/")

    def is_same(self, other: ServerAddress) -> bool:
        """Whether this is the address of the same place, however it is written."""
        return self.is_below(other) and other.is_below(self)


def parse_address(url: str, schemes: Mapping[str, int] = HTTP) -> ServerAddress:
    """Return the parts of a URL such as http://HOST:PORT/PREFIX; its credentials are those in it, or the known ones.

    `schemes` are those that it may have, with the port of each. Raises ValueError for what is no such URL, and
    RattleError where the environment variable cannot be read.
    """
    address = _parse(url, schemes)
    if address.has_credentials:
        return address
    known = [other for other in map(_parse, _known()) if address.is_below(other)]
    nearest = max(known, key=lambda other: len(other.prefix), default=address)
    return replace(address, user=nearest.user, password=nearest.password)


def keep_credentials(url: str, schemes: Mapping[str, int] = HTTP) -> str:
    """Return a URL without the credentials in it, and keep those: who connects to it later sends them all the same.

    Raises ValueError for what is no URL of a server, with one of the schemes.
    """
    address = _parse(url, schemes)
    if not address.has_credentials:
        return url
    _kept[address.url] = url
    return address.url


def credentials_for_children() -> dict[str, str]:
    """Return the environment variable that tells other processes all credentials that this one knows."""
    known = " ".join(_known())
    return {CREDENTIALS_VARIABLE: known} if known else {}


def tls_problem(url: str, error: BaseException | None) -> str | None:
    """Return what to say, with advice, where a connection to `url` failed because of TLS; None where it did not.

    That does not go away by itself. An error may be the cause of others: HTTP libraries wrap what they meet.
    """
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if isinstance(error, ssl.SSLCertVerificationError):
        return one_line(f"the certificate of {url} is not accepted: {certificate_problem(error, url)}")
    if not isinstance(error, ssl.SSLError):
        return None
    reason = error.reason or ""
    if reason in _NO_TLS:
        return without_tls(url)
    said = next((says for name, says in _ALERTS.items() if reason.endswith(f"ALERT_{name}")), None)
    return None if said is None else f"{url} {said}"


def without_tls(url: str) -> str:
    """Return what to say of a server that has no TLS where its address says that it has."""
    scheme, _, rest = url.partition("://")
    if not rest:
        return f"{url} does not speak TLS: start it with security.certificate, or ask it without security.authority"
    return f"{url} does not speak TLS: write it as {scheme.removesuffix('s')}://"


def why_no_tls(url: str, host: str, port: int, *, tls: bool) -> str | None:
    """Return what is wrong with `tls`, or with none of it, at a server; None where that is not why it cannot be asked.

    A connection is made for it, which takes PROBE_SECONDS at most.
    """
    if not tls:
        return with_tls(url) if speaks_tls(host, port) else None
    try:
        return None if greet(host, port) else hung_up(url)
    except OSError as error:
        return tls_problem(url, error)


def hung_up(url: str) -> str:
    """Return what to say of a server that hangs up as soon as it has seen our certificate, or has seen none."""
    return f"{url} hangs up when TLS begins: does it want a certificate of its clients, or another than {_OWN} name?"


def with_tls(url: str) -> str:
    """Return what to say of a server that has TLS where its address says that it has none."""
    scheme, _, rest = url.partition("://")
    if not rest:
        return f"{url} speaks TLS: name the authority that signed its certificate in security.authority"
    return f"{url} speaks TLS: write it as {scheme}s://{rest}"


def certificate_problem(error: ssl.SSLCertVerificationError, url: str = "") -> str:
    """Return what is wrong with a certificate, and what to do; `url` is that of the server that has shown it."""
    code, said = error.verify_code, error.verify_message.rstrip(".")
    if code in _UNKNOWN_AUTHORITY:
        where = "the environment variable SSL_CERT_FILE"
        if not url.startswith("amqps://"):
            where = f"security.authority (for clients: --authority, or RATTLE_SECURITY__AUTHORITY), or in {where}"
        return f"{said}: name the file of the authority that signed it in {where}"
    if code in (_NOT_YET_VALID, _EXPIRED):
        now = datetime.now(UTC)
        return f"{said}: make a new one, unless the clock here is wrong, which says {now:%Y-%m-%d %H:%M} UTC"
    if code in _OF_ANOTHER_HOST:
        return f"{said}: use a name that it is for, or make one for this with rattle certificates --host"
    if code == _NOT_FOR_THIS:
        return f"{said}: name one that is made for servers"
    return said


def without_credentials(url: str) -> str:
    """Return a URL, or what should be one, as it may be shown: printable, and without the user and password in it."""
    return one_line(re.sub(r"^([\w+.-]+://)?.*@", r"\1", url, flags=re.DOTALL), 200)


def hide_credentials(text: str) -> str:
    """Return a text without the user and password of a URL in it, on one line."""
    return one_line(re.sub(r"://.*@", "://…@", text, flags=re.DOTALL))


def _parse(url: str, schemes: Mapping[str, int] = _ALL) -> ServerAddress:
    wrong = f"'{without_credentials(url)}' is no server's address: write it as {next(iter(schemes))}://HOST:PORT"
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme not in schemes or not host or not url.isprintable() or " " in url:
        raise ValueError(wrong)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"'{without_credentials(url)}' has a port that is not a number from 0 to 65535") from None
    authority, prefix = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
    return ServerAddress(
        url=f"{parts.scheme}://{authority}{prefix}",
        tls=parts.scheme in _WITH_TLS,
        host=host,
        port=schemes[parts.scheme] if port is None else port,
        authority=authority,
        prefix=prefix,
        user=unquote(parts.username or "") or None,
        password=unquote(parts.password or "") or None,
    )


def _known() -> list[str]:
    """List the URLs with credentials that this process was told: in its settings, and by its environment."""
    told = os.environ.get(CREDENTIALS_VARIABLE, "").split()
    for url in told:
        if not _holds_credentials(url):
            raise RattleError(
                f"{CREDENTIALS_VARIABLE} holds something that is no address with user and password. Write it as "
                "http://USER:PASSWORD@HOST:PORT, and several of them apart by blanks"
            )
    return list(({_parse(url).url: url for url in told} | _kept).values())  # what the settings say wins


def _holds_credentials(url: str) -> bool:
    try:
        return _parse(url).has_credentials
    except ValueError:
        return False
