"""Environment steps a second over the vector API on loopback, beside its floor and the naive way.

Client and server share the machine's cores. The floors are bare endpoints on the same server software that do
nothing but step the worlds and send the observations; the naive way is the API's own JSON through a common HTTP client.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from measure import report, table

from rattle.clients.blocking_websocket import BlockingWebSocket
from rattle.clients.remote_vector_env import RemoteVectorEnv
from rattle.clients.remote_worlds import RemoteWorlds
from rattle.envs.snake.batch import SnakeWorlds

SIZES = (1, 1024, 4096)
SECONDS = 1.0  # a measurement
REPEATS = 7

FLOOR = "floor of WebSocket"

Step = Callable[[np.ndarray[Any, Any]], object]


@contextmanager
def server(*command: str) -> Iterator[str]:
    """Run a server and yield its URL."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None  # noqa: S101
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate()


class BareClient:
    """Bytes of actions out, bytes of observations in."""

    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(url.removeprefix("http://"))
        self._socket = BlockingWebSocket(url.replace("http", "ws"), 60, 2**28)

    def request(self, action: np.ndarray[Any, Any]) -> object:
        """Step once, as a request."""
        self._http.request("POST", "/", action.astype(np.uint8).tobytes())
        return np.frombuffer(self._http.getresponse().read(), np.uint8)

    def message(self, action: np.ndarray[Any, Any]) -> object:
        """Step once, as a message on a WebSocket."""
        self._socket.send(action.astype(np.uint8).tobytes())
        return np.frombuffer(bytes(self._socket.receive()), np.uint8)  # type: ignore[arg-type]


class NaiveClient:
    """The API in JSON, a request at a time."""

    def __init__(self, url: str, worlds: int) -> None:
        self._http = httpx.Client()
        answer = self._http.post(f"{url}/v1/sessions", json={"worlds": worlds, "seed": 1}).json()
        self._url, self._number = f"{url}/v1/sessions/{answer['session']}/step", 0

    def step(self, action: np.ndarray[Any, Any]) -> object:
        """Step once."""
        self._number += 1
        answer = self._http.post(self._url, json={"step": self._number, "action": action.tolist()}).json()
        return np.array(answer["observation"], np.uint8)


def round_trip(step: Step, worlds: int) -> float:
    """Return the median seconds of a step over about SECONDS."""
    action = np.random.default_rng(0).integers(0, 3, (64, worlds))
    for number in range(30):
        step(action[number])
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        step(action[len(times) % 64])
        times.append(time.perf_counter() - start)
    return statistics.fmean(times) if worlds > 1 else statistics.median(times)


def ways(env_url: str, bare_url: str, worlds: int) -> Iterator[tuple[str, Step]]:
    """Yield every way to step some worlds."""
    yield "in process", SnakeWorlds(num_worlds=worlds, seed=1).step
    bare = BareClient(bare_url)
    yield FLOOR, bare.message
    yield "WebSocket (the default)", RemoteWorlds(env_url, worlds, 1).step
    yield "floor of HTTP", bare.request
    yield "HTTP", RemoteWorlds(env_url, worlds, 1, websocket=False).step
    if worlds > 1:
        split = RemoteVectorEnv(env_url, worlds, sessions=2, copy=False)
        split.reset(seed=1)
        yield "WebSocket, two sessions in flight", split.step
    yield "naive: JSON", NaiveClient(env_url, worlds).step


def bare() -> None:
    """Serve the floor."""
    import uvicorn

    batches: dict[int, SnakeWorlds] = {}

    def stepped(actions: bytes) -> bytes:
        if len(actions) not in batches:
            batches[len(actions)] = SnakeWorlds(num_worlds=len(actions), seed=1)
        worlds = batches[len(actions)]
        worlds.step(np.frombuffer(actions, np.uint8))
        return worlds.observation.tobytes()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "bytes": stepped(message["bytes"])})
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        seen = stepped(body)
        headers = [(b"content-length", str(len(seen)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": seen})

    config = uvicorn.Config(
        app, port=0, loop="uvloop", http="httptools", lifespan="off", log_level="warning", timeout_keep_alive=75
    )
    listener = config.bind_socket()
    print(json.dumps({"url": "http://{}:{}".format(*listener.getsockname())}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    """Measure every way at every size, taking turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", action="store_true", help="serve the floor; used by the benchmark itself")
    if parser.parse_args().bare:
        return bare()
    seconds: dict[tuple[int, str], list[float]] = {}
    rattle = ("-P", "-m", "rattle.cli", "env", "--port", "0")
    with server(*rattle) as env_url, server(str(Path(__file__)), "--bare") as bare_url:
        for worlds in SIZES:
            steps = list(ways(env_url, bare_url, worlds))
            for _ in range(REPEATS):
                for name, step in steps:
                    seconds.setdefault((worlds, name), []).append(round_trip(step, worlds))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    rows = []
    for (worlds, name), median in medians.items():
        best = min(seconds[worlds, name])
        ratio = medians[worlds, "floor of HTTP" if "HTTP" in name else FLOOR] / median
        speeds = (f"{worlds / median / 1e6:.3f} M", f"{worlds / best / 1e6:.3f} M")
        rows.append((f"{worlds:,}: {name}", f"{median * 1e3:.3f} ms", *speeds, f"{ratio:.2f}"))
    report(
        "vector_api",
        "Vector API on loopback",
        f"Snake worlds of 15 x 15 with radius 5, a request a step, client and server on the same cores. {REPEATS} "
        f"measurements of {SECONDS:.0f} s each, all ways taking turns; a measurement is the mean time of a step, for "
        "one world the median. Best is the best measurement. Floors: a bare endpoint on the same server software that "
        "steps the same worlds and sends their observations and nothing else, in the same transport.",
        table(("worlds a request", "a step", "steps/s, median", "best", "of the floor"), rows),
    )
    return None


if __name__ == "__main__":
    main()
