"""Where a server is, read once for all clients: its address, its credentials, and how messages show it.

No client takes a proxy from the environment, so that `http_proxy` changes nothing: servers are often on this machine.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote, urljoin, urlsplit

from rattle.clients.errors import BadAnswer, ClientError
from rattle.text import one_line

#: A channel option of gRPC, which takes proxies from the environment otherwise.
GRPC_WITHOUT_PROXY = ("grpc.enable_http_proxy", 0)


@dataclass(frozen=True)
class ServerAddress:
    """The parts of a server's URL; `url` is without credentials and goes into messages.

    `authority` is what the Host header says, `prefix` what stands before every path, and `authorization` the value of
    the header of that name, None where the URL holds no credentials.
    """

    url: str
    tls: bool
    host: str
    port: int
    authority: str
    prefix: str
    authorization: str | None

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that carry the credentials."""
        return {"Authorization": self.authorization} if self.authorization else {}


def read_address(url: str) -> ServerAddress:
    """Return the parts of a URL such as http://HOST:PORT/PREFIX; raises ClientError for what is none."""
    wrong = f"'{without_credentials(url)}' is no server's address: write it as http://HOST:PORT"
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise ClientError(wrong) from None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise ClientError(wrong)
    try:
        port = parts.port
    except ValueError:
        raise ClientError(f"'{without_credentials(url)}' has a port that is no number from 0 to 65535") from None
    authority, prefix, tls = parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), parts.scheme == "https"
    return ServerAddress(
        url=f"{parts.scheme}://{authority}{prefix}",
        tls=tls,
        host=host,
        port=(443 if tls else 80) if port is None else port,
        authority=authority,
        prefix=prefix,
        authorization=_basic(parts.username, parts.password),
    )


def without_credentials(url: str) -> str:
    """Return a URL as it may be shown: printable, and without the user and password in it."""
    return one_line(re.sub(r"^(\w+://)?.*@", r"\1", url, flags=re.DOTALL), 200)


def check_status(url: str, path: str, status: int, location: str | None, *, allowed: tuple[int, ...] = (200,)) -> None:
    """Raise BadAnswer for a status below 400 that is not allowed; a redirect's says which address to use instead."""
    if status in allowed or status >= 400:
        return
    if status in (301, 302, 303, 307, 308) and location:
        moved = without_credentials(urljoin(url + path, location)).removesuffix(path).rstrip("/")
        raise BadAnswer(f"{url} has moved to {moved}: use that address")
    raise BadAnswer(f"{url} answered with status {status} where {allowed[0]} belongs")


@cache
def tls_context() -> ssl.SSLContext:
    """Return how certificates are checked: by those of the system, or of SSL_CERT_FILE."""
    return ssl.create_default_context()


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"
