"""Improving policies that come with the request: nothing is remembered of them."""

from __future__ import annotations

import numpy as np

from rattle.extensions import ExtensionError
from rattle.learning.errors import LearningError
from rattle.learning.learner import Learner, UpdateMetrics
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, dump_policy, load_policy
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout, as_tensors
from rattle.services.training.rollout_messages import RolloutSpec, part_of, read_learnable
from rattle.services.utils.protos import training_pb2
from rattle.settings.experiment import ExperimentSettings
from rattle.trainer.build import build_learner
from rattle.wire.problems import RequestError


class GivenPolicies:
    """Improves policies by one step each with a fresh optimiser; used by one thread at a time."""

    def __init__(self, settings: ExperimentSettings) -> None:
        self._settings = settings
        self._learner: Learner | None = None  # of the last policy's form: making one takes longer than learning

    def improve(self, file: bytes, message: training_pb2.Rollout) -> tuple[bytes, UpdateMetrics]:
        """Return a policy file improved by a rollout, with a version one higher.

        Raises RequestError naming the field that is wrong, or what code of a user did.
        """
        policy = self._read(file)
        spec = policy.spec
        with part_of("rollout"):
            arrays = read_learnable(message, RolloutSpec.of(self._settings, spec))
        arrays["policy_version"] = np.full_like(arrays["policy_version"], policy.version)
        rollout = as_tensors(Rollout(arrays))
        learner = self._learner_of(spec)
        weights = {f"policy/{name}": array for name, array in policy.parameters.items()}
        learner.restore({**weights, "version": np.array(policy.version)})
        try:
            metrics = learner.update(rollout)
        except LearningError as error:
            raise RequestError("bad_value", f"rollout: {error}", "rollout") from None
        except ExtensionError as error:
            raise RequestError("internal", str(error)) from error
        improved = StoredPolicy(
            spec, learner.parameters(), learner.version, policy.environment, policy.environment_settings
        )
        return dump_policy(improved), metrics

    def close(self) -> None:
        """Stop the learner's threads."""
        if self._learner is not None:
            self._learner.close()

    def _read(self, file: bytes) -> StoredPolicy:
        try:
            policy = load_policy(file)
        except PolicyError as error:
            raise RequestError("bad_value", f"policy: {error}", "policy") from None
        algorithm = self._settings.algorithm
        if algorithm.needs_value and not policy.spec.value_head:
            raise RequestError("bad_value", f"policy: has no value head, which {algorithm.id} needs", "policy")
        return policy

    def _learner_of(self, spec: PolicySpec) -> Learner:
        if self._learner is None or self._learner.spec != spec:
            self.close()
            self._learner = None
            try:
                self._learner = build_learner(self._settings, spec)
            except PolicyError as error:
                raise RequestError("bad_value", f"policy: {error}", "policy") from None
            except ExtensionError as error:
                raise RequestError("internal", str(error)) from error
        return self._learner
