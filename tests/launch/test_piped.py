"""What travels to services on other machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.launch.piped import Parcel
from rattle.launch.service import LaunchedService
from rattle.settings.sources import load_settings
from rattle.tokens import make_token

TRAINING, ENV = (LaunchedService(kind, f"{kind}-0", (), ()) for kind in ("training", "env"))  # type: ignore[arg-type]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    for path in (directory.config, directory.run, directory.environment):
        path.write_bytes(path.name.encode())
    make_token(directory.token)
    return directory


def test_files_travel_and_what_names_them_does_not(directory: RunDirectory, tmp_path: Path) -> None:
    for name in ("a.pem", "key"):
        (tmp_path / name).write_bytes(name.encode())
    own = (f"security.authority={tmp_path}/a.pem", f"sync.key_file={tmp_path}/key")
    parcel = Parcel(directory, "one", load_settings(None, own))
    variables = {"RUN_ID": "one", "RABBITMQ_HOST": "b", "RUN_DIR": "/here", "HOME": "/here", "RATTLE_CREDENTIALS": "c"}
    request = parcel.request(TRAINING, ["training"], variables)
    assert request.own_files == {"config.yaml": b"config.yaml", "security.authority": b"a.pem", "sync.key_file": b"key"}
    assert request.token == directory.token.read_bytes()
    assert list(request.beginning) == ["environment.json", "run.json", "config.yaml"], (
        "config.yaml last: it is a run now"
    )
    assert dict(word.split("=") for word in request.arguments[2::2]) == {
        "security.authority": '"@own@/security.authority"',
        "sync.key_file": '"@own@/sync.key_file"',
        "security.token_file": '"@run@/.token"',
    }
    assert request.variables == {"RUN_ID": "one", "RABBITMQ_HOST": "b", "RATTLE_CREDENTIALS": "c"}
    assert str(tmp_path) not in json.dumps(request.arguments)
    assert parcel.request(ENV, [], {}).beginning == {}


def test_a_token_that_the_user_has_named_is_no_token_of_the_run(directory: RunDirectory, tmp_path: Path) -> None:
    make_token(tmp_path / "mine")
    request = Parcel(directory, "one", load_settings(None, [f"security.token_file={tmp_path}/mine"])).request(
        ENV, [], {}
    )
    assert request.token is None
    assert request.own_files["security.token_file"] == (tmp_path / "mine").read_bytes()
    assert request.arguments == ["--set", 'security.token_file="@own@/security.token_file"']


def test_a_file_that_has_gone_is_named(directory: RunDirectory) -> None:
    directory.token.unlink()
    with pytest.raises(AnalyticsError, match=r"\.token"):
        Parcel(directory, "one", load_settings(None)).request(ENV, [], {})
