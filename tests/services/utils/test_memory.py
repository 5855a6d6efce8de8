"""What a burst has taken goes back to the system."""

from __future__ import annotations

import platform
import resource
import time
from pathlib import Path

import pytest

from rattle.services.utils import memory

PATIENCE = 60.0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the C library of GNU keeps memory so")
def test_what_is_free_is_given_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CALM_SECONDS", 0.01)
    blocks = [bytearray(b"x" * 2**16) for _ in range(2000)]
    kept = blocks[::100]  # so that the heap does not shrink by itself
    del blocks
    before = resident()
    for _ in range(3):
        memory.give_memory_back_soon()
    until = time.monotonic() + PATIENCE
    while before - resident() < 50 * 2**20:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert kept
