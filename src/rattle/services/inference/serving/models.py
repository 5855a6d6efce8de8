"""The policies that are served: what each name stands for now."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy
from rattle.policies.kinds import kind_of
from rattle.policies.sampling import Groups, draw
from rattle.policies.spec import PolicySpec
from rattle.services.inference.serving.tensors import shown
from rattle.wire.problems import RequestError


@dataclass(frozen=True, eq=False, slots=True)
class Served:
    """One version of a policy, ready to compute; it never changes."""

    name: str
    policy: StoredPolicy
    acting: ActingPolicy
    row_work: int  # multiplications that a row takes at most

    @property
    def version(self) -> str:
        """Return the policy version as the protocol has it."""
        return str(self.policy.version)

    @property
    def spec(self) -> PolicySpec:
        """Return what the policy takes and gives."""
        return self.policy.spec


class Models:
    """Names and the policies that they stand for; may be used from any thread."""

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}

    def publish(self, name: str, policy: StoredPolicy) -> None:
        """Serve a policy under a name from the next forward pass on; those that have begun end with the old one.

        Raises PolicyError when the parameters do not fit the spec.
        """
        earlier = self._served.get(name)
        before = None if earlier is None else earlier.acting
        is_next = earlier is not None and earlier.spec == policy.spec
        if earlier is not None and is_next:
            policy = replace(policy, spec=earlier.spec)  # else each version that a sequence has seen would keep its own
        acting = ActingPolicy.after(before, policy.spec, policy.parameters)
        if not is_next:
            _compile(acting)
        self._served[name] = Served(name, policy, acting, kind_of(policy.spec).row_work(policy.spec))

    def get(self, name: str, version: str = "") -> Served:
        """Return what a name stands for now; raises RequestError for an unknown name, and any version but this one."""
        served = self._served.get(name)
        if served is None:
            known = ", ".join(sorted(self._served)) or "none yet"
            raise RequestError(
                "unknown_policy", f"model_name: there is no {shown(name)}; served are: {known}", "model_name"
            )
        if version not in ("", served.version):
            raise RequestError(
                "unknown_policy",
                f"model_version: {shown(version)} of model '{name}' is not served, but version {served.version}; "
                "leave it out for the newest",
                "model_version",
            )
        return served

    def all(self) -> list[Served]:
        """Return everything that is served, by name."""
        return sorted(self._served.values(), key=lambda served: served.name)


def _compile(acting: ActingPolicy) -> None:
    """Compute a row, so that no request waits for a compiler."""
    row = acting.spec.observation.zeros(1)
    draw(
        acting.spec.action,
        acting.forward(row, np.zeros((1, acting.spec.memory_size), np.float32))[0],
        Groups(np.ones(1, np.int64), np.zeros(1, np.uint64), np.zeros(1, np.bool_)),
    )
