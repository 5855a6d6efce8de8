"""The history file: every phase once and in order, whatever an earlier life left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.sync.history import LockstepHistory
from rattle.services.utils.sockets import ServiceError
from rattle.wire.lockstep import Phase

HASHES = {"main-1": b"12345678", "env-0": bytes(8)}


def write(path: Path, *phases: tuple[int, Phase]) -> None:
    """Write phases in a life of its own."""
    history = LockstepHistory(path)
    for tick, phase in phases:
        history.write(tick, phase, HASHES)
    history.close()


def phases_in(path: Path) -> list[tuple[int, str]]:
    return [(line["tick"], line["phase"]) for line in map(json.loads, path.read_text().splitlines())]


def test_a_line_says_what_a_phase_came_to(tmp_path: Path) -> None:
    write(tmp_path / "history", (7, Phase.STEP))
    text = '{"tick":7,"phase":"step","hashes":{"env-0":"0000000000000000","main-1":"3132333435363738"}}\n'
    assert (tmp_path / "history").read_text() == text


@given(cut=st.integers(0, 400), count=st.integers(1, 4))
def test_what_a_death_left_unfinished_is_written_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int, count: int
) -> None:
    path = tmp_path_factory.mktemp("history") / "file"
    phases = [(tick, phase) for tick in range(count) for phase in (Phase.ACT, Phase.STEP)]
    write(path, *phases)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    kept = path.read_bytes().count(b"\n")
    # The next life begins with the last phase that anybody did, which may be the one that the file ends with.
    write(path, *phases[max(0, kept - 1) :])
    assert path.read_bytes() == whole


def test_a_long_last_line_is_found(tmp_path: Path) -> None:
    path, many = tmp_path / "history", {f"subject-{number}": HASHES["main-1"] for number in range(5000)}
    history = LockstepHistory(path)
    history.write(1, Phase.ACT, many)
    history.write(1, Phase.STEP, many)
    history.close()
    with path.open("ab") as file:
        file.write(b'{"tick":1,"phase":"st')
    write(path, (1, Phase.STEP), (2, Phase.ACT))
    assert phases_in(path) == [(1, "act"), (1, "step"), (2, "act")]


@pytest.mark.parametrize(
    "content", ["name: snake\n", "no line", '{"tick":1}\n', "\n", '{"tick":1,"phase":"act"}\nrest']
)
def test_another_file_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "snake.yaml"
    path.write_text(content)
    with pytest.raises(ServiceError, match=r"holds something else than a history; choose another"):
        LockstepHistory(path)
    assert path.read_text() == content


def test_two_services_do_not_write_to_one_file(tmp_path: Path) -> None:
    first = LockstepHistory(tmp_path / "history")
    with pytest.raises(ServiceError, match="another service writes to it"):
        LockstepHistory(tmp_path / "history")
    first.close()
    write(tmp_path / "history", (0, Phase.ACT))


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"^--history /dev/null: this is no file"):
        LockstepHistory(Path("/dev/null"))
    with pytest.raises(ServiceError, match="Is a directory; choose another file"):
        LockstepHistory(tmp_path)
