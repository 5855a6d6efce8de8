"""Command blocks on pages that are marked as runnable work, in the order in which a reader meets them.

A second word after a fence's language is the mark: ```` ```console run ````. The block is then run, in a folder that
has what a clone has in `shared/` and `examples/`, and for commands that take seconds anyway a small run in `runs/`.
```` ```console serve ```` starts services, which answer until the page ends. A service ends the one before it that has
the same port. Ports are any free ones: an address that a later block asks is that of the service which a reader would
have there. ```` ```python file NAME ```` is what a reader stores in a file of that name.

In console blocks, lines that begin with `$ ` are commands, and others show what a reader sees. Not marked are blocks
that need more than the repository's `.venv` (see `NEEDS_MORE`), hold words to be replaced, or train for long.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from tests.template import RattleProcess, start

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SERVICES = REPOSITORY / "src" / "rattle" / "services"
PAGES = sorted(
    page
    for pattern in (
        "README.md",
        "docs/**/*.md",
        "src/rattle/services/*/README.md",
        "examples/**/*.md",
        "deploy/**/*.md",
    )
    for page in REPOSITORY.glob(pattern)
)
MARKS = ("run", "serve")
LANGUAGES = ("console", "sh", "python")
FILE = re.compile(r"file ([\w./-]+)")
#: Words of blocks that need a network, a daemon, a cluster, other hosts or root: they must not be marked.
NEEDS_MORE = (
    "docker",
    "kubectl",
    "helm",
    "make",
    "pip",
    "apt-get",
    "ssh",
    "srun",
    "sbatch",
    "sudo",
    "amqp",
    "clickhouse",
)
#: Commands that import PyTorch or chDB, and so take seconds: their pages are integration tests.
SLOW = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*rattle (?!env|mock-env|check-env|sync|certificates|settings)", re.MULTILINE)
SLOW_PYTHON = re.compile(r"\btorch\b|^import rattle$|rattle\.analytics", re.MULTILINE)
#: By service: flags of ports, with the port that a reader has by default and what the first line printed says of it.
PORTS: dict[str, dict[str, tuple[int | None, str]]] = {
    "env": {"--port": (5000, "url")},
    "mock-env": {"--port": (5000, "url")},
    "inference": {"--port": (8000, "url"), "--grpc-port": (8001, "grpc")},
    "training": {"--port": (50051, "address"), "--http-port": (None, "url")},
    "sync": {"--port": (5555, "address"), "--http-port": (8005, "url")},
    "ingest": {"--port": (8006, "url")},
    "dashboard": {"--port": (8080, "url")},
    "examples/simulator/server.mjs": {"--port": (5000, "url")},
}
Service = RattleProcess | subprocess.Popen[str]
SECONDS = 100  # for one block, or for a service to say that it is there


@dataclass(frozen=True)
class Block:
    """A marked block of a page; `line` is that of its fence."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def at(self, line: int = 0) -> str:
        """Return the page and the line that an editor opens."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line + line}"

    def script(self) -> str:
        """Return its commands, each on its line; what a reader sees as output is left out."""
        if self.language != "console":
            return self.text
        lines, goes_on = [], False
        for line in self.text.splitlines():
            is_command = goes_on or line.startswith("$ ")
            lines.append(line.removeprefix("$ ") if is_command else "")
            goes_on = is_command and line.endswith("\\")
        return "\n".join(lines) + "\n"


FENCE = re.compile(
    r"^(?P<fence>```+)(?P<language>\w*)(?: (?P<mark>[^\n]+))?\n(?P<text>.*?)^(?P=fence)\s*$", re.M | re.S
)


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that have a mark, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["mark"], found["text"])
        for found in FENCE.finditer(text)
        if found["mark"]
    ]


BLOCKS = {page: found for page in PAGES if (found := blocks_of(page))}


@dataclass
class Reader:
    """Somebody who does what a page says, in a folder of their own."""

    folder: Path
    services: dict[str, tuple[Service, IO[str]]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def does(self, block: Block) -> None:
        """Run a block, or start its services."""
        if name := FILE.fullmatch(block.mark):
            (self.folder / name[1]).write_text(block.text)
            return
        script = self._as_it_is_here(block.script())
        if block.mark == "run":
            self._runs(block, script)
            return
        for line in script.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                self._starts(block, words)

    def _as_it_is_here(self, text: str) -> str:
        places = "|".join(map(re.escape, self.places))
        return re.sub(rf"\b({places})\b", lambda found: self.places[found[1]], text) if places else text

    def _runs(self, block: Block, script: str) -> None:
        if block.language == "python":
            command = [sys.executable, "-c", script]
        else:
            path = self.folder / ".block.sh"
            # The line with `set` is the first: so the trap says lines as the page counts them from the fence.
            failed = "trap 'echo \"failed: line $LINENO: $BASH_COMMAND\" >&2' ERR"
            path.write_text(f"set -Eeuo pipefail; {failed}\n{script}")
            command = ["bash", str(path)]
        output = self.folder / ".block.out"
        with output.open("w") as into:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=into, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end_group(process)
        said = output.read_text()[-3000:]
        found = re.search(r"^failed: line (\d+):", said, re.MULTILINE)
        where = block.at(int(found[1]) - 1 if found else 0)
        assert code is not None, f"{where}: not done after {SECONDS} s:\n{said}"
        assert code == 0, f"{where}: ended with {code}:\n{said}"

    def _starts(self, block: Block, words: list[str]) -> None:
        variables = {}
        while "=" in words[0]:
            name, _, variables[name] = words.pop(0).partition("=")
        assert words[0] in ("rattle", "node"), f"{block.at()}: only services of rattle and examples are served: {words}"
        wanted = {}
        for flag, (usual, key) in PORTS[words[1]].items():
            place = words.index(flag) if flag in words else None
            if place is None and usual is None:
                continue
            wanted[key] = str(usual) if place is None else words[place + 1]
            words += [flag, "0"]  # the last one counts
        for port in wanted.values():
            if port in self.services:
                self._stops(block, port)
        errors = (self.folder / f".errors-{len(self.places)}").open("w+")
        begin = start if words[0] == "rattle" else _start_program
        process = begin(
            *words[1:],
            cwd=self.folder,
            env=self.environment() | variables,
            stdout=subprocess.PIPE,
            stderr=errors.fileno(),
        )
        for port in wanted.values():
            self.services[port] = process, errors
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else ""
        errors.seek(0)
        assert line, f"{block.at()}: {shlex.join(words)} did not begin:\n{errors.read()}"
        hello = json.loads(line)
        for key, port in wanted.items():
            self.places[f"127.0.0.1:{port}"] = str(hello[key]).rpartition("/")[2]

    def _stops(self, block: Block | None, port: str) -> None:
        process, errors = self.services[port]
        self.services = {at: one for at, one in self.services.items() if one[0] is not process}
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=SECONDS)
        finally:
            process.kill()
            errors.seek(0)
            said = errors.read()
            errors.close()
        where = block.at() if block else "the end"
        assert process.returncode == 0, f"{where}: {process.args} ended with {process.returncode}:\n{said}"

    def environment(self) -> dict[str, str]:
        """Return the variables of a shell in which .venv is active."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RATTLE_", "PYTEST_"))}
        curl = {"CURL_HOME": str(self.folder)}  # its settings make answers of 400 and more failures
        return kept | curl | {"PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "120"}

    def leaves(self) -> None:
        """Stop all services: each must end well."""
        while self.services:
            self._stops(None, next(iter(self.services)))

    def gives_up(self) -> None:
        """End what is left, after a failure."""
        for process, errors in self.services.values():
            process.kill()
            process.communicate()
            errors.close()


def _start_program(*arguments: str, **how: Any) -> Service:
    return subprocess.Popen(["node", *arguments], text=True, **how)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs with a small one in it."""
    folder = tmp_path_factory.mktemp("small")
    process = start(
        "train",
        "--steps",
        "400000",
        "--set",
        "train.actors=1",
        "--run-dir",
        "runs/snake",
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    return folder / "runs"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    for name in ("shared", "examples"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    (tmp_path / ".curlrc").write_text("fail\nshow-error\n")
    reader = Reader(tmp_path)
    yield reader
    reader.gives_up()


def is_slow(page: Path) -> bool:
    return any((SLOW_PYTHON if block.language == "python" else SLOW).search(block.text) for block in BLOCKS[page])


def as_cases() -> Iterator[Any]:
    for page in BLOCKS:
        marks = [pytest.mark.integration] if is_slow(page) else []
        yield pytest.param(page, marks=marks, id=str(page.relative_to(REPOSITORY)))


@pytest.mark.parametrize("page", list(as_cases()))
def test_marked_blocks_work(page: Path, reader: Reader, request: pytest.FixtureRequest) -> None:
    text = "".join(block.text for block in BLOCKS[page])
    for program in ("curl", "jq", "node"):
        if re.search(rf"\b{program}\b", text) and not shutil.which(program):
            pytest.skip(f"the page uses {program}, which is not installed")
    if is_slow(page):
        shutil.copytree(request.getfixturevalue("small_run"), reader.folder / "runs")
    for block in BLOCKS[page]:
        reader.does(block)
    reader.leaves()


def test_a_command_that_fails_is_named_with_its_page_and_line(reader: Reader) -> None:
    block = Block(
        REPOSITORY / "page.md", 10, "console", "run", "$ echo one \\\n    two\none two\n$ false | cat\n$ true\n"
    )
    with pytest.raises(AssertionError, match=r"^page\.md:14: ended with 1:\s+one two\s+failed: line 5: "):
        reader.does(block)
    block = Block(REPOSITORY / "page.md", 10, "console", "serve", "$ rattle env --set env.widht=3\n")
    with pytest.raises(
        AssertionError, match=r"^page\.md:10: rattle env .* did not begin:\n(.|\n)*did you mean 'width'"
    ):
        reader.does(block)


def test_marks_are_these_and_blocks_need_no_more_than_python() -> None:
    for block in (block for blocks in BLOCKS.values() for block in blocks):
        if FILE.fullmatch(block.mark):
            continue
        assert block.mark in MARKS, f"{block.at()}: {block.mark} is no mark, only {' and '.join(MARKS)} are"
        assert block.language in LANGUAGES, f"{block.at()}: only {', '.join(LANGUAGES)} can be run"
        if block.language != "python":
            words = re.findall(r"(?<![\w./-])[a-z][\w-]*", block.script())
            assert not set(NEEDS_MORE) & set(words), (
                f"{block.at()}: it needs more than Python, so it must not be marked"
            )
        assert not re.search(r"\b(?:HOST|URL|USER|RUN_ID|FILE|EXPERIMENT|NAME|TOKEN)\b", block.script()), block.at()


def test_every_service_has_blocks_that_are_run() -> None:
    pages = sorted(SERVICES.glob("*/README.md"))
    assert len(pages) == 7
    assert [page for page in pages if page not in BLOCKS] == []
