"""The examples on the page about serving, run against a real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rattle.policies.recurrent.spec import RecurrentSpec
from rattle.samples.spaces import CodeSpace
from rattle.services.utils.grpc_refusals import STATUS as GRPC_STATUS
from rattle.wire.problems import STATUS
from tests.services.inference.serving.building import policy
from tests.services.inference.serving.inference_process import InferenceProcess, serving, write

PAGE = (Path(__file__).parents[4] / "docs" / "serving.md").read_text()
#: What a snake sees by default. Some examples ask a policy with memory, and others work with any.
SNAKE = RecurrentSpec(
    network="mingru",
    observation=CodeSpace(cells=60, codes=5),
    num_actions=3,
    hidden_sizes=(8,),
    memory_layers=1,
    activation="relu",
    value_head=True,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    path = tmp_path_factory.mktemp("policies") / "snake.safetensors"
    write(path, policy(SNAKE))
    with serving(path) as running:
        yield running


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}(?: run| serve)?\n(.*?)```", PAGE, re.DOTALL)


def at(text: str, server: InferenceProcess) -> str:
    """Return an example with the addresses that the service really has, and the one model that it serves."""
    text = text.replace('"remembers"', '"snake"')
    return text.replace("127.0.0.1:8000", server.url.removeprefix("http://")).replace("127.0.0.1:8001", server.grpc)


@pytest.mark.parametrize("example", blocks("python"))
def test_examples_in_python_run(server: InferenceProcess, example: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", at(example, server)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "[" in ended.stdout


def test_examples_for_the_shell_run(server: InferenceProcess) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    commands = re.findall(r"^\$ (curl .*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    answers = [
        json.loads(subprocess.check_output(["bash", "-c", at(command, server)], timeout=240)) for command in commands
    ]
    assert answers[0]["models"][0]["name"] == "snake"
    assert answers[1]["outputs"][0]["shape"] == [1]


def test_the_first_line_is_as_the_page_says(server: InferenceProcess) -> None:
    [line] = [json.loads(block) for block in blocks("json") if "service" in block]
    assert server.hello.keys() == line.keys()
    assert (server.hello["service"], server.hello["models"]) == (line["service"], line["models"])


def test_statuses_are_as_the_page_says() -> None:
    table = re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert len(table) == 16
    for http_status, grpc_status, code in table:
        assert STATUS[code] == int(http_status)
        assert grpc_status in ("", GRPC_STATUS[code].name)
