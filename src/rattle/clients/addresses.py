"""What all clients of servers do alike: read addresses, check certificates, and tell redirects from answers.

No client takes a proxy from the environment, so that `http_proxy` changes nothing: servers are often on this machine.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urljoin

from rattle.addresses import ServerAddress, parse_address, tls_problem, why_no_tls, without_credentials
from rattle.clients.errors import BadAnswer, ClientError, ConnectionBroken, NotTrusted
from rattle.text import one_line
from rattle.tokens import token_for

#: A channel option of gRPC, which takes proxies from the environment otherwise.
GRPC_WITHOUT_PROXY = ("grpc.enable_http_proxy", 0)


def read_address(url: str) -> ServerAddress:
    """Return the parts of a URL such as http://HOST:PORT/PREFIX, and what to send there as credentials.

    Raises ClientError for what is no such URL.
    """
    try:
        address = parse_address(url)
        return replace(address, token=token_for(address.url))
    except ValueError as error:
        raise ClientError(str(error)) from None


def no_connection(url: str, error: Exception, why: str, kind: type[ConnectionBroken]) -> ClientError:
    """Return the error for a connection that was not made: of a `kind` that is tried again, unless TLS is why."""
    problem = tls_problem(url, error)
    return NotTrusted(problem) if problem else kind(f"no connection to {url}: {why}")


def broken_connection(address: ServerAddress, error: Exception, *, is_first: bool) -> ClientError:
    """Return the error for a connection that broke, which TLS is the cause of where the two sides do not agree on it.

    Where `is_first`, the server has answered nothing so far: it is looked for the cause, which takes a moment.
    """
    problem = tls_problem(address.url, error)
    if problem is None and is_first:
        problem = why_no_tls(address.url, address.host, address.port, tls=address.tls)
    return NotTrusted(problem) if problem else ConnectionBroken(f"{address.url} broke the connection: {why_of(error)}")


def why_of(error: BaseException) -> str:
    """Return what an error of a connection says, in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    return one_line(said) or type(error).__name__


def check_status(url: str, path: str, status: int, location: str | None, *, allowed: tuple[int, ...] = (200,)) -> None:
    """Raise BadAnswer for a status below 400 that is not allowed; a redirect's says which address to use instead."""
    if status in allowed or status >= 400:
        return
    if status in (301, 302, 303, 307, 308) and location:
        moved = without_credentials(urljoin(url + path, location)).removesuffix(path).rstrip("/")
        raise BadAnswer(f"{url} has moved to {moved}: use that address")
    raise BadAnswer(f"{url} answered with status {status} where {allowed[0]} belongs")
