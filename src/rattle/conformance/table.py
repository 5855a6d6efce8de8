"""All checks, in the order in which they run."""

from __future__ import annotations

from rattle.conformance import (
    vector_actions,
    vector_determinism,
    vector_encodings,
    vector_limits,
    vector_numbers,
    vector_sessions,
    vector_spec,
    vector_state,
    vector_steps,
    vector_websocket,
)
from rattle.conformance.checks import Check

CHECKS: tuple[Check, ...] = (
    *vector_spec.CHECKS,
    *vector_sessions.CHECKS,
    *vector_steps.CHECKS,
    *vector_numbers.CHECKS,
    *vector_encodings.CHECKS,
    *vector_actions.CHECKS,
    *vector_determinism.CHECKS,
    *vector_limits.CHECKS,
    *vector_state.CHECKS,
    *vector_websocket.CHECKS,
)
