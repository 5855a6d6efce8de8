"""From a rollout to the message that a learner takes."""

from __future__ import annotations

from rattle.samples.rollout import TRAVELLING, Played
from rattle.samples.spaces import ActionSpace
from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import fill_message


def to_message(rollout: Played, first_world: int, space: ActionSpace) -> training_pb2.Rollout:
    """Return a rollout as a message, without the names of who played it and with what.

    The bytes are copied: the rollout may be overwritten at once.
    """
    message = training_pb2.Rollout(first_world=first_world, state=rollout.state if any(rollout.state) else [])
    for field in (field for field in TRAVELLING if field.name in rollout.arrays):
        array = rollout.arrays[field.name]
        small = array.astype(space.wire_dtype) if field.dtype == "action" else array
        fill_message(getattr(message, field.name), small)
    for name, values in rollout.metrics.items():
        fill_message(message.metrics[name], values)
    return message
