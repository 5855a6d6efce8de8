"""What a user's network is, apart from its weights: a graph that needs none of the user's code."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Base64Bytes, Field

from rattle.envs.validation import StrictSettings
from rattle.policies.mlp.spec import Activation
from rattle.policies.spec import PolicySpec

#: Multiplications of a row up to which a network counts as light: it is worked on in large blocks.
LIGHT = 2**18


class GraphSpec(PolicySpec):
    """A network that is described by an ONNX graph.

    The graph takes `observation` (N, ...), `state` (N, state_size) where the network has memory, and every parameter
    by its name; it gives `outputs` (N, outputs), `value` (N,) and, with memory, `next_state`.
    """

    network: Literal["graph"] = "graph"
    parameters: tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes; all are float32
    state_size: int = Field(0, ge=0, le=2**20)
    work: int = Field(0, ge=0)  # multiplications that a row takes; 0: nobody has counted them
    graph: Base64Bytes = Field(max_length=2**26)

    @property
    def network_memory(self) -> int:
        """Return how many numbers the network remembers from one tick to the next."""
        return self.state_size

    @property
    def row_work(self) -> int:
        """Return about how many multiplications a row takes; where nobody has counted them, once each weight."""
        return self.work or sum(prod(shape) for _, shape in self.parameters)


class EncoderSettings(StrictSettings):
    """What the networks of `rattle.policies.graph.encoders` are told."""

    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (256,), max_length=16, description="Widths of the layers that join the encoders."
    )
    activation: Activation = Field("relu", description="relu or tanh, where no image is encoded.")
