"""The command refuses what cannot be shown, in a line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from rattle.services.dashboard import runs_page
from tests.services.dashboard.build import Client, make_full_run
from tests.template import run, start


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["somewhere", "--store", "chdb:///nowhere"], "not both"),
        (["--store", "nonsense"], "is no store's address"),
        (["--store", "chdb:///nowhere/at/all"], "there is no store in /nowhere/at/all"),
        (["--host", "no.such.invalid"], "cannot listen on 'no.such.invalid'"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    answer = run("dashboard", *arguments, "--port", "0", cwd=tmp_path)
    assert answer.returncode != 0
    assert said in answer.stderr
    assert answer.stdout == ""


def test_a_folder_is_shown_until_the_service_is_stopped(tmp_path: Path) -> None:
    make_full_run(tmp_path, "a-run", updates=3)
    with start("dashboard", str(tmp_path), "--port", "0", cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            hello = json.loads(process.stdout.readline())
            assert hello["reads"] == str(tmp_path)
            assert "a-run" in httpx.get(hello["url"], timeout=60).text
        finally:
            process.terminate()
        assert process.wait(60) == 0


def test_a_mistake_of_the_dashboard_is_a_page_too(client: Client, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ZeroDivisionError("oh")

    make_full_run(root, "a-run", updates=3)
    monkeypatch.setattr(runs_page, "conditions", fail)
    answer = client.ask("/")
    assert answer.status_code == 500
    assert "the dashboard has failed: ZeroDivisionError: oh" in answer.text
