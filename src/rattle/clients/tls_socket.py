"""TLS on a blocking socket, for messages of many records."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import cast

from rattle.tls import tls_context

#: What is read at a time: several records, each of at most 16 KiB.
_READ_BYTES = 2**18


class TlsSocket:
    """Sends and receives as a socket does; what has come is read at once, and decrypted into the caller's buffer.

    The standard library's own asks the system twice for each record, and hands records over one by one. Making one
    raises OSError, of which ssl.SSLError is one, as sending and receiving do.
    """

    def __init__(self, plain: socket.socket, host: str) -> None:
        """Have the server on a connection show its certificate for `host`; `close` closes the connection."""
        self._plain = plain
        self._sealed, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._arrivals = memoryview(bytearray(_READ_BYTES))
        self._ended = False
        self._tls = tls_context().wrap_bio(self._sealed, self._to_send, server_hostname=host)
        self._shake_hands()

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]
        self._flush()

    def recv_into(self, buffer: memoryview) -> int:
        """Wait for data, and return how many bytes of it are in the buffer now: 0 when there are no more to come."""
        while not (count := self._decrypt(buffer)) and not self._ended:
            self._fetch()
        return count

    def close(self) -> None:
        """Close without a goodbye, as the standard library's own does: messages say themselves where they end."""
        self._plain.close()

    def _decrypt(self, buffer: memoryview) -> int:
        """Decrypt what has come, as far as there is room; return how many bytes that are."""
        count = 0
        try:
            while count < len(buffer) and (self._sealed.pending or self._tls.pending() or self._sealed.eof):
                got = cast(int, self._tls.read(len(buffer) - count, buffer[count:]))
                count += got
                if not got:
                    raise ssl.SSLZeroReturnError
        except ssl.SSLWantReadError:  # the rest of a record is still on its way
            self._flush()  # what the protocol itself may have to answer
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        except ssl.SSLError:
            self._say_why()
            raise
        return count

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fetch()
            except ssl.SSLError:
                self._say_why()
                raise
            else:
                self._flush()
                return

    def _fetch(self) -> None:
        count = self._plain.recv_into(self._arrivals)
        if count:
            self._sealed.write(self._arrivals[:count])
        else:
            self._sealed.write_eof()

    def _flush(self) -> None:
        if self._to_send.pending:
            self._plain.sendall(self._to_send.read())

    def _say_why(self) -> None:
        """Send the server the alert that says why the connection ends, if it still listens."""
        with suppress(OSError):
            self._flush()
