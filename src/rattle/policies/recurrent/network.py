"""Networks with memory in PyTorch: what learns, tick by tick and over whole sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rattle.policies.mlp.network import MultilayerPerceptron
from rattle.policies.recurrent.scan import linear_scan
from rattle.policies.recurrent.spec import RecurrentSpec


class _Gru(nn.Module):
    """A gated recurrent unit: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014).

    The reset gate is applied to what `recall` makes of the memory, as cuDNN and PyTorch do.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates, self.recall = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def step(self, rows: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the layer gives and what it remembers, (N, width) each, of rows (N, width) and memory."""
        memory = self._step(self.gates(rows), memory)
        return memory, memory

    def sequence(self, rows: Tensor, memory: Tensor, keeps: Tensor) -> Tensor:
        """Return what the layer gives (T, N, width); `keeps` (T, N, 1) is 0 where nothing is remembered, else 1."""
        given = []
        for gates, keep in zip(self.gates(rows), keeps, strict=True):
            memory = self._step(gates, memory * keep)
            given.append(memory)
        return torch.stack(given)

    def _step(self, gates: Tensor, memory: Tensor) -> Tensor:
        reset, update, new = gates.chunk(3, dim=1)
        own_reset, own_update, own_new = self.recall(memory).chunk(3, dim=1)
        update = torch.sigmoid(update + own_update)
        new = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
        return (1.0 - update) * new + update * memory


class _MinGru(nn.Module):
    """The unit of Feng et al., "Were RNNs All We Needed?" (arXiv 2410.01201), with a highway past it.

    Its gates depend on what it is given only, so that the memory is a linear scan over time. A third gate chooses
    between what is remembered and what is given: Srivastava et al., "Highway Networks" (arXiv 1505.00387).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(width, 3 * width)

    def step(self, rows: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the layer gives and what it remembers, (N, width) each, of rows (N, width) and memory."""
        new, update, passes = self._gates(rows)
        memory = (1.0 - update) * memory + update * new
        return passes * memory + (1.0 - passes) * rows, memory

    def sequence(self, rows: Tensor, memory: Tensor, keeps: Tensor) -> Tensor:
        """Return what the layer gives (T, N, width); `keeps` (T, N, 1) is 0 where nothing is remembered, else 1."""
        new, update, passes = self._gates(rows)
        remembered = linear_scan((1.0 - update) * keeps, update * new, memory)
        return passes * remembered + (1.0 - passes) * rows

    def _gates(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return candidates, which are positive, and two gates."""
        new, update, passes = self.gates(rows).chunk(3, dim=-1)
        return torch.where(new >= 0, new + 0.5, torch.sigmoid(new)), torch.sigmoid(update), torch.sigmoid(passes)


_CELLS: dict[str, type[_Gru | _MinGru]] = {"gru": _Gru, "mingru": _MinGru}


class RecurrentNetwork(MultilayerPerceptron):
    """Observations and what slots remember to outputs, values, and what they remember from then on."""

    def __init__(self, spec: RecurrentSpec, generator: torch.Generator | None = None) -> None:
        """Draw orthogonal weights, a gate at a time."""
        super().__init__(spec, generator)
        self.state_size, self.width = spec.network_memory, spec.width
        self.memory = nn.ModuleList(_CELLS[spec.network](spec.width) for _ in range(spec.memory_layers))
        for layer in self.memory.modules():
            if isinstance(layer, nn.Linear):
                for gate in torch.split(layer.weight.detach(), self.width):
                    nn.init.orthogonal_(gate, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(
        self, observation: Tensor, state: Tensor | None = None, *, own: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return outputs (N, outputs), values (N,) and the next state (N, state_size), of one tick.

        `state`: None where nothing is remembered; no next state is returned then. `own` (N, K) is what is seen of the
        past.
        """
        rows = self.hidden(observation, own)
        before = rows.new_zeros((len(rows), self.state_size)) if state is None else state
        after = []
        for layer, memory in zip(self.memory, torch.split(before, self.width, dim=1), strict=True):
            rows, memory = layer.step(rows, memory)  # type: ignore[operator]
            after.append(memory)
        outputs, value = self.heads(rows)
        return (outputs, value) if state is None else (outputs, value, torch.cat(after, dim=1))

    def sequence(
        self, observation: Tensor, state: Tensor, starts: Tensor, *, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (T, N, outputs) and values (T, N) of T ticks; at `starts`, bool (T, N), memory is zero.

        They are those of `forward`, tick by tick, but for rounding: more rows at once are multiplied in another order.
        """
        ticks, slots = starts.shape
        keeps = (~starts).to(state.dtype).unsqueeze(2)
        flat = observation.flatten(0, 1), None if own is None else own.flatten(0, 1)
        rows = self.hidden(*flat).reshape(ticks, slots, -1)
        for layer, memory in zip(self.memory, torch.split(state, self.width, dim=1), strict=True):
            rows = layer.sequence(rows, memory, keeps)  # type: ignore[operator]
        outputs, value = self.heads(rows.reshape(ticks * slots, -1))
        return outputs.reshape(ticks, slots, -1), value.reshape(ticks, slots)
