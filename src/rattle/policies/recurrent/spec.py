"""What a network with memory is, apart from its weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rattle.policies.mlp.spec import LayeredSpec

#: Kinds of memory, which `rattle.policies.recurrent.network` describes.
Cell = Literal["gru", "mingru"]


class RecurrentSpec(LayeredSpec):
    """Hidden layers, then layers of memory, each as wide as the last hidden one, then the heads."""

    network: Cell
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=1, max_length=16)
    memory_layers: int = Field(ge=1, le=8)

    @property
    def width(self) -> int:
        """Return how many numbers a layer of memory takes, remembers and gives."""
        return self.hidden_sizes[-1]

    @property
    def network_memory(self) -> int:
        """Return how many numbers the network remembers: those of one layer after another's."""
        return self.memory_layers * self.width

    @property
    def between(self) -> dict[str, tuple[int, int]]:
        """Return (outputs, inputs) of all linear layers of the memory, by name, in the order in which they run.

        `gates` take what the layer is given, and `recall`, which only a GRU has, takes what it remembers.
        """
        parts = ("gates", "recall") if self.network == "gru" else ("gates",)
        names = (f"memory.{layer}.{part}" for layer in range(self.memory_layers) for part in parts)
        return dict.fromkeys(names, (3 * self.width, self.width))
