"""A network with memory: it remembers what it was shown some ticks ago."""

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from rattle.extend import Network, Spaces


class Remembers(Network):
    """A gated recurrent unit between one layer and the two heads."""

    class Settings(BaseModel):
        """What stands beside `network` in the section `policy`."""

        width: int = Field(32, ge=1, description="Numbers that are remembered, and width of the layer before.")

    def __init__(self, spaces: Spaces, settings: Settings) -> None:
        super().__init__(spaces, settings)
        self.state_size = settings.width
        self.layer = nn.Linear(spaces.observation.inputs, settings.width)
        self.memory = nn.GRU(settings.width, settings.width)
        self.policy, self.value = nn.Linear(settings.width, spaces.action.outputs), nn.Linear(settings.width, 1)

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs, values and what is remembered after one tick."""
        seen = torch.tanh(self.layer(self.encode(observation)))
        weights = (self.memory.weight_ih_l0, self.memory.weight_hh_l0, self.memory.bias_ih_l0, self.memory.bias_hh_l0)
        state = torch.gru_cell(seen, state, *weights)
        return self.policy(state), self.value(state).squeeze(1), state
