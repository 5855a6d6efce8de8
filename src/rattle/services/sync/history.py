"""The history of a lockstep run in a file: a line for each complete phase, with the hashes that members gave."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from rattle.services.utils.sockets import ServiceError
from rattle.wire.lockstep import Phase

_BLOCK_BYTES = 2**16
#: How every line begins.
_BEGINNING = b'{"tick":'


class _HistoryLine(msgspec.Struct):
    tick: int  # as of whose end the hashes are: in the phase act, the tick before
    phase: str
    hashes: dict[str, str]


class LockstepHistory:
    """Appends phases to a file; an earlier life's unfinished last line is taken back, and its last phase not repeated.

    Each line is with the system when `write` returns, so that `kill -9` takes none of it.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; raises ServiceError when it cannot be had or holds something else."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise ServiceError(f"--history {path}: {error.strerror}; choose another file") from None
        try:
            self._last = self._mend()
        except BaseException:
            self.close()
            raise

    def is_complete(self, ticks: int) -> bool:
        """Say whether the file ends with what comes after the last of so many ticks."""
        return self._last == (ticks, Phase.ACT.name.lower())

    def write(self, tick: int, phase: Phase, hashes: Mapping[str, bytes]) -> None:
        """Append a phase, unless it is the one that the file ends with; raises ServiceError when that fails."""
        name = phase.name.lower()
        if self._last == (tick, name):  # repeated after a start, from what members have stored
            return
        line = _HistoryLine(tick, name, {subject: hashed.hex() for subject, hashed in sorted(hashes.items())})
        data = msgspec.json.encode(line) + b"\n"
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise ServiceError(f"{self._path}: {error.strerror}: no tick may follow that is not written") from None
        self._last = tick, name

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _mend(self) -> tuple[int, str] | None:
        """Return the last phase in the file, and cut off what follows it."""
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise ServiceError(f"--history {self._path}: this is no file; choose another")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(f"--history {self._path}: another service writes to it; choose another") from None
        last, unfinished = self._end()
        try:
            line = None if last is None else msgspec.json.decode(last, type=_HistoryLine)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._strange() from None
        if line is None and not _BEGINNING.startswith(unfinished[: len(_BEGINNING)]):
            raise self._strange()
        if unfinished:
            os.ftruncate(self._file, os.fstat(self._file).st_size - len(unfinished))
        return None if line is None else (line.tick, line.phase)

    def _end(self) -> tuple[bytes | None, bytes]:
        """Return the last complete line, if there is one, and what follows it."""
        start, data = os.fstat(self._file).st_size, b""
        while start > 0 and data.count(b"\n") < 2:
            begin = max(0, start - _BLOCK_BYTES)
            data = os.pread(self._file, start - begin, begin) + data
            start = begin
        complete, newline, unfinished = data.rpartition(b"\n")
        return complete.rpartition(b"\n")[2] if newline else None, unfinished

    def _strange(self) -> ServiceError:
        return ServiceError(f"--history {self._path}: the file holds something else than a history; choose another")
