"""All checks, in the order in which they run."""

from __future__ import annotations

from rattle.conformance import (
    agent_errors,
    agent_health,
    agent_moves,
    agent_resets,
    agent_state,
    agent_stream,
    vector_actions,
    vector_checksums,
    vector_determinism,
    vector_encodings,
    vector_last,
    vector_limits,
    vector_numbers,
    vector_owners,
    vector_sessions,
    vector_spec,
    vector_state,
    vector_steps,
    vector_websocket,
)
from rattle.conformance.checks import Check

CHECKS: tuple[Check, ...] = (
    *agent_health.CHECKS,
    *agent_stream.CHECKS,
    *agent_state.CHECKS,
    *agent_moves.CHECKS,
    *agent_resets.CHECKS,
    *agent_errors.CHECKS,
    *vector_spec.CHECKS,
    *vector_sessions.CHECKS,
    *vector_owners.CHECKS,
    *vector_steps.CHECKS,
    *vector_last.CHECKS,
    *vector_numbers.CHECKS,
    *vector_encodings.CHECKS,
    *vector_actions.CHECKS,
    *vector_determinism.CHECKS,
    *vector_limits.CHECKS,
    *vector_state.CHECKS,
    *vector_websocket.CHECKS,
    *vector_checksums.CHECKS,
)
