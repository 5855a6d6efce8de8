"""A small process in the place of a service: behaves as the file `behaviour.json` beside its settings says."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def main() -> None:
    kind, config, *rest = sys.argv[1:]
    folder = Path(config).parent
    ways = json.loads((folder / "behaviour.json").read_text()).get(kind, [])
    note(folder, f"{kind} started {' '.join(rest)}")
    fail_at_once(ways)
    if kind == "sync" or (kind == "training" and (folder / "run.json").exists()):
        stand_in(kind)(Path(config), rest, ways)
        note(folder, f"{kind} stopped")
        return
    if "mumble" in ways:
        say("here I am")
    if "silent" in ways:
        time.sleep(60)
    signal.signal(signal.SIGTERM, lambda *_: None if "deaf" in ways else stop(folder, kind))
    hello, _held = greeting(rest)
    say(json.dumps({**hello, "variables": [name for name in os.environ if name.startswith("RATTLE_")]}))
    if "flood" in ways:
        say("x" * 2**22)
        note(folder, f"{kind} flooded")
    if "warn" in ways:
        sys.stderr.write(
            "no answer: trying again\nTraceback (most recent call last):\n  File somewhere\nOSError: gone\n"
        )
        sys.stderr.flush()
    if "steer" in ways:
        sys.stderr.buffer.write("é\t\x1b[2J \x9b2J \r\x07".encode() + b" \x9b2J \x85 \xc3")
        sys.stderr.flush()
    if "lament" in ways:
        say_event("environment_failed", "main-0: 'line', world 3: step raised ValueError: the arm broke")
    if "flee" in ways:
        sys.exit(3)
    while True:
        signal.pause()


def fail_at_once(ways: list[str]) -> None:
    if "refuse" in ways:
        say_event("error", "env.width: must be larger")
        sys.exit(1)
    if "crash" in ways:
        raise RuntimeError("the wheels came off")


def greeting(rest: list[str]) -> tuple[dict[str, object], list[socket.socket]]:
    """Listen at the ports that are asked for; return the first line, and the sockets."""
    ports = [listen(int(rest[rest.index(flag) + 1])) for flag in ("--port", "--grpc-port") if flag in rest]
    addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in ports]
    hello: dict[str, object] = {"url": f"http://{addresses[0]}", "address": addresses[0], "grpc": addresses[-1]}
    if "--sync-port" in rest:
        ports.append(listen(int(rest[rest.index("--sync-port") + 1]), socket.SOCK_DGRAM))
        hello["sync_port"] = ports[-1].getsockname()[1]
    return hello, ports


def stand_in(kind: str) -> Callable[[Path, list[str], list[str]], None]:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    return import_module(f"tests.launch.fake_{kind}").serve  # type: ignore[no-any-return]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_event(name: str, text: str) -> None:
    about = dict.fromkeys(("service", "experiment", "run_id", "host"), "fake")
    line = {"time": "", "level": "ERROR", "event": name, "message": text, "pid": 0, "fields": {"error": text}}
    sys.stderr.write(json.dumps(line | about, separators=(",", ":")) + "\n")
    sys.stderr.flush()


def listen(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    listener = socket.socket(type=kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            listener.listen()
    except OSError as error:
        text = f"cannot listen on port {port} of 127.0.0.1: {error.strerror}; choose another"
        say_event("port_taken", text)
        sys.exit(1)
    return listener


def stop(folder: Path, kind: str) -> None:
    note(folder, f"{kind} stopped")
    sys.exit(0)


def note(folder: Path, text: str) -> None:
    with (folder / "notes.txt").open("a") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
