"""How policies fare, as messages, and as values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from rattle.services.training.learning_loop import LearningLoop
from rattle.services.training.rollout_batcher import Verdict
from rattle.services.training.service import TrainingService
from rattle.services.utils.protos import training_pb2
from rattle.wire.checksums import damaged_messages

#: Characters of an actor's life that anybody may know.
_SHOWN_OF_LIFE = 8


def service_status(service: TrainingService) -> training_pb2.Status:
    """Return how all policies fare."""
    return training_pb2.Status(
        lineage=service.lineage,
        mode=service.settings.training.mode,
        policies=[policy_status(loop) for loop in service.loops.values()]
        or [training_pb2.PolicyStatus(policy_id=name, status="waiting") for name in service.policies],
        messages_damaged=damaged_messages(),
    )


def as_plain(message: Message) -> dict[str, Any]:
    """Return a message as values for JSON, None for what it does not say, without the checksum of its bytes."""
    fields = message.DESCRIPTOR.fields
    return {field.name: _value_of(message, field) for field in fields if field.name != "crc32c"}


def _value_of(message: Message, field: Any) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if isinstance(value, Mapping):
        return {key: as_plain(one) if isinstance(one, Message) else one for key, one in value.items()}
    return [as_plain(one) for one in value] if field.message_type is not None else value


def policy_status(loop: LearningLoop) -> training_pb2.PolicyStatus:
    """Return everything that is known of a policy's run."""
    run, standing, intake, stored = loop.run, loop.run.standing, loop.intake, loop.run.recorder.newest
    actors = {
        actor: training_pb2.ActorStatus(
            life=life[:_SHOWN_OF_LIFE],
            sequence=counted.sequence,
            policy_version=counted.policy_version,
            first_world=counted.first_world,
            worlds=counted.worlds,
            refused=loop.actors.refusal((actor, life)),
        )
        for actor, (life, counted) in intake.actors().items()
    }
    return training_pb2.PolicyStatus(
        policy_id=loop.policy_id,
        run_id=run.recorder.run_id,
        run_dir=str(run.recorder.directory.path),
        status=loop.status,
        error=loop.error,
        policy_version=loop.newest.version,
        env_steps=standing.env_steps,
        episodes=standing.episodes,
        seconds=run.seconds,
        env_steps_per_second=standing.env_steps_per_second,
        mean_return=standing.mean_return,
        mean_episode_length=standing.mean_episode_length,
        evaluation_return=run.recorder.evaluation_return,
        metrics=standing.metrics,
        policy_age=standing.policy_age,
        max_policy_age=standing.max_policy_age,
        rollouts_accepted=intake.counts[Verdict.ACCEPTED],
        rollouts_repeated=intake.counts[Verdict.DUPLICATE],
        rollouts_stale=intake.counts[Verdict.STALE],
        rollouts_refused=intake.counts[Verdict.REFUSED],
        rollouts_waiting=len(intake),
        actors=actors,
        policy_sha256=stored.policy_sha256,
        checkpoint_version=stored.policy_version,
    )
