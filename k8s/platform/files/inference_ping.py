"""Ask an Inference service what it serves, and its first policy for an action: `inference_ping.py URL`."""

from __future__ import annotations

import json
import os
import sys
from math import prod
from typing import Any
from urllib.request import Request, urlopen

from rattle.clients.addresses import read_address
from rattle.settings.sources import load_security
from rattle.tls import tls_context


def ask(url: str, body: bytes | None = None) -> Any:
    """Return what is answered, as JSON."""
    headers = {"Content-Type": "application/json", **read_address(url).headers}
    context = tls_context() if url.startswith("https:") else None
    with urlopen(Request(url, body, headers), timeout=30, context=context) as answer:
        return json.load(answer)


def row_of_zeros(described: dict[str, Any]) -> dict[str, Any]:
    """Return an input of one row."""
    shape = [1, *described["shape"][1:]]
    zeros = [0] * prod(shape)
    return {"name": described["name"], "shape": shape, "datatype": described["datatype"], "data": zeros}


url = sys.argv[1]
load_security([], os.environ)  # from now on the token is sent, and the authority trusted
name = ask(f"{url}/v1/models")["models"][0]["name"]
required = [one for one in ask(f"{url}/v2/models/{name}")["inputs"] if one["name"] == "observation"]
question = {"inputs": [row_of_zeros(one) for one in required]}
answer = ask(f"{url}/v2/models/{name}/infer", json.dumps(question).encode())
print(f"{name} answers with {answer['outputs'][0]['name']} {answer['outputs'][0]['data']}")
