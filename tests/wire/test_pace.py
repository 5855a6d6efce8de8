"""Sealed datagrams of pace: as docs/sync-api.md says them, for those who make them in other languages."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from rattle.wire.pace import Beat, PaceCodec, Question

KEY = bytes(range(32))
LIFE, NONCE = "00000000000000aa", "00000000000000bb"
TIMESTAMP = "2026-03-01T12:00:01.600000+00:00"
PAGE = Path(__file__).parents[2] / "docs" / "sync-api.md"


def seal(text: str) -> str:
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()[:32]


def test_the_bytes_and_the_seal_are_those_of_the_page() -> None:
    beat = Beat(sequence=17, timestamp=TIMESTAMP, life=LIFE, nonce=NONCE)
    written = json.loads(PaceCodec(KEY).encode(beat))
    assert list(written) == ["sequence", "timestamp", "life", "nonce", "seal"]
    assert written["seal"] == seal(f"rattle.pace/1 tick\n{LIFE}\n{NONCE}\n17\n{TIMESTAMP}")
    assert written["seal"] in PAGE.read_text()
    first = json.loads(PaceCodec(KEY).encode(Beat(sequence=17, timestamp=TIMESTAMP, life=LIFE)))
    assert list(first) == ["sequence", "timestamp", "life", "seal"]
    assert first["seal"] == seal(f"rattle.pace/1 tick\n{LIFE}\n\n17\n{TIMESTAMP}")
    asked = json.loads(PaceCodec(KEY).encode(Question(sequence=17, life=LIFE, nonce=NONCE)))
    assert asked["seal"] == seal(f"rattle.pace/1 nonce\n{LIFE}\n{NONCE}\n17")


def test_one_kind_is_not_taken_for_the_other() -> None:
    codec = PaceCodec(KEY)
    question = Question(sequence=17, life=LIFE, nonce=NONCE)
    beat = Beat(sequence=17, timestamp=TIMESTAMP, life=LIFE, nonce=NONCE)
    assert codec.decode(codec.encode(question), Question) is not None
    assert codec.decode(codec.encode(question), Beat) is None
    assert codec.decode(codec.encode(beat), Question) is None
