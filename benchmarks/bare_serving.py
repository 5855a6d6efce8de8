"""The floor of serving: endpoints that compute a forward pass for each request, and do nothing else.

Bytes of observations in, bytes of actions out: no names, no checks, no joining.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvicorn
import uvloop

from rattle.policies.acting import ActingPolicy
from rattle.policies.file import load_policy

#: The method that the gRPC endpoint has.
METHOD = "/bare.Serving/Act"


class Bare:
    """A policy that acts on bytes."""

    def __init__(self, path: Path) -> None:
        policy = load_policy(path.read_bytes())
        self._row = policy.spec.observation.shape[0]
        self._acting = ActingPolicy(policy.spec, policy.parameters)

    def act(self, content: bytes) -> bytes:
        """Return the actions for the observations."""
        observation = np.frombuffer(bytearray(content), np.uint8).reshape(-1, self._row)
        rows = len(observation)
        action, log_prob, value = np.zeros(rows, np.int64), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
        self._acting.act(observation, tick=0, action=action, log_prob=log_prob, value=value)
        return action.tobytes()

    async def http(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer over HTTP (ASGI)."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        actions = self.act(body)
        headers = [(b"content-length", str(len(actions)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": actions})

    async def grpc(self, content: bytes, context: Any) -> bytes:
        """Answer over gRPC."""
        return self.act(content)


async def serve(path: Path) -> None:
    """Serve both endpoints; the first line says where."""
    bare = Bare(path)
    bare.act(bytes(bare._row))  # compiled before anybody asks
    config = uvicorn.Config(bare.http, port=0, http="httptools", interface="asgi3", lifespan="off", log_level="warning")
    listener = config.bind_socket()
    listener.listen(2048)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    _, service, method = METHOD.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(bare.grpc)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"http": listener.getsockname()[1], "grpc": port}), flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
