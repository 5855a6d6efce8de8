"""TLS on a blocking socket: what comes through it, how it ends, and how often the system is asked."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from rattle.certificates import make_set
from rattle.clients.tls_socket import TlsSocket
from rattle.tls import TlsFiles, keep_tls

SECONDS = 20.0
MESSAGE = bytes(range(256)) * 300  # of five records


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssl.SSLContext]:
    """Return how a server speaks TLS that this process trusts."""
    authority, certificate, key = make_set(tmp_path_factory.mktemp("tls") / "set", [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    keep_tls(TlsFiles(str(authority)))
    yield context
    keep_tls(None)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Return threads for the other side."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Here(socket.socket):
    """This side of a connection: counts how often it is read, and gives parts or damaged bytes where that is wanted."""

    reads = 0
    most = 2**18
    damages = False

    def recv_into(self, buffer: memoryview, *_: object) -> int:  # type: ignore[override]
        """Read."""
        self.reads += 1
        count = super().recv_into(buffer[: self.most])
        if self.damages:
            buffer[count - 1] ^= 1
        return count


def pair() -> tuple[Here, socket.socket]:
    near, there = socket.socketpair()
    here = Here(fileno=near.detach())
    for end in (here, there):
        end.settimeout(SECONDS)
    return here, there


def talk(
    server: ssl.SSLContext, threads: ThreadPoolExecutor, says: Callable[[ssl.SSLSocket], None], there: socket.socket
) -> Future[None]:
    """Have a server shake hands, say something and close."""

    def serve() -> None:
        with server.wrap_socket(there, server_side=True) as secured:
            says(secured)

    return threads.submit(serve)


def read_to_end(secured: TlsSocket, room: int) -> bytes:
    """Return all that comes, in parts that fit into a buffer."""
    buffer, whole = memoryview(bytearray(room)), b""
    while count := secured.recv_into(buffer):
        whole += buffer[:count]
    assert secured.recv_into(buffer) == 0  # and so it stays
    return whole


def test_all_records_that_have_come_are_read_at_once(server: ssl.SSLContext, threads: ThreadPoolExecutor) -> None:
    here, there = pair()
    ready, done = threading.Event(), threading.Event()

    def says(secured: ssl.SSLSocket) -> None:
        secured.sendall(MESSAGE)
        ready.set()
        assert done.wait(SECONDS)

    talking = talk(server, threads, says, there)
    secured = TlsSocket(here, "localhost")
    assert ready.wait(SECONDS)
    here.reads = 0
    buffer = memoryview(bytearray(2**18))
    count = secured.recv_into(buffer)
    assert bytes(buffer[:count]) == MESSAGE
    assert here.reads == 1
    done.set()
    talking.result(SECONDS)
    secured.close()


@pytest.mark.parametrize("room", [1000, 2**14, 2**18])
def test_what_is_sent_comes_back_whole(server: ssl.SSLContext, threads: ThreadPoolExecutor, room: int) -> None:
    here, there = pair()
    sent = MESSAGE * 20

    def echo(secured: ssl.SSLSocket) -> None:
        received = b""
        while len(received) < len(sent):
            received += secured.recv(2**16)
        secured.sendall(received)
        with suppress(OSError):  # the goodbye is not answered
            secured.unwrap()

    talking = talk(server, threads, echo, there)
    secured = TlsSocket(here, "localhost")
    secured.sendall(sent)
    assert read_to_end(secured, room) == sent
    secured.close()
    talking.result(SECONDS)


def test_records_that_come_byte_by_byte_are_put_together(server: ssl.SSLContext, threads: ThreadPoolExecutor) -> None:
    here, there = pair()
    here.most = 1
    talking = talk(server, threads, lambda secured: secured.sendall(b"in small pieces"), there)
    secured = TlsSocket(here, "localhost")
    assert read_to_end(secured, 2**18) == b"in small pieces"  # and then an end without a goodbye
    secured.close()
    talking.result(SECONDS)


def test_silence_ends_with_a_time_out(server: ssl.SSLContext, threads: ThreadPoolExecutor) -> None:
    here, there = pair()
    done = threading.Event()

    def says(_: ssl.SSLSocket) -> None:
        assert done.wait(SECONDS)

    talking = talk(server, threads, says, there)
    secured = TlsSocket(here, "localhost")
    here.settimeout(0.01)
    with pytest.raises(TimeoutError):
        secured.recv_into(memoryview(bytearray(10)))
    done.set()
    talking.result(SECONDS)
    secured.close()


def test_a_server_is_told_that_its_certificate_is_not_taken(
    server: ssl.SSLContext, threads: ThreadPoolExecutor
) -> None:
    here, there = pair()
    talking = talk(server, threads, lambda _: None, there)
    with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
        TlsSocket(here, "elsewhere")
    with pytest.raises(ssl.SSLError, match="ALERT"):
        talking.result(SECONDS)
    here.close()


def test_a_server_that_goes_in_the_middle_of_the_handshake_is_an_error() -> None:
    here, there = pair()
    there.shutdown(socket.SHUT_WR)
    with pytest.raises(ssl.SSLEOFError):
        TlsSocket(here, "localhost")
    here.close()
    there.close()


def test_damage_on_the_way_is_an_error(server: ssl.SSLContext, threads: ThreadPoolExecutor) -> None:
    here, there = pair()
    told: list[ssl.SSLError] = []

    def says(secured: ssl.SSLSocket) -> None:
        secured.sendall(MESSAGE)
        try:
            secured.recv(1)
        except ssl.SSLError as error:
            told.append(error)

    talking = talk(server, threads, says, there)
    secured = TlsSocket(here, "localhost")
    here.damages = True
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        read_to_end(secured, 2**18)
    talking.result(SECONDS)
    assert told[0].reason == "SSLV3_ALERT_BAD_RECORD_MAC"
    secured.close()
