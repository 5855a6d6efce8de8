"""What all clients of servers do alike: read addresses, check certificates, and tell redirects from answers.

No client takes a proxy from the environment, so that `http_proxy` changes nothing: servers are often on this machine.
"""

from __future__ import annotations

import ssl
from functools import cache
from urllib.parse import urljoin

from rattle.addresses import ServerAddress, parse_address, without_credentials
from rattle.clients.errors import BadAnswer, ClientError

#: A channel option of gRPC, which takes proxies from the environment otherwise.
GRPC_WITHOUT_PROXY = ("grpc.enable_http_proxy", 0)


def read_address(url: str) -> ServerAddress:
    """Return the parts of a URL such as http://HOST:PORT/PREFIX; raises ClientError for what is none."""
    try:
        return parse_address(url)
    except ValueError as error:
        raise ClientError(str(error)) from None


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
