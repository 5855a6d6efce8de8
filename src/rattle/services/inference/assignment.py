"""Which worlds an actor may be given that is added while others play. Sans I/O.

In mode on_policy every world of a run has one place in every update: an actor can only take over what nobody of this
process plays. In mode async more than one actor may play a snake: each of its lives is complete. The worlds of the
vector API continue from rollout to rollout, so that two actors may never share any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count, groupby

import msgspec

from rattle.addresses import keep_credentials, parse_address, without_credentials
from rattle.services.inference.actors import Assignment
from rattle.settings.experiment import ExperimentSettings
from rattle.text import one_line
from rattle.tokens import withhold_token
from rattle.wire.problems import RequestError

#: Actors of a process, of which each takes threads and a stream.
MOST_ACTORS = 1024


class ActorRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is known of an actor that should be added; null: any that fits."""

    env_url: str | None = None
    policy_id: str | None = None
    # By the vector API.
    first_world: int | None = None
    worlds: int | None = None
    # By the agent API.
    snake: int | None = None


def assign(
    settings: ExperimentSettings, planned: Sequence[Assignment], playing: Sequence[Assignment], wanted: ActorRequest
) -> Assignment:
    """Return what one more actor plays than those `playing`; `planned` were those of this process at its start.

    Raises RequestError naming the field that cannot be, conflict where nothing is left to play, and full.
    """
    if len(playing) >= MOST_ACTORS:
        raise RequestError("full", f"{MOST_ACTORS} actors play here already: remove one, or start another service")
    inference = settings.inference
    policy_id = wanted.policy_id or settings.training.policies[0]
    if policy_id not in settings.training.policies:
        raise _bad("policy_id", f"'{policy_id[:80]}' is not trained; known: {', '.join(settings.training.policies)}")
    env_url = None if wanted.env_url is None else _known_url(settings, wanted.env_url)
    share = [one for one in planned if one.policy_id == policy_id]
    others = [one for one in playing if one.policy_id == policy_id]
    choose = _snake if inference.api == "agent" else _worlds
    first, worlds = choose(settings, share, others, wanted)
    names = {one.name for one in playing}
    players_of = Counter(one.env_url for one in playing)
    return Assignment(
        # Its own in the whole run: a second actor of a name would take the first one's place.
        name=next(name for n in count(1) if (name := f"{policy_id}-of-{inference.index}-added-{n}") not in names),
        kind=inference.api,
        policy_id=policy_id,
        env_url=env_url or min(inference.envs, key=lambda url: players_of[url]),
        first_world=first,
        worlds=worlds,
    )


def _known_url(settings: ExperimentSettings, url: str) -> str:
    """Return the URL, as it may be shown, of a server that actors may be sent to: what it answers is learnt from."""
    try:
        wanted = parse_address(url)
        for known in settings.inference.envs:
            if wanted.is_same(parse_address(known)) and url == without_credentials(url):
                return known
        if settings.inference.any_env:
            withhold_token(wanted.url)  # it was chosen by anyone who asks, not by anyone who has set up the service
            return keep_credentials(url)
    except ValueError as error:
        raise _bad("env_url", str(error)) from None
    some = one_line(", ".join(settings.inference.envs), 200)
    raise _bad("env_url", f"must be one of inference.envs ({some}); inference.any_env=true allows others too")


def _worlds(
    settings: ExperimentSettings, share: Sequence[Assignment], others: Sequence[Assignment], wanted: ActorRequest
) -> tuple[int, int]:
    """Return the first world and their number, by the vector API."""
    if wanted.snake is not None:
        raise _bad("snake", "actors play batches of worlds here: give first_world and worlds (inference.api is vector)")
    total, first, worlds = settings.env.worlds, wanted.first_world, wanted.worlds
    if worlds is not None and not 1 <= worlds <= total:
        raise _bad("worlds", f"must be from 1 to {total}, got {worlds}")
    if first is not None and not 0 <= first <= total - (worlds or 1):
        raise _bad("first_world", f"must be one of the run's {total} worlds, with all that follow, got {first}")
    for start, stop in _free(share if _in_order(settings) or first is None else None, others, total):
        at = start if first is None else first
        if start <= at and at + (worlds or 1) <= stop:
            return at, worlds or stop - at
    field = "first_world" if first is not None else "worlds" if worlds is not None else None
    played = ", ".join(f"{one.name} {one.first_world} to {one.first_world + one.worlds - 1}" for one in others)
    raise RequestError(
        "conflict",
        f"{field or 'worlds'}: this process's part of the run has not so many free worlds in a row "
        f"(in use by {played or 'no actor'}): ask for fewer, or remove an actor first",
        field,
    )


def _snake(
    settings: ExperimentSettings, share: Sequence[Assignment], others: Sequence[Assignment], wanted: ActorRequest
) -> tuple[int, int]:
    """Return the number of the snake, and 1, by the agent API."""
    for field in ("first_world", "worlds"):
        if getattr(wanted, field) is not None:
            raise _bad(field, "actors play one snake each here: give snake instead (inference.api is agent)")
    total, snake = settings.inference.snakes, wanted.snake
    if snake is not None and not 0 <= snake < total:
        raise _bad("snake", f"must be from 0 to {total - 1}, the last of inference.snakes, got {snake}")
    players_of = Counter(one.first_world for one in others)
    if not _in_order(settings):
        return (min(range(total), key=lambda number: players_of[number]) if snake is None else snake), 1
    free = [one.first_world for one in share if not players_of[one.first_world]]
    if not free or snake not in (None, *free):
        what = "no snake" if snake is None else f"snake {snake}"
        raise RequestError(
            "conflict",
            f"snake: {what} is free in this process's part of the run: remove the actor that plays it first",
            "snake",
        )
    return (free[0] if snake is None else snake), 1


def _free(share: Sequence[Assignment] | None, others: Sequence[Assignment], total: int) -> list[tuple[int, int]]:
    """Return the stretches of worlds, from first to beyond the last, that are in a share, or any, and of no other."""
    free = [share is None] * total
    for one in share or ():
        free[one.first_world : one.first_world + one.worlds] = [True] * one.worlds
    for one in others:
        free[one.first_world : one.first_world + one.worlds] = [False] * one.worlds
    stretches = [list(stretch) for is_free, stretch in groupby(range(total), free.__getitem__) if is_free]
    return [(stretch[0], stretch[-1] + 1) for stretch in stretches]


def _in_order(settings: ExperimentSettings) -> bool:
    return settings.training.mode == "on_policy"


def _bad(field: str, what: str) -> RequestError:
    return RequestError("bad_value", f"{field}: {what}", field)
