"""The kinds of network that there are, by the name that a spec has in `network`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from rattle.policies.errors import PolicyError
from rattle.policies.graph import Graph
from rattle.policies.graph.spec import GraphSpec
from rattle.policies.kind import NetworkKind, Parameters
from rattle.policies.mlp import Mlp
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec

KINDS: dict[str, NetworkKind[Any]] = {"mlp": Mlp(), "graph": Graph()}

#: The spec of a policy of any kind.
AnySpec = Annotated[MlpSpec | GraphSpec, Field(discriminator="network")]


def kind_of(spec: PolicySpec) -> NetworkKind[Any]:
    """Return the kind of a policy's network."""
    return KINDS[spec.network]


def check_parameters(spec: PolicySpec, parameters: Parameters) -> None:
    """Raise PolicyError unless the parameters have the names, shapes and dtype that the spec says."""
    expected = kind_of(spec).parameter_shapes(spec)
    if set(parameters) != set(expected):
        raise PolicyError(f"expected the parameters {sorted(expected)}, got {sorted(parameters)}")
    for name, shape in expected.items():
        array = parameters[name]
        if array.shape != shape or array.dtype != "float32":
            raise PolicyError(f"parameter {name} must be float32 {shape}, got {array.dtype} {array.shape}")
