"""Something that counts ticks with the clock and leads nobody: for the launcher it looks like the Sync service."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rattle.analytics.run_directory import RunDirectory
from rattle.runs.run_tables import read_run_row
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings

TICKS_PER_SECOND = 400


class FakeSync:
    """Ticks from where the history ends, and writes it; what "happens" depends on the tick alone, unless told so."""

    def __init__(
        self, settings: ExperimentSettings, history: Path | None, ways: list[str], directory: RunDirectory
    ) -> None:
        self._most = settings.sync.ticks
        self._directory = directory
        self._history = history
        self._different = f"differs in {directory.path.name}" in ways
        self._stalls = "stalls" in ways
        self.tick = len(history.read_text().splitlines()) if history is not None and history.exists() else 0
        self._lock = threading.Lock()
        self._began: float | None = None
        self._first = self.tick

    @property
    def finished(self) -> bool:
        return self._most is not None and self.tick >= self._most

    def advance(self) -> None:
        """Write down all ticks that are due by now."""
        with self._lock:
            if self._began is None:  # nothing happens before there is a policy, however slowly its learner starts
                if not read_run_row(self._directory)["policy_sha256"]:
                    return
                self._began = time.monotonic()
            due = self._first + (0 if self._stalls else int((time.monotonic() - self._began) * TICKS_PER_SECOND))
            due = due if self._most is None else min(due, self._most)
            while self.tick < due:
                self.tick += 1
                self._write()

    def status(self, mode: str) -> dict[str, Any]:
        self.advance()
        where = (
            {"tick": self.tick, "phase": "act", "ticks_per_second": TICKS_PER_SECOND}
            if mode == "lockstep"
            else {"sequence": self.tick, "frequency": 10.0}
        )
        return {
            "mode": mode,
            **where,
            "finished": self.finished,
            "waiting_for": ["inference-0"],
            "members": [],
            "datagrams": {"sent": 3 * self.tick, "repeated": self.tick},
            "disagreements": [],
        }

    def _write(self) -> None:
        if self._history is None:
            return
        wrong = self._different and self.tick >= 7
        hashes = {name: f"{self.tick:014x}{number:02x}" for number, name in enumerate(("env-0", "main-0", "main-1"))}
        if wrong:
            hashes["main-1"] = f"{'f' * 8}{self.tick:08x}"
        with self._history.open("a") as file:
            file.write(json.dumps({"tick": self.tick, "phase": "step", "hashes": hashes}) + "\n")


def serve(config: Path, arguments: list[str], ways: list[str]) -> None:
    overrides = [arguments[at + 1] for at, argument in enumerate(arguments) if argument == "--set"]
    settings = load_settings(config, overrides)
    history = Path(arguments[arguments.index("--history") + 1]) if "--history" in arguments else None
    fake = FakeSync(settings, history, ways, RunDirectory(config.parent))

    class Face(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.path == "/v1/status"
            body = json.dumps(fake.status(settings.sync.mode) if known else {}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(arguments[arguments.index("--http-port") + 1])), Face)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    url, udp = f"http://127.0.0.1:{server.server_port}", int(arguments[arguments.index("--port") + 1]) or 5
    sys.stdout.write(json.dumps({"service": "sync", "address": f"127.0.0.1:{udp}", "url": url}) + "\n")
    sys.stdout.flush()
    while not stopped.wait(0.02):
        fake.advance()
        if "suspects" in ways:
            sys.stderr.write(f"inference-0 has not been heard, tick {fake.tick}: it is waited for\n")
            sys.stderr.flush()
    server.shutdown()
