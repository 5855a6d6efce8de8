"""The party of `parallel_party` as PettingZoo's turn-based environments are written: a module with `env` only."""

from __future__ import annotations

from typing import Any

from pettingzoo.utils.conversions import parallel_to_aec
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from tests.envs.parallel_party import Party


def env(*, in_turns: bool = False, **settings: Any) -> Any:
    """Return the party in turns; `in_turns` has it say that its guests do not act at the same time."""
    party = Party(**settings)
    party.render_mode = None
    turns = OrderEnforcingWrapper(parallel_to_aec(party))
    turns.metadata = {**turns.metadata, "is_parallelizable": not in_turns}
    return turns
