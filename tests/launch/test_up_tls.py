"""`rattle up` over mutual TLS: the services know each other by one set of certificates, and the run is the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rattle.certificates import LOCAL_HOSTS, make_authority, make_server, make_set
from rattle.launch.up import launch
from rattle.launch.view import choose_view
from rattle.services.utils.sockets import ServiceError
from rattle.settings.sources import load_settings
from rattle.tls import keep_tls
from tests.launch.test_up_services import running
from tests.trainer.conftest import last_json, rattle

LIMITS = ("--steps", "4000", "--set", "env.worlds=16", "--set", "policy.hidden_sizes=[16]")


def _settings(folder: Path, certificate: Path) -> list[str]:
    files = {"authority": folder / "authority.pem", "certificate": certificate, "private_key": certificate}
    own = [f"security.{name}={path.with_suffix('.key' if 'key' in name else '.pem')}" for name, path in files.items()]
    return [*own, "security.mutual=true"]


@pytest.mark.integration
def test_a_run_over_mutual_tls_is_the_same(tmp_path: Path) -> None:
    _, certificate, _ = make_set(tmp_path / "certs", ())
    tls = [part for one in _settings(tmp_path / "certs", certificate) for part in ("--set", one)]
    with running(tmp_path, "--run-dir", "run", *LIMITS, *tls) as run:
        status, err = run.end()
        assert status == 0, err
        assert run.address("env-0").startswith("https://127.0.0.1:")
    train = rattle("train", "--json", "--run-dir", "own", *LIMITS, cwd=tmp_path)
    assert run.summary["policy_sha256"] == last_json(train.stdout)["policy_sha256"]
    moved = (tmp_path / "certs").rename(tmp_path / "moved")
    gone = rattle("up", "--resume", "run", "--steps", "6000", cwd=tmp_path)
    assert f"security.certificate: cannot read {certificate}" in gone.stderr
    files = {"AUTHORITY": "authority.pem", "CERTIFICATE": certificate.name, "PRIVATE_KEY": f"{certificate.stem}.key"}
    variables = {f"RATTLE_SECURITY__{name}": str(moved / file) for name, file in files.items()}
    with running(tmp_path, "--resume", "run", "--steps", "6000", **variables) as resumed:
        assert resumed.end() == (0, "")
    assert resumed.summary["env_steps"] >= 6000


@pytest.mark.integration
def test_an_authority_alone_leaves_the_own_services_without_tls(tmp_path: Path) -> None:
    authority, *_ = make_set(tmp_path / "certs", ())
    variable = {"RATTLE_SECURITY__AUTHORITY": str(authority)}
    with running(tmp_path, "--run-dir", "run", *LIMITS, **variable) as run:
        status, err = run.end()
    assert (status, err) == (0, "")
    assert run.address("env-0").startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("expired", "security.certificate: .* has expired: make a new one, unless the clock here is wrong"),
        ("another", "security.certificate: .* is not taken by services that ask each other: .*: name the file"),
        ("a client", "security.certificate: .* unsuitable certificate purpose"),
    ],
)
def test_a_wrong_certificate_starts_nothing(tmp_path: Path, wrong: str, says: str) -> None:
    make_set(tmp_path, ())
    authority, yesterday = make_authority(), datetime.now(UTC) - timedelta(days=1)
    if wrong == "expired":
        make_server(authority, LOCAL_HOSTS, 1, yesterday - timedelta(days=1)).write(tmp_path / "own")
    if wrong == "another":
        make_server(authority, LOCAL_HOSTS).write(tmp_path / "own")
    own = tmp_path / ("client" if wrong == "a client" else "own")
    try:
        settings = load_settings(None, _settings(tmp_path, own.with_suffix(".pem")))
        with pytest.raises(ServiceError, match=says) as caught:
            launch(settings, tmp_path / "run", choose_view(as_json=True))
    finally:
        keep_tls(None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
