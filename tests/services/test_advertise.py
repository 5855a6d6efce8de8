"""Services that others reach by another name than their own say that name, and answer whoever asks by it."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

NAME = "rattle.example.org"


@pytest.mark.parametrize("words", [("mock-env",), ("env",), ("dashboard", ".")], ids=lambda words: words[0])
def test_the_first_line_has_the_name_that_others_use(words: tuple[str, ...], tmp_path: Path) -> None:
    arguments = [str(tmp_path) if word == "." else word for word in words[1:]]
    more = ("--host", "0.0.0.0", "--advertise", NAME)  # noqa: S104
    with ServiceProcess(words[0], *arguments, *more, settings=("security.trust_network=true",)) as service:
        said = urlsplit(service.url)
        assert said.hostname == NAME
        assert said.port
        connection = http.client.HTTPConnection("127.0.0.1", said.port, timeout=60)
        connection.request("GET", "/healthz", headers={"Host": said.netloc})
        assert connection.getresponse().status == 200
        connection.close()
