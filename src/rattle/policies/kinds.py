"""The kinds of network that there are, by the name that a spec has in `network`."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import PlainValidator, SerializeAsAny

from rattle.policies.errors import PolicyError
from rattle.policies.graph import Graph
from rattle.policies.kind import NetworkKind, Parameters
from rattle.policies.mlp import Mlp
from rattle.policies.recurrent import Recurrent
from rattle.policies.recurrent.spec import Cell
from rattle.policies.spec import PolicySpec

KINDS: dict[str, NetworkKind[Any]] = {
    "mlp": Mlp(),
    **dict.fromkeys(get_args(Cell), Recurrent()),
    "graph": Graph(),
}


def _read_spec(values: Any) -> PolicySpec:
    """Return the spec of the kind that its `network` names; raises ValidationError."""
    if isinstance(values, PolicySpec):
        return values
    named = values.get("network") if isinstance(values, dict) else None
    kind = KINDS.get(named, KINDS["mlp"]) if isinstance(named, str) else KINDS["mlp"]
    return kind.spec.model_validate(values)


#: The spec of a policy of any kind.
AnySpec = Annotated[PolicySpec, PlainValidator(_read_spec), SerializeAsAny()]


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
