"""What reaches a service through a pipe: its request, its signals, and that the launcher lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rattle.errors import RattleError
from rattle.launch.far_end import OWN, RUN, ServiceRequest, placed, read_request
from tests.launch.test_processes import PATIENCE, wait_for_end

FAR_END = (sys.executable, "-m", "rattle.cli", "from-pipe")
SECRET = b"a-token-that-nobody-sees"


def request(folder: Path, **changes: Any) -> ServiceRequest:
    """Return a request for an Env service of a run that is not on this machine."""
    given: dict[str, Any] = {
        "arguments": ["env", f"{OWN}/config.yaml", "--port", "0", "--set", f'security.token_file="{RUN}/.token"'],
        "variables": {"SERVICE_NAME": "env-0"},
        "run_id": "one",
        "run_dir": "runs/one",
        "shared_dir": str(folder / "nowhere"),
        "keeps_run": False,
        "beginning": {"run.json": b'{"run_id": "one"}', "config.yaml": b"seed: 1"},
        "own_files": {"config.yaml": b"env: {num_snakes: 3}"},
        "token": SECRET,
    }
    return ServiceRequest(**{**given, **changes})


@contextmanager
def started(folder: Path, sent: bytes, *prefix: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have the far end of a pipe run until the block ends."""
    pipe, environment = subprocess.PIPE, {**os.environ, "TMPDIR": str(folder), **variables}
    command = [*prefix, *FAR_END]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, env=environment) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(sent)
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def hello(process: subprocess.Popen[bytes]) -> Mapping[str, Any]:
    """Return the first line of the service."""
    assert process.stdout is not None
    said: dict[str, Any] = json.loads(process.stdout.readline())
    return said


def until_gone(folder: Path) -> None:
    """Wait until nothing is left of a service's own folder."""
    until = time.monotonic() + PATIENCE
    while list(folder.glob("rattle-*")):
        assert time.monotonic() < until, "its folder stays"
        time.sleep(0.02)


def test_the_service_has_its_files_and_signals_and_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path, request(tmp_path).encode(), RATTLE_ENV__NUM_SNAKES="9") as process:
        hello(process)
        (own,) = tmp_path.glob("rattle-*")
        assert (own.stat().st_mode & 0o777, (own / ".token").stat().st_mode & 0o777) == (0o700, 0o600)
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert f"--leash\0env\0{own}/config.yaml\0".encode() in words, "the service is the process that was started"
        assert SECRET not in words + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"RATTLE_" not in Path(f"/proc/{process.pid}/environ").read_bytes(), "settings are those of the run"
        assert process.stdin is not None
        process.stdin.write(b"\nSIGTE")
        process.stdin.flush()
        process.stdin.write(b"RM\n")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 0
        until_gone(tmp_path)


@pytest.mark.parametrize("stopped", [False, True])
def test_the_service_ends_with_the_pipe_even_where_it_does_nothing(tmp_path: Path, stopped: bool) -> None:
    with started(tmp_path, request(tmp_path).encode()) as process:
        hello(process)
        if stopped:
            os.kill(process.pid, signal.SIGSTOP)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == (-signal.SIGKILL if stopped else 1)
        until_gone(tmp_path)


def test_the_service_ends_with_its_watcher(tmp_path: Path) -> None:
    with started(tmp_path, request(tmp_path).encode()) as process:
        hello(process)
        (watcher,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(watcher), signal.SIGKILL)
        assert process.wait(PATIENCE) == 1


def test_a_launcher_that_says_nothing_any_more_has_gone() -> None:
    watching = "import os, sys\nfrom rattle.launch.far_end import watch\nwatch(os.getppid(), b'', 0.3)\n"
    with subprocess.Popen([sys.executable, "-c", watching], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for _ in range(8):
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.poll() is None
        assert process.wait(PATIENCE) == 0
        wait_for_end(process.pid)


def test_a_run_that_is_on_a_shared_disk_is_that_run(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "run.json").write_text('{"run_id": "one"}')
    (shared / ".token").write_bytes(SECRET)
    (shared / ".token").chmod(0o600)
    with started(tmp_path, request(tmp_path, shared_dir=str(shared)).encode()) as process:
        hello(process)
        assert f"RUN_DIR={shared}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        process.terminate()  # as a command may do that passes signals on
        assert process.wait(PATIENCE) == 0
        until_gone(tmp_path)
    assert (shared / ".token").exists(), "the launcher's own"


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    other = tmp_path / "runs" / "one"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("seed: 2")
    with started(tmp_path, request(tmp_path, keeps_run=True).encode()) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "holds another run" in said.decode()) == (1, True)
    assert (other / "config.yaml").read_text() == "seed: 2"
    assert not list(tmp_path.glob("rattle-*"))


@pytest.mark.parametrize("sent", [b"", b"\n", b"12", b"x\n{}", b"2\r\n{}", b"\x1b[1m\n", b"9" * 99])
def test_what_is_no_request_is_explained(sent: bytes) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, sent)
    os.close(write_end)
    with pytest.raises(RattleError, match="no request of a launcher came over standard input: the command of topology"):
        read_request(read_end)
    os.close(read_end)


@pytest.mark.parametrize("sent", [b"2\n{}", b"9\n{}", b'12\n{"a":1}   \n\n', b"2\n\xff\xff"])
def test_a_request_of_another_version_is_explained(sent: bytes) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, sent)
    os.close(write_end)
    with pytest.raises(RattleError, match="is not understood: does this machine have the same Rattle"):
        read_request(read_end)
    os.close(read_end)


def test_what_follows_a_request_is_kept(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    asked = request(tmp_path)
    os.write(write_end, asked.encode() + b"\nSIGTERM\n")
    assert read_request(read_end) == (asked, b"\nSIGTERM\n")
    os.close(write_end)
    os.close(read_end)


def test_folders_are_written_as_settings_want_them() -> None:
    places = {RUN: '/a "b"', OWN: "/c d"}
    given = ("--run-dir", RUN, f'security.token_file="{RUN}/.token"', f"{OWN}/config.yaml")
    assert placed(given, places) == [
        "--run-dir",
        '/a "b"',
        'security.token_file="/a \\"b\\"/.token"',
        "/c d/config.yaml",
    ]
