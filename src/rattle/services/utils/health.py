"""Ask the service of this container whether it is well: `python -m rattle.services.utils.health [--ready]`.

A service writes where it listens into the file that `ADDRESS_FILE` names, and this command asks it there: over HTTP for
`/healthz`, with `--ready` for `/readyz`; or by the standard health service of gRPC for the server, with `--ready` for
its service by name. It exits with 0 where the answer is good; else it says in one line what is wrong, and exits with 1.
It imports little: containers run it every few seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rattle.output import hush_libraries

if TYPE_CHECKING:
    from rattle.services.utils.server_tls import ServerTls

#: The environment variable that names the file.
VARIABLE = "ADDRESS_FILE"
_SECONDS = 9.0
#: Addresses that mean all interfaces of this machine, and the one that reaches it.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class Unwell(Exception):
    """A service does not answer, or not as it should."""


def tell_address(
    protocol: Literal["http", "grpc"], host: str, port: int, tls: ServerTls | None, service: str = ""
) -> None:
    """Write where this process serves for those who ask on the same machine, if they have named a file for it.

    `service` is the full name of what is served over gRPC. Where the file cannot be written, the service goes on, and
    they say so.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    about: dict[str, Any] = {"protocol": protocol, "host": _LOOPBACK.get(host, host), "port": port, "service": service}
    if tls is not None:
        own = [str(Path(file).absolute()) for file in (tls.files.certificate, tls.files.private_key) if file]
        about |= {"name": tls.name, "certificate": own[0], "private_key": own[1]}
    part = Path(f"{path}.{os.getpid()}")
    with suppress(OSError):
        part.write_text(json.dumps(about))
        part.replace(path)


def check(about: dict[str, Any], *, ready: bool) -> None:
    """Ask a service whether it lives, or is ready; raises Unwell in one line."""
    try:
        if about["protocol"] == "grpc":
            _check_grpc(about, about["service"] if ready else "")
        else:
            _check_http(about, "/readyz" if ready else "/healthz")
    except (OSError, http.client.HTTPException) as error:
        raise Unwell(f"no answer at port {about['port']}: {error}") from None


def _check_http(about: dict[str, Any], path: str) -> None:
    host, port = about["host"], about["port"]
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    connection.connect()
    if "certificate" in about:  # the service's own certificate is all that is trusted, whatever has signed it
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(about["certificate"])
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(about["certificate"], about["private_key"])
        connection.sock = context.wrap_socket(connection.sock, server_hostname=about["name"])
    connection.request("GET", path, headers={"Host": "localhost"})
    answer = connection.getresponse()
    said = answer.read(2000).decode(errors="replace")
    connection.close()
    if answer.status != 200:
        raise Unwell(f"{path} answers {answer.status}: {_reason(said)}")


def _reason(said: str) -> str:
    """Return what a problem says of itself (RFC 9457), in one line."""
    try:
        content = json.loads(said)
        said = str(content.get("detail") or content.get("title") or said)
    except (ValueError, AttributeError):
        pass
    return " ".join(said.split())[:300]


def _check_grpc(about: dict[str, Any], service: str) -> None:
    hush_libraries()
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

    host = f"[{about['host']}]" if ":" in about["host"] else about["host"]
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if "certificate" in about:
        certificate, key = (Path(about[name]).read_bytes() for name in ("certificate", "private_key"))
        options.append(("grpc.ssl_target_name_override", about["name"]))
        credentials = grpc.ssl_channel_credentials(certificate, key, certificate)
        channel = grpc.secure_channel(f"{host}:{about['port']}", credentials, options)
    else:
        channel = grpc.insecure_channel(f"{host}:{about['port']}", options)
    with channel:
        ask = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            status = ask(HealthCheckRequest(service=service), timeout=_SECONDS).status
        except grpc.RpcError as error:
            raise Unwell(f"no answer at port {about['port']}: {error.code().name}") from None
    if status != HealthCheckResponse.SERVING:
        raise Unwell(f"the service is {HealthCheckResponse.ServingStatus.Name(status)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, say what is wrong, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rattle.services.utils.health", description=__doc__)
    parser.add_argument("--ready", action="store_true", help="ask whether requests are welcome, not whether it lives")
    ready = parser.parse_args(arguments).ready
    path = os.environ.get(VARIABLE)
    try:
        if not path:
            raise Unwell(f"{VARIABLE} names no file, so nobody knows where the service listens")
        try:
            about = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise Unwell("the service is starting: it listens nowhere yet") from None
        except (OSError, ValueError) as error:
            raise Unwell(f"cannot read {path}: {error}") from None
        check(about, ready=ready)
    except Unwell as problem:
        sys.stdout.write(f"{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
