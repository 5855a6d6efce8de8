"""The section `policy` of an experiment: which network acts, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainValidator, SerializeAsAny

from rattle.analytics.extras import require
from rattle.envs.validation import OwnSettings, StrictSettings, settings_of
from rattle.extensions import NETWORK, Extension, ExtensionError, is_not_needed, load
from rattle.policies.graph.spec import EncoderSettings
from rattle.policies.mlp.spec import Activation
from rattle.policies.own.inputs import OWN_INPUTS, OwnInputs
from rattle.policies.recurrent.spec import Cell

Bounds = Annotated[
    Literal["clip", "squash"],
    Field(
        description="How real actions are kept within their bounds. clip: values beyond a bound are set to it. "
        "squash: a hyperbolic tangent maps into them, and probabilities are those of its results."
    ),
]


class PolicySection(StrictSettings):
    """The network that acts."""

    network: Literal["mlp"] = Field(
        "mlp",
        description="mlp, a multilayer perceptron for cells and numbers; mingru or gru, the same with memory; "
        "encoders, nature_cnn or impala_cnn for all observations; or module:Class, a network of your own "
        "(docs/extending.md).",
    )
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (64, 64), max_length=16, description="Widths of the hidden layers."
    )
    activation: Activation = Field("relu", description="relu or tanh.")
    inputs: OwnInputs = Field(
        (),
        description=f"What the policy sees of its own past, as well as the observation, out of {', '.join(OWN_INPUTS)} "
        "(docs/extending.md).",
    )
    bounds: Bounds = "clip"
    weights: str | None = Field(
        None, description="A policy file of this network, with whose weights a run begins; null: they are drawn."
    )


class RecurrentSection(PolicySection):
    """A network that remembers, for cells and numbers."""

    network: Cell = Field(  # type: ignore[assignment]
        "mingru",
        description="mingru, whose memory is a linear scan over time, which is learnt fastest; or gru, the usual gated "
        "recurrent unit.",
    )
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (64,),
        min_length=1,
        max_length=16,
        description="Widths of the hidden layers before the memory, which is as wide as the last.",
    )
    memory_layers: int = Field(1, ge=1, le=8, description="Layers of memory, one after another.")


#: Networks that come with Rattle as graphs, in addition to those above, which are compiled code.
NETWORKS = {
    "encoders": "rattle.policies.graph.encoders:Encoders",
    "nature_cnn": "rattle.policies.graph.encoders:NatureCnn",
    "impala_cnn": "rattle.policies.graph.encoders:ImpalaCnn",
}


class EncodersSection(EncoderSettings):
    """A network of an encoder for each part of what is observed: numbers, codes, images."""

    network: Literal["encoders", "nature_cnn", "impala_cnn"] = Field(
        "encoders",
        description="How images are encoded: encoders, as their size suits; nature_cnn, for large ones; or impala_cnn.",
    )
    bounds: Bounds = "clip"
    weights: str | None = Field(
        None, description="A policy file of this network, with whose weights a run begins; null: they are drawn."
    )

    @property
    def extension(self) -> Extension[Any]:
        """Return the class."""
        return find_network(self.network)

    @property
    def own_settings(self) -> dict[str, Any]:
        """Return what the network itself is told."""
        return self.model_dump(include=set(EncoderSettings.model_fields))


class UserNetworkSection(OwnSettings):
    """A network of a user's, and its own settings in addition to these."""

    network: str = Field(description="module:Class, or the name that an installed package gives to one.")
    bounds: Bounds = "clip"
    weights: str | None = Field(
        None, description="A policy file of this network, with whose weights a run begins; null: they are drawn."
    )

    @property
    def extension(self) -> Extension[Any]:
        """Return the class; raises ExtensionError."""
        return find_network(self.network)


def find_network(name: str) -> Extension[Any]:
    """Return a network by its name in `NETWORKS`, `module:Class` or the name of an entry point.

    Raises ExtensionError.
    """
    require("torch", "train", f"policy.network: {name}")
    from rattle.policies.graph.network import Network

    try:
        return load(NETWORKS.get(name, name), NETWORK, Network, ("mlp", *get_args(Cell), *NETWORKS))
    except ExtensionError as error:
        raise ExtensionError(f"policy.network: {error}") from error


def _choose_network(section: Any) -> PolicySection | EncodersSection | UserNetworkSection:
    """Return the section of a network; raises ValidationError, EnvError or ExtensionError, which name what is wrong."""
    if isinstance(section, PolicySection | EncodersSection | UserNetworkSection):
        return section
    name = section.get("network", "mlp") if isinstance(section, Mapping) else None
    if name == "mlp" or not isinstance(name, str):
        return PolicySection.model_validate(section)
    if name in get_args(Cell):
        return RecurrentSection.model_validate(section)
    if name in NETWORKS:
        if section.get("inputs"):
            raise ValueError(f"inputs are for {', '.join(('mlp', *get_args(Cell)))}, and network is {name}")
        return EncodersSection.model_validate(section)
    chosen = UserNetworkSection.model_validate(section)
    if not is_not_needed(name, NETWORK):
        settings_of(chosen.extension, chosen.own_settings, UserNetworkSection.model_fields)
    return chosen


#: The section of any network.
AnyPolicySection = Annotated[
    EncodersSection | RecurrentSection | PolicySection | UserNetworkSection,
    PlainValidator(_choose_network),
    SerializeAsAny(),
]
