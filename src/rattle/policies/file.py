"""The policy file: one safetensors file of weights that says itself what it is.

Metadata (all strings, as safetensors has it): `format` "rattle.policy", `format_version` "1", `policy_version`, `spec`
(JSON of PolicySpec) and `environment` (JSON: id and settings of what it was trained in). Reading runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from rattle.policies.acting import check_parameters
from rattle.policies.errors import PolicyError
from rattle.policies.spec import PolicySpec

FORMAT = "rattle.policy"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Policy:
    """Weights, what they are weights of, how many updates made them, and what they play."""

    spec: PolicySpec
    parameters: Mapping[str, NDArray[np.float32]]
    version: int
    environment: str
    environment_settings: Mapping[str, Any]


def dump_policy(policy: Policy) -> bytes:
    """Return the policy file: the same bytes for the same policy."""
    check_parameters(policy.spec, policy.parameters)
    environment = {"id": policy.environment, "settings": dict(policy.environment_settings)}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "policy_version": str(policy.version),
        "spec": policy.spec.model_dump_json(),
        "environment": json.dumps(environment, sort_keys=True),
    }
    return dump_tensors(policy.parameters, metadata)


def dump_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with its header in one fixed order; the library leaves the metadata's order open."""
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data: bytes = safetensors.numpy.save(contiguous)
    header_length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + header_length])}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the tensors aligned
    return len(encoded).to_bytes(8, "little") + encoded + data[8 + header_length :]


def load_tensors(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; raises PolicyError when it is none."""
    try:
        tensors = safetensors.numpy.load(data)
        header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, msgspec.DecodeError, ValueError, KeyError) as error:
        raise PolicyError(f"not a safetensors file, or a damaged one ({error})") from None
    return tensors, header.get("__metadata__", {})


def load_policy(data: bytes) -> Policy:
    """Read a policy file; raises PolicyError when it is foreign, damaged, newer than this code or not finite."""
    tensors, metadata = load_tensors(data)
    if metadata.get("format") != FORMAT:
        raise PolicyError("not a Rattle policy: a safetensors file of something else")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise PolicyError(
            f"policy format {metadata.get('format_version')} is not known here (this version reads {FORMAT_VERSION}): "
            "update Rattle"
        )
    try:
        spec = PolicySpec.model_validate_json(metadata["spec"])
        environment = json.loads(metadata["environment"])
        version = int(metadata["policy_version"])
        settings, environment_id = dict(environment["settings"]), str(environment["id"])
    except (KeyError, ValueError, TypeError, ValidationError) as error:
        raise PolicyError(f"the policy's description is damaged ({type(error).__name__})") from None
    check_parameters(spec, tensors)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise PolicyError(f"parameter {name} holds values that are not finite numbers")
    return Policy(spec, tensors, version, environment_id, settings)
