"""The policy file: one safetensors file of weights that says itself what it is.

Metadata (all strings, as safetensors has it): `format` "rattle.policy", `format_version` "1", `policy_version`, `spec`
(JSON of PolicySpec), `environment` (JSON: id and settings of what it was trained in) and `sha256` (of all the rest).
Reading runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, Field, Json, ValidationError

from rattle.policies.errors import PolicyError
from rattle.policies.kinds import AnySpec, check_parameters
from rattle.policies.spec import PolicySpec
from rattle.text import one_line

FORMAT = "rattle.policy"
FORMAT_VERSION = 1
_CHECKSUM = "sha256"


@dataclass(frozen=True)
class StoredPolicy:
    """Weights, what they are weights of, how many updates made them, and what they play."""

    spec: PolicySpec
    parameters: Mapping[str, NDArray[np.float32]]
    version: int
    environment: str
    environment_settings: Mapping[str, Any]


class _Environment(BaseModel):
    id: str
    settings: dict[str, Any]


class _Description(BaseModel):
    """What the metadata says of a policy, in addition to the format."""

    policy_version: int = Field(ge=0, lt=2**63)
    spec: Json[AnySpec]
    environment: Json[_Environment]


def dump_policy(policy: StoredPolicy) -> bytes:
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
    content = data[8 + header_length :]
    header["__metadata__"][_CHECKSUM] = _checksum(header, content)
    encoded = _encode(header)
    encoded += b" " * (-len(encoded) % 8)  # the format wants the tensors aligned
    return len(encoded).to_bytes(8, "little") + encoded + content


def _encode(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def _checksum(header: Mapping[str, Any], content: bytes) -> str:
    """Return the SHA-256 of a file's header, less the checksum itself, and of its tensors."""
    metadata = {name: text for name, text in header["__metadata__"].items() if name != _CHECKSUM}
    return hashlib.sha256(_encode({**header, "__metadata__": metadata}) + content).hexdigest()


def load_tensors(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; raises PolicyError when it is none or damaged."""
    try:
        tensors = safetensors.numpy.load(data)
        header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except KeyError as error:
        raise PolicyError(f"a safetensors file of something else: it holds numbers of type {error}") from None
    except (safetensors.SafetensorError, msgspec.DecodeError, ValueError) as error:
        raise PolicyError(f"not a safetensors file, or a damaged one ({one_line(error)})") from None
    metadata = header.get("__metadata__") or {}
    if metadata.get("format", "").startswith("rattle."):
        length = int.from_bytes(data[:8], "little")
        if metadata.get(_CHECKSUM) != _checksum(header, data[8 + length :]):
            raise PolicyError("damaged: its content does not match its checksum")
    return tensors, metadata


def load_policy(data: bytes) -> StoredPolicy:
    """Read a policy file; raises PolicyError when it is foreign, damaged, newer than this code or not finite."""
    tensors, metadata = load_tensors(data)
    if metadata.get("format") != FORMAT:
        found = one_line(metadata.get("format", "something else"))
        raise PolicyError(f"not a Rattle policy: a safetensors file of {found}")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise PolicyError(
            f"policy format {metadata.get('format_version')!r} is not known here (this version reads "
            f"'{FORMAT_VERSION}'): update Rattle"
        )
    try:
        described = _Description.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise PolicyError(f"the policy's description is damaged ({one_line(reason)})") from None
    check_parameters(described.spec, tensors)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise PolicyError(f"parameter {name} holds values that are not finite numbers")
    environment = described.environment
    return StoredPolicy(described.spec, tensors, described.policy_version, environment.id, environment.settings)
