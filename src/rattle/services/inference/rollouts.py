"""From what was played to the message that a learner takes."""

from __future__ import annotations

import numpy as np

from rattle.rollouts.collector import RolloutBuffer
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import to_message

#: Arrays of a buffer that travel as they are.
_AS_THEY_ARE = ("observation", "log_prob", "value", "reward", "terminated", "truncated", "active", "final_value")


def to_rollout(buffer: RolloutBuffer, ticks: int, first_world: int, num_actions: int) -> training_pb2.Rollout:
    """Return the first `ticks` ticks of a buffer as a message, without the names of who played it and with what.

    The bytes are copied: the buffer may be filled again at once.
    """
    small = buffer.action[:ticks].astype(np.uint8 if num_actions <= 256 else np.int32)
    message = training_pb2.Rollout(
        first_world=first_world,
        action=to_message(small),
        last_value=to_message(buffer.last_value),
        world_episode=to_message(buffer.world_episode[:ticks]),
        metrics={name: to_message(values[:ticks]) for name, values in buffer.metrics.items()},
        state=buffer.state[:ticks] if any(buffer.state[:ticks]) else [],
    )
    for name in _AS_THEY_ARE:
        getattr(message, name).CopyFrom(to_message(getattr(buffer, name)[:ticks]))
    return message
