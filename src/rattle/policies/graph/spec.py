"""What a user's network is, apart from its weights: a graph that needs none of the user's code."""

from __future__ import annotations

from typing import Literal

from pydantic import Base64Bytes, Field

from rattle.policies.spec import PolicySpec


class GraphSpec(PolicySpec):
    """A network that is described by an ONNX graph.

    The graph takes `observation` (N, ...), `state` (N, state_size) where the network has memory, and every parameter
    by its name; it gives `outputs` (N, outputs), `value` (N,) and, with memory, `next_state`.
    """

    network: Literal["graph"] = "graph"
    parameters: tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes; all are float32
    state_size: int = Field(0, ge=0, le=2**20)
    graph: Base64Bytes = Field(max_length=2**26)

    @property
    def memory_size(self) -> int:
        """Return how many numbers a slot remembers from one tick to the next."""
        return self.state_size
