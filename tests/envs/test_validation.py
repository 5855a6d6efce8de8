"""Mistakes in settings are named by key, with the nearest right name."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rattle.envs.errors import EnvError
from rattle.envs.validation import validated
from rattle.text import nearest


class Wheel(BaseModel):
    """A nested model."""

    model_config = ConfigDict(extra="forbid")
    radius: float = Field(1.0, gt=0)


class Cart(BaseModel):
    """A model with all kinds of keys."""

    model_config = ConfigDict(extra="forbid")
    wheels: list[Wheel] = Field(default_factory=list)
    front: Wheel = Field(default_factory=Wheel)
    length: int = 2
    load: int | Literal["full"] | None = 1

    @model_validator(mode="after")
    def _not_endless(self) -> Cart:
        if self.length > 10:
            raise ValueError("a cart that long does not turn")
        return self


def test_good_values_become_the_model() -> None:
    assert validated(Cart, {"length": 3, "front": {"radius": 2}}, "cart") == Cart(length=3, front=Wheel(radius=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lenght": 3}, "bad settings of cart: unknown key 'lenght', did you mean 'length'?"),
        ({"front": {"radios": 3}}, "bad settings of cart: unknown key 'front.radios', did you mean 'radius'?"),
        ({"zzz": 3}, "bad settings of cart: unknown key 'zzz', known are wheels, front, length, load"),
        ({"front": {"radius": -1}}, "bad settings of cart: front.radius: more than 0.0 is wanted, got -1"),
        ({"wheels": [{"radios": 1}]}, "bad settings of cart: unknown key 'wheels[0].radios', did you mean 'radius'?"),
        (
            {"load": "much"},
            "bad settings of cart: load: a whole number is wanted, such as 1, or 'full', got 'much'; "
            "load: choose 'full', got 'much'",
        ),
        ({"length": 11}, "bad settings of cart: a cart that long does not turn"),
        (
            {"length": "long", "front": 1},
            "bad settings of cart: front: a section with keys of its own is wanted, such as front.radius=1.0, got 1; "
            "length: a whole number is wanted, such as 2, got 'long'",
        ),
    ],
)
def test_every_mistake_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError) as caught:
        validated(Cart, values, "cart")
    assert str(caught.value) == message


def test_nearest_names() -> None:
    assert nearest("snek", ["snake", "gym"]) == ", did you mean 'snake'?"
    assert nearest("helicopter", ["snake", "gym"]) == ""
