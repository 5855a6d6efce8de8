"""The token of a run: who is asked with it, and that nothing that is stored, shown or started holds it."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rattle.launch.processes import RATTLE
from tests.launch.test_up import begin_with_fakes, ended, run
from tests.launch.test_up_services import SMALL, running
from tests.launch.test_up_sync import LOCKSTEP
from tests.trainer.conftest import rattle


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("token") / "token", "the-token-of-these-tests")


def written(path: Path, token: str) -> Path:
    path.touch(0o600)
    path.write_text(token)
    return path


@pytest.fixture(scope="module")
def url(token_file: Path) -> Iterator[str]:
    """An Env service that asks for a token."""
    arguments = ("env", "--port", "0", "--set", f"security.token_file={token_file}")
    process = subprocess.Popen([*RATTLE[:-1], *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())["url"]
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.mark.integration
def test_commands_send_the_token_that_they_are_told_and_end_at_once_without_it(
    url: str, token_file: Path, tmp_path: Path
) -> None:
    small = ("--steps", 100, "--set", "env.worlds=4", "--set", f"env.url={url}", "--run-dir", "run")
    other = written(tmp_path / "other", "another-token-altogether")
    wrong = {
        "the server asks for a token": rattle("train", *small, cwd=tmp_path),
        "the server has another token": rattle("train", *small, "--set", f"security.token_file={other}", cwd=tmp_path),
        f"{url} answers 401: the server asks for": rattle("check-env", url, cwd=tmp_path),
        "there is no none": rattle("check-env", url, "--token-file", "none", cwd=tmp_path),
    }
    for says, done in wrong.items():
        assert done.returncode in (1, 2)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    trained = rattle("train", *small, cwd=tmp_path, RATTLE_SECURITY__TOKEN_FILE=str(token_file))
    assert trained.returncode == 0, trained.stderr
    judged = rattle("eval", "run", "--episodes", 2, "--max-ticks", 20, cwd=tmp_path)  # with the run's token
    assert judged.returncode == 0, judged.stderr
    elsewhere = ("eval", "run", "--episodes", 2, "--max-ticks", 20, "--url", url)
    assert "asks for a token" in rattle(*elsewhere, cwd=tmp_path).stderr
    assert rattle(*elsewhere, "--token-file", token_file, cwd=tmp_path).returncode == 0
    # Requests, raw sockets, streams and WebSockets.
    checks = [part for name in ("steps.fields", "limits.body", "websocket") for part in ("--only", f"vector.{name}")]
    checks += ["--only", "agent.stream.half_close", "--only", "agent.errors.cut"]
    checked = rattle("check-env", url, *checks, "--token-file", token_file, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    said = "".join(done.stdout + done.stderr for done in (*wrong.values(), trained, judged, checked))
    assert token_file.read_text() not in said


@pytest.mark.integration
def test_a_run_makes_a_token_of_its_own_which_nothing_else_holds(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    written(folder / ".token", "left-by-a-killed-launcher")
    with running(tmp_path, *SMALL, "--run-dir", "run") as run:
        next(steps for steps in run.progress() if steps)
        token = (folder / ".token").read_text().strip()
        assert stat.S_IMODE((folder / ".token").stat().st_mode) == 0o600
        assert len(token) >= 43
        pids = run.pids()
        assert len(pids) == 3
        proc = [Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids.values() for name in ("cmdline", "environ")]
        assert [content for content in proc if token.encode() in content] == []
        run.signal(signal.SIGINT)
        status, said = run.end()
    assert (status, said) == (0, "")
    assert not (folder / ".token").exists()
    assert token not in "".join(run.said)
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert folder / "policy.safetensors" in stored
    assert [path.name for path in stored if token.encode() in path.read_bytes()] == []


@pytest.mark.integration
def test_a_run_goes_on_with_the_files_that_the_environment_names_where_its_own_have_moved(tmp_path: Path) -> None:
    token = written(tmp_path / "token", "the-token-of-these-tests")
    files = ("--set", "security.token_file=token", "--set", "security.authority=authority.pem")
    assert run(*LOCKSTEP, "--set", "sync.ticks=100", *files, cwd=tmp_path)[0] == 0
    token.rename(tmp_path / "other token")
    assert run("--resume", "run", cwd=tmp_path)[2].startswith("Error: security.token_file: there is no token;")
    written(tmp_path / "run" / ".token", "left-by-a-killed-launcher")
    named = {"RATTLE_SECURITY__TOKEN_FILE": "other token", "RATTLE_SECURITY__AUTHORITY": "other.pem"}
    again = begin_with_fakes("up", "--resume", "run", cwd=tmp_path, ways={}, **named)
    out, err = ended(again)
    assert (again.returncode, err) == (0, "")
    assert "ask its services" not in out
    assert not (tmp_path / "run" / ".token").exists()
    notes = (tmp_path / "run" / "notes.txt").read_text().splitlines()
    last = [note for note in notes if " started " in note][-4:]
    for told in ('security.token_file="other token"', 'security.authority="other.pem"'):
        assert all(told in note for note in last)
