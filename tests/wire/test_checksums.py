"""Every damage of a message is noticed by its checksum, which is the standard's."""

from __future__ import annotations

import numpy as np

from rattle.wire.checksums import add_checksum, is_whole

MESSAGE = add_checksum(bytes(range(256)), b"crc")


def test_the_checksum_is_that_of_rfc_3720() -> None:
    assert add_checksum(b"12345", b"6789")[-4:] == 0xE3069283.to_bytes(4, "little")  # the check value of CRC-32C
    assert add_checksum(bytes(30), bytes(2))[-4:] == 0x8A9136AA.to_bytes(4, "little")  # RFC 3720, B.4


def test_a_message_is_kept_as_it_is() -> None:
    assert MESSAGE[:-4] == bytes(range(256)) + b"crc"
    assert is_whole(MESSAGE)


def test_every_flipped_bit_and_every_lost_byte_is_noticed() -> None:
    for bit in range(8 * len(MESSAGE)):
        damaged = bytearray(MESSAGE)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not is_whole(bytes(damaged)), bit
    assert not any(is_whole(MESSAGE[:length]) for length in range(len(MESSAGE)))


def test_bursts_of_up_to_32_bits_are_noticed() -> None:
    random = np.random.default_rng(5)
    whole = int.from_bytes(MESSAGE, "little")
    for _ in range(2000):
        burst = int(random.integers(1, 2**32)) << int(random.integers(8 * len(MESSAGE) - 32))
        assert not is_whole((whole ^ burst).to_bytes(len(MESSAGE), "little"))
