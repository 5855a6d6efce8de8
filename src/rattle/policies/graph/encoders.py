"""Networks that come with Rattle for observations of any kind: an encoder for each part, joined."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from rattle.policies.errors import PolicyError
from rattle.policies.graph.network import Network, Spaces
from rattle.policies.graph.spec import EncoderSettings
from rattle.samples.spaces import ArraySpace, Observations, PartsSpace

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
#: What an encoder makes of numbers that are no image.
_FEATURES = 64
#: The height and the width from which on Nature CNN has something to look at, and by how many pixels its view grows.
_NATURE_LEAST, _NATURE_STEP = 36, 8
#: What the newest rollout adds to the running mean of images, and how many of its images are gone through at once.
_RATE, _IMAGES = 0.05, 256
#: No pixel is further from its mean than this, in scaled units.
_FURTHEST = 3.0
#: Images that vary by less than this part of their size are rounding, and are not blown up.
_LEAST_DEVIATION = 1e-5


class _Residual(nn.Module):
    """Two convolutions, whose result is added to what they take."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = [(nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2)]
        self.body = nn.Sequential(*(layer for pair in layers for layer in pair))

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows of the same shape."""
        added: Tensor = rows + self.body(rows)
        return added


def _nature(channels: int, height: int, width: int) -> nn.Module:
    if min(height, width) < _NATURE_LEAST:
        raise PolicyError(
            f"policy.network is nature_cnn, which wants images of at least {_NATURE_LEAST} x {_NATURE_LEAST}, and one "
            f"of {height} x {width} is observed: choose encoders or impala_cnn"
        )
    # Without a margin, images that are not 36, 44, ..., 84 pixels wide would have some at the right that nobody sees.
    upright, across = (ceil((_NATURE_LEAST - size) % _NATURE_STEP / 2) for size in (height, width))
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 8, stride=4, padding=(upright, across)), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.ReLU()),
    )


def _impala(channels: int, height: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for taken, given in pairwise((channels, 16, 32, 32)):
        layers += [nn.Conv2d(taken, given, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [_Residual(given), _Residual(given)]
    return nn.Sequential(*layers, nn.ReLU())


def _small(channels: int, height: int, width: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
    )


class _Image(nn.Module):
    """Images (N, channels, height, width) as float32; channels are the smaller of the first and the last axis.

    The running mean is taken off each pixel, and one gain brings the rest to about 1. In games the background is bright
    and what matters is a few pixels: a network that sees both as they are learns to predict by the background, until
    most of its ReLUs give 0 for all images.
    """

    def __init__(self, space: ArraySpace) -> None:
        super().__init__()
        self.space = space
        self.mean: Tensor
        self.gain: Tensor
        self.rollouts: Tensor
        self.register_buffer("mean", torch.zeros(space.sizes))
        self.register_buffer("gain", torch.ones(1))
        self.register_buffer("rollouts", torch.zeros(1))  # that the others have followed
        first, second, last = space.sizes if len(space.sizes) == 3 else (*space.sizes, 1)
        self.is_last = last <= first
        self.sizes = (last, first, second) if self.is_last else (first, second, last)

    def forward(self, rows: Tensor) -> Tensor:
        """Return them of rows (N, *sizes)."""
        rows = (self.space.scaled(rows) - self.mean) * self.gain
        if len(self.space.sizes) == 2:
            return rows.unsqueeze(1)
        return rows.permute(0, 3, 1, 2) if self.is_last else rows

    def follow(self, rows: Tensor) -> None:
        """Let mean and gain follow rows (N, *sizes) of a rollout; the gain falls at once where a pixel goes far."""
        self.rollouts += 1
        rate = max(_RATE, 1 / self.rollouts.item())
        parts = torch.split(rows, _IMAGES)
        total = torch.stack([self.space.scaled(part).sum(0) for part in parts]).sum(0)
        self.mean.lerp_(total / len(rows), rate)
        apart = [(self.space.scaled(part) - self.mean).abs() for part in parts]
        deviation = (sum(float(part.square().sum()) for part in apart) / rows.numel()) ** 0.5
        furthest = max(float(part.max()) for part in apart)
        size = max(deviation, furthest / _FURTHEST, _LEAST_DEVIATION * float(self.mean.abs().max()))
        gain = torch.full_like(self.gain, 1 / size if size else 1.0)
        self.gain.copy_(torch.minimum(gain, self.gain.lerp(gain, rate)))


class _Inputs(nn.Module):
    """The inputs (N, inputs) that a space makes of its rows."""

    def __init__(self, space: Observations) -> None:
        super().__init__()
        self.space = space

    def forward(self, rows: Tensor) -> Tensor:
        """Return them of rows (N, ...)."""
        return self.space.encode(rows)


class Encoders(Network):
    """Encodes each part of what is observed, and decides by all of them through hidden layers.

    Images go through convolutions, a large one through those of Nature CNN and a small one through two of 3 x 3; codes
    and other numbers go through a linear layer.
    """

    Settings = EncoderSettings

    def __init__(self, spaces: Spaces, settings: EncoderSettings) -> None:
        """Draw orthogonal weights, as `mlp` does: a small policy head makes the first policy nearly uniform."""
        super().__init__(spaces, settings)
        space, action = spaces.observation, spaces.action
        self.activation = _ACTIVATIONS[settings.activation]()
        nothing = torch.from_numpy(space.zeros(1))
        parts = [part.space for part, _ in space.split(nothing)] if isinstance(space, PartsSpace) else [space]
        self.encoders = nn.ModuleList(map(self._encoder, parts))
        with torch.no_grad():
            sizes = (self._features(nothing).shape[1], *settings.hidden_sizes)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.policy, self.value = nn.Linear(sizes[-1], action.outputs - action.outputs_alone), nn.Linear(sizes[-1], 1)
        if action.learnt_alone is not None:  # such as standard deviations of 1 in the beginning
            self.register_parameter(action.learnt_alone, nn.Parameter(torch.zeros(action.outputs_alone)))
        gains: dict[nn.Module, float] = {self.policy: 0.01, self.value: 1.0}
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(layer.weight, gains.get(layer, sqrt(2.0)))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what two heads make of all parts."""
        hidden = self._features(observation)
        for layer in self.hidden:
            hidden = self.activation(layer(hidden))
        outputs, alone = self.policy(hidden), self.spaces.action.learnt_alone
        if alone is not None:
            outputs = torch.cat([outputs, getattr(self, alone).expand(outputs.shape[0], -1)], dim=1)
        return outputs, self.value(hidden).squeeze(1), state

    def convolutions(self, channels: int, height: int, width: int) -> nn.Module:
        """Return the convolutions that images of a size go through."""
        return (_nature if min(height, width) >= _NATURE_LEAST else _small)(channels, height, width)

    def follow(self, observation: Tensor) -> None:
        """Let the scales of images follow a rollout."""
        for encoder, rows in self._encoded(observation):
            if isinstance(encoder, nn.Sequential) and isinstance(encoder[0], _Image):
                encoder[0].follow(rows)

    def _features(self, observation: Tensor) -> Tensor:
        """Return what the encoders make of their parts, side by side (N, features)."""
        return torch.cat([encoder(rows) for encoder, rows in self._encoded(observation)], dim=1)

    def _encoded(self, observation: Tensor) -> list[tuple[nn.Module, Tensor]]:
        """Return each encoder, and its part (N, ...) of what is observed."""
        space = self.spaces.observation
        parts = [rows for _, rows in space.split(observation)] if isinstance(space, PartsSpace) else [observation]
        return list(zip(self.encoders, parts, strict=True))

    def _encoder(self, space: Observations) -> nn.Module:
        if isinstance(space, ArraySpace) and space.is_image:
            image = _Image(space)
            return nn.Sequential(image, self.convolutions(*image.sizes), nn.Flatten())
        return nn.Sequential(_Inputs(space), nn.Linear(space.inputs, _FEATURES), self.activation)


class NatureCnn(Encoders):
    """Encoders with the convolutions of Mnih et al., "Human-level control" (2015), for images of any size."""

    def convolutions(self, channels: int, height: int, width: int) -> nn.Module:
        """Return them."""
        return _nature(channels, height, width)


class ImpalaCnn(Encoders):
    """Encoders with the residual convolutions of Espeholt et al., "IMPALA" (arXiv 1802.01561), for all images."""

    def convolutions(self, channels: int, height: int, width: int) -> nn.Module:
        """Return them."""
        return _impala(channels, height, width)
