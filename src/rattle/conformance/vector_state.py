"""Checks of the features state and snapshot."""

from __future__ import annotations

from rattle.conformance.arrays import MSGPACK, read_state_array
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import an_object, expect, skip
from rattle.conformance.target import MSGPACK_TYPE, Target
from rattle.conformance.vector_play import expect_same, read_reset, session
from rattle.conformance.vector_spec import skip_shared, spec

CHECKS = CheckGroup()
_STEPPED = ("vector.steps.fields",)
#: States travel as MessagePack only.
_BINARY = (*_STEPPED, "vector.encodings.same")


def _need(target: Target, feature: str) -> None:
    if feature not in target.fact(spec)["features"]:
        skip(f"the server does not have the feature {feature}")


@CHECKS.check("vector.state.restore", "A restored state continues where it was taken", _BINARY)
def restore(target: Target) -> None:
    """In the same session, and in another one of the same size."""
    _need(target, "state")
    with session(target, 3, seed=51, encoding=MSGPACK) as one, session(target, 3, seed=52, encoding=MSGPACK) as other:
        for step in range(7):
            taken = one.step(one.actions_for(step))
        found = target.request("GET", f"{one.path}/state", headers={"Accept": MSGPACK_TYPE}).object()
        expect(
            found.get("step") == 7, "the state does not say the step it was taken at", expected=7, got=found.get("step")
        )
        arrays = an_object(found.get("state"), "state")
        for name, value in arrays.items():
            read_state_array(value, f"state.{name}")
        future = [one.step(one.actions_for(step)) for step in range(7, 30)]
        for session_ in (one, other):
            body = session_.post("state", {"step": session_.next_step, "state": arrays}).object()
            back = session_.take(read_reset(body, session_.shape))
            for name in ("observation", "active", "episode"):
                same = (getattr(back, name) == getattr(taken, name)).all()
                expect(same, f"{name} after restoring is not what it was when the state was taken")
            for step, wanted in zip(range(7, 30), future, strict=True):
                played = session_.step(session_.actions_for(step))
                expect_same(wanted, played, "after restoring, the session plays otherwise", but=("step",))


@CHECKS.check("vector.state.refused", "A state that does not fit is refused, and the session continues", _BINARY)
def refused(target: Target) -> None:
    """Of another width, with missing arrays, or no state at all."""
    _need(target, "state")
    with session(target, 2, seed=53, encoding=MSGPACK) as one, session(target, 3, seed=53, encoding=MSGPACK) as wider:
        arrays = target.request("GET", f"{wider.path}/state", headers={"Accept": MSGPACK_TYPE}).object()["state"]
        for state in (arrays, {}, {"no_such_array": MSGPACK.pack(one.forward())}, 3, None):
            one.post("state", {"step": 1, "state": state}).problem(400, "bad_value")
        one.post("state", {"step": 1}).problem(400, "bad_value", "state")
        one.post("state", {"step": 5, "state": arrays}).problem(409, "wrong_step")
        one.step(one.forward())


@CHECKS.check("vector.state.absent", "Features that the server lacks have no routes", _STEPPED)
def absent(target: Target) -> None:
    """What features leaves out is answered with 404."""
    features = target.fact(spec)["features"]
    routes = {"state": "state", "snapshot": "worlds/0"}
    if all(feature in features for feature in routes):
        skip("the server has them all")
    with session(target, 1, seed=54) as opened:
        for feature, route in routes.items():
            if feature not in features:
                answer = target.request("GET", f"{opened.path}/{route}")
                expect(answer.status >= 400, f"{route} answers though features lacks {feature}", got=str(answer))


@CHECKS.check("vector.snapshot.world", "A snapshot shows one world in plain values", _STEPPED)
def snapshot(target: Target) -> None:
    """It says which world, at which step."""
    _need(target, "snapshot")
    with session(target, 3, seed=55) as opened:
        opened.step(opened.forward())
        for world in (0, 2):
            body = target.request("GET", f"{opened.path}/worlds/{world}").object()
            for name, wanted in (("step", 1), ("world", world)):
                got = body.get(name)
                expect(got == wanted, f"{name} of the snapshot is {got!r}", expected=wanted, got=body)
            expect(isinstance(body.get("snapshot"), dict), "snapshot must be an object", got=body)


@CHECKS.check("vector.snapshot.unknown", "Snapshots of worlds that do not exist are refused", _STEPPED)
def no_world(target: Target) -> None:
    """404 or 400, not a crash."""
    _need(target, "snapshot")
    with session(target, 2, seed=56) as opened:
        for world in ("2", "-1", "one", "99999999999999999999"):
            answer = target.request("GET", f"{opened.path}/worlds/{world}")
            expect(answer.status in (400, 404), f"world {world} of 2 is answered with {answer.status}", got=str(answer))
            answer.problem(answer.status, ("bad_value", "unknown_path"))


@CHECKS.check("vector.snapshot.same", "Equal worlds have equal snapshots", _STEPPED)
def same_snapshots(target: Target) -> None:
    """Of one seed after the same actions, in sessions of different size."""
    _need(target, "snapshot")
    skip_shared(target)
    with session(target, 3, seed=57) as wide, session(target, 1, seed=57, first_world=2) as alone:
        for step in range(5):
            action = wide.actions_for(step)
            wide.step(action)
            alone.step(action[-wide.shape.agents :])
        one = target.request("GET", f"{wide.path}/worlds/2").object()["snapshot"]
        other = target.request("GET", f"{alone.path}/worlds/0").object()["snapshot"]
        expect(one == other, "world 2 of 3 and the same world alone have different snapshots", expected=one, got=other)
