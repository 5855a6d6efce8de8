"""Worlds whose observations need encoders: small images, and several parts with a mask of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from rattle.extend import ArraySpace, DiscreteSpace, FloatSpace, MaskSpace, Part, PartsSpace, Worlds
from rattle.samples.spaces import ActionSpace, ObservationSpace

CORNERS = 4


class Lights(Worlds):
    """A pixel is lit in a corner of an image: the action with the corner's number pays 1, for ten ticks."""

    class Settings(BaseModel):
        """How large the image is, and whether its channel comes last."""

        size: int = 8
        last: bool = True
        ticks: int = 10

    def spaces(self) -> tuple[ObservationSpace, ActionSpace]:
        """Return an image of bytes, and an action for each corner."""
        size = self.settings.size
        return ArraySpace(sizes=(size, size, 1) if self.settings.last else (1, size, size)), DiscreteSpace(n=CORNERS)

    def allocate(self) -> None:
        """Make what decides the future."""
        self.corner, self.left = np.zeros((2, self.num_worlds), np.int64)

    def start(self, worlds: NDArray[np.int64]) -> None:
        """Light a corner."""
        self.left[worlds] = self.settings.ticks
        self.light(worlds)

    def advance(self, action: NDArray[Any]) -> None:
        """Pay, and light another one."""
        self.reward[:] = action == self.corner
        self.left -= 1
        self.truncated[:] = self.left == 0
        self.light(np.arange(self.num_worlds))

    def light(self, worlds: NDArray[np.int64]) -> None:
        """Draw corners and show them."""
        self.corner[worlds] = (self.random(worlds)[:, 0] * CORNERS).astype(np.int64)
        self.show(worlds, self.image(worlds))

    def image(self, worlds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some worlds, (worlds, size, size)."""
        size, corner = self.settings.size, self.corner[worlds]
        images = np.zeros((len(worlds), size, size), np.uint8)
        images[np.arange(len(worlds)), corner // 2 * (size - 1), corner % 2 * (size - 1)] = 255
        return images

    def show(self, worlds: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
        """Fill the observations of some worlds."""
        self.observation[worlds] = images.reshape(len(worlds), *self.spec.observation_space.shape)


class MaskedLights(Lights):
    """A vector says by how many the action is turned from the corner; some of the others are forbidden."""

    def spaces(self) -> tuple[ObservationSpace, ActionSpace]:
        """Return an image, a vector of two numbers, and a mask."""
        size = self.settings.size
        spaces = {"image": ArraySpace(sizes=(size, size)), "turn": FloatSpace(size=2), "mask": MaskSpace(size=CORNERS)}
        parts = tuple(Part(name=name, space=space) for name, space in spaces.items())
        return PartsSpace(parts=parts), DiscreteSpace(n=CORNERS)

    def allocate(self) -> None:
        """Make what decides the future."""
        super().allocate()
        self.turn = np.zeros(self.num_worlds, np.int64)
        self.allowed = np.ones((self.num_worlds, CORNERS), np.bool_)

    def advance(self, action: NDArray[Any]) -> None:
        """Pay for the right action; one that is forbidden is an error."""
        if not self.allowed[np.arange(self.num_worlds), action].all():
            raise ValueError("a forbidden action")
        self.corner = (self.corner + self.turn) % CORNERS
        super().advance(action)

    def show(self, worlds: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
        """Fill the observations of some worlds, one part after another."""
        drawn = self.random(worlds, CORNERS + 1)
        self.turn[worlds] = drawn[:, 0] < 0.5
        self.allowed[worlds] = drawn[:, 1:] < 0.5
        self.allowed[worlds, (self.corner[worlds] + self.turn[worlds]) % CORNERS] = True
        turn = np.stack([self.turn[worlds], 1 - self.turn[worlds]], axis=1)
        parts = (images.reshape(len(worlds), -1), turn, self.allowed[worlds])
        self.observation[worlds] = np.concatenate(parts, axis=1)
