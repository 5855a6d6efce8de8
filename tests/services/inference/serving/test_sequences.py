"""Sequences: each remembers what its own requests have left behind, and nothing of any other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy
from rattle.policies.spec import PolicySpec
from rattle.services.inference.serving import model_runner
from rattle.services.inference.serving.messages import InferRequest, InferResponse
from rattle.services.inference.serving.sequences import Sequence, SequenceStep
from rattle.wire.problems import RequestError
from tests.policies.building import Played
from tests.policies.test_graph import NETWORKS, SPACES, own, stored
from tests.services.inference.serving.building import (
    MAX_ROWS,
    MEMORY,
    SECONDS,
    Player,
    Sequences,
    data_plane,
    policy,
    request,
    rows,
    run,
    tensor,
)
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

GRU = MEMORY.model_copy(update={"network": "gru", "memory_layers": 2})
WIDER = MEMORY.model_copy(update={"hidden_sizes": (6,)})
SIZE = 4 * MEMORY.memory_size  # bytes that a sequence remembers
BOTH = ("logits", "next_state")


def step(
    of: int | str, observation: NDArray[Any], *, start: bool = False, end: bool = False, **more: Any
) -> InferRequest:
    """Return a request of a sequence."""
    flags = {"sequence_start": start, "sequence_end": end}
    return request(observation, **{"outputs": BOTH, **more}, **flags, sequence_id=of)


def found(answer: InferResponse, name: str = "next_state") -> NDArray[Any]:
    [array] = [one.array for one in answer.outputs if one.name == name]
    return array


def bits(answer: InferResponse) -> list[bytes]:
    return [one.array.tobytes() for one in answer.outputs]


async def refusal(answering: Coroutine[Any, Any, InferResponse] | asyncio.Task[InferResponse]) -> tuple[str, str]:
    with pytest.raises(RequestError) as refused:
        await answering
    return refused.value.code, str(refused.value)


async def is_played_as_in_process(of: StoredPolicy) -> None:
    """Compare a sequence with acting: actions drawn and most probable, log-probabilities, values and memories."""
    plane, _ = data_plane(("main", of))
    state, observations = np.zeros((1, of.spec.memory_size), np.float32), rows(30, spec=of.spec)
    for tick in range(30):
        seen, greedy = observations[[tick]], tick % 3 == 0
        outputs = ("action", "log_prob", "value", "next_state")
        asked = step(5, seen, start=tick == 0, end=tick == 29, outputs=outputs, seed=tick, greedy=greedy)
        answer = await plane.infer(asked, None)
        played = Played(1, of.spec.action)
        ActingPolicy(of.spec, of.parameters, seed=tick).act(
            seen,
            tick=0,
            greedy=greedy,
            action=played.action,
            log_prob=played.log_prob,
            value=played.value,
            state=state,
        )
        assert b"".join(bits(answer)[:3]) == played.bits()
        assert (found(answer) == state).all()


@pytest.mark.parametrize("spec", [MEMORY, GRU], ids=["mingru", "gru"])
def test_a_sequence_is_played_as_in_process(spec: PolicySpec) -> None:
    run(lambda: is_played_as_in_process(policy(spec)))


def test_so_is_that_of_a_network_of_a_user(user_module: UserModule) -> None:
    made = stored(own(user_module, NETWORKS["memory"]), SPACES)
    run(lambda: is_played_as_in_process(made))


def test_clients_that_carry_the_state_get_the_same() -> None:
    async def test() -> None:
        plane, _ = data_plane(("main", policy(MEMORY)))
        state: list[Any] = []
        for tick in range(5):
            kept = await plane.infer(step("mine", rows(1, tick), start=tick == 0), None)
            asked = request(rows(1, tick), outputs=BOTH)
            carried = await plane.infer(asked._replace(inputs=[*asked.inputs, *state]), None)
            assert bits(kept) == bits(carried)
            state = [tensor("state", found(carried))]

    run(test)


class Crowd:
    """Clients that begin sequences, go on with them, begin them anew, end them, and leave without a word."""

    def __init__(self, of: StoredPolicy, table: Sequences) -> None:
        self.playing: dict[int | str, Player] = {}
        self.began = 0
        self._policy = ActingPolicy(of.spec, of.parameters)
        self._table = table
        self._used: dict[int | str, float] = {}
        self._left: set[int | str] = set()
        self._draw = random.Random(0)  # noqa: S311
        self._seen = rows(997)
        self._asked = 0

    def expire(self) -> int:
        """Let time go by; return how many sequences have been idle for too long."""
        self._table.now += self._draw.random() * SECONDS / 100
        gone = [name for name in self.playing if self._table.now - self._used[name] >= SECONDS]
        for name in gone:
            del self.playing[name]
        return len(gone)

    def requests(self) -> list[tuple[InferRequest, list[bytes] | None]]:
        """Return requests that come together, and what each must be answered with; None: it must be refused."""
        names = [name for name in self.playing if name not in self._left]
        return [self._request(names) for _ in range(self._draw.randint(1, MAX_ROWS))]

    def _request(self, names: list[int | str]) -> tuple[InferRequest, list[bytes] | None]:
        self._asked += 1
        is_new = not names or self._draw.random() < 0.2
        name = (self._asked if self._asked % 2 else f"{self._asked}") if is_new else self._draw.choice(names)
        start, end = self._draw.random() < (0.9 if is_new else 0.02), self._draw.random() < 0.03
        seen = self._seen[[self._asked % len(self._seen)]]
        if start:
            self.began += 1
            self.playing[name] = Player(self._policy)
            if self._draw.random() < 0.3:
                self._left.add(name)
        expected = self.playing[name].bits(seen) if name in self.playing else None
        self._used[name] = self._table.now
        if end:
            self.playing.pop(name, None)
        return step(name, seen, start=start, end=end), expected


def test_thousands_of_interleaved_sequences_do_not_leak_into_each_other() -> None:
    """Each is held to a player that plays it alone."""
    table, served = Sequences(max_sequences=2000, max_bytes=2000 * SIZE), policy(MEMORY)
    crowd = Crowd(served, table)

    async def test() -> None:
        plane, _ = data_plane(("main", served), sequences=table)
        expired, most = 0, 0
        while crowd.began < 3000:
            expired += crowd.expire()
            together = crowd.requests()
            answers = await asyncio.gather(*(plane.infer(one, None) for one, _ in together), return_exceptions=True)
            for answer, (_, expected) in zip(answers, together, strict=True):
                if expected is None:
                    assert isinstance(answer, RequestError)
                    assert answer.code == "unknown_sequence"
                else:
                    assert isinstance(answer, InferResponse)
                    assert bits(answer) == expected
            assert table.counts() == {"main": len(crowd.playing)}
            most = max(most, len(crowd.playing))
        assert len(table.gone) == expired > 200
        assert most > 500
        table.now += SECONDS
        assert table.counts() == {"main": 0}
        for number in range(2000):  # there is room for as many as ever
            await plane.infer(step(number + 1, rows(1), start=True), None)
        assert (await refusal(plane.infer(step("more", rows(1), start=True), None)))[0] == "full"

    run(test)


def test_requests_of_one_sequence_are_answered_in_the_order_of_their_coming() -> None:
    async def test() -> None:
        plane, _ = data_plane(("main", policy(MEMORY)))
        player = Player(policy(MEMORY))
        asked = [step(1, rows(1, tick), start=tick == 0, end=tick == 29) for tick in range(30)]
        asked[7] = asked[7]._replace(slow=True)  # it is checked in a thread
        late = step(1, rows(1))
        *answers, refused = await asyncio.gather(
            *(plane.infer(one, None) for one in (*asked, late)), return_exceptions=True
        )
        assert [bits(one) for one in answers if isinstance(one, InferResponse)] == [
            player.bits(rows(1, tick)) for tick in range(30)
        ]
        assert isinstance(refused, RequestError)
        assert refused.code == "unknown_sequence"

    run(test)


def test_a_refused_request_leaves_its_sequence_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = model_runner.compute

    def fails(*arguments: Any) -> Any:
        monkeypatch.setattr(model_runner, "compute", compute)
        raise MemoryError

    async def test() -> None:
        table = Sequences()
        plane, _ = data_plane(("main", policy(MEMORY)), sequences=table)
        player = Player(policy(MEMORY))
        assert bits(await plane.infer(step(1, rows(1), start=True), None)) == player.bits(rows(1))
        bad = np.full((1, 9), 9, np.uint8)
        assert (await refusal(plane.infer(step(1, bad, start=True), None)))[0] == "bad_value"
        assert (await refusal(plane.infer(step(1, rows(1), timeout=-1), None)))[0] == "bad_value"
        assert (await refusal(plane.infer(step(1, rows(1)), -1.0)))[0] == "too_late"
        assert (await refusal(plane.infer(step(1, rows(1), version="6"), None)))[0] == "unknown_policy"
        monkeypatch.setattr(model_runner, "compute", fails)
        assert (await refusal(plane.infer(step(1, rows(1), end=True), None)))[0] == "internal"
        given_up = [asyncio.create_task(plane.infer(step(1, rows(1)), None)) for _ in range(3)]
        await asyncio.sleep(0)
        for one in given_up:
            one.cancel()
        await asyncio.wait(given_up)
        assert bits(await plane.infer(step(1, rows(1, 5)), None)) == player.bits(rows(1, 5))
        assert (await refusal(plane.infer(step(2, bad, start=True), None)))[0] == "bad_value"
        assert (await refusal(plane.infer(step(2, rows(1)), None)))[0] == "unknown_sequence"
        assert table.counts() == {"main": 1}

    run(test)


def test_sequences_that_are_not_there_are_said_to_be_unknown() -> None:
    async def test() -> None:
        table = Sequences()
        plane, _ = data_plane(("main", policy(MEMORY)), ("rival", policy(MEMORY)), sequences=table)
        for asked in (step(5, rows(1), start=True), step("ended", rows(1), start=True, end=True)):
            await plane.infer(asked, None)
        message = (
            "sequence_id: sequence {} is not kept here: it has not begun, it has ended, it was idle for too long, or "
            "the service was started again; restart it with sequence_start"
        )
        for asked, name in (
            (step(6, rows(1)), "6"),
            (step("5", rows(1)), "'5'"),  # text is another one
            (step(5, rows(1), model="rival"), "5"),
            (step("ended", rows(1)), "'ended'"),
        ):
            assert await refusal(plane.infer(asked, None)) == ("unknown_sequence", message.format(name))
        table.now += SECONDS * 0.9
        await plane.infer(step(5, rows(1)), None)
        table.now += SECONDS * 0.9
        await plane.infer(step(5, rows(1)), None)
        assert table.gone == []
        table.now += SECONDS
        assert await refusal(plane.infer(step(5, rows(1)), None)) == ("unknown_sequence", message.format(5))
        assert table.gone == ["main"]
        replica, _ = data_plane(("main", policy(MEMORY)))
        await plane.infer(step(5, rows(1), start=True), None)
        assert (await refusal(replica.infer(step(5, rows(1)), None)))[0] == "unknown_sequence"

    run(test)


def test_a_full_table_refuses_new_sequences_and_goes_on_with_those_that_it_has() -> None:
    async def test(table: Sequences) -> None:
        plane, _ = data_plane(("main", policy(MEMORY)), sequences=table)
        for number in (1, 2, 3):
            await plane.infer(step(number, rows(1), start=True), None)
        code, said = await refusal(plane.infer(step(4, rows(1), start=True), None))
        assert code == "full"
        assert said.startswith(f"3 sequences remember {3 * SIZE} bytes; at most ")
        assert said.endswith("end some with sequence_end, or try again in a while")
        await plane.infer(step(2, rows(1), start=True), None)
        await plane.infer(step(3, rows(1), end=True), None)
        await plane.infer(step(4, rows(1), start=True), None)
        table.now += SECONDS
        for number in (5, 6, 7):
            await plane.infer(step(number, rows(1), start=True), None)
        assert table.counts() == {"main": 3}

    for table in (Sequences(max_sequences=3), Sequences(max_bytes=4 * SIZE - 1)):
        run(lambda table=table: test(table))  # type: ignore[misc]


def test_a_sequence_goes_on_with_new_versions_and_not_with_another_policy() -> None:
    async def test() -> None:
        table = Sequences(max_bytes=4 * WIDER.memory_size)
        old, new = policy(MEMORY), policy(MEMORY, version=8, seed=3)
        plane, models = data_plane(("main", old), sequences=table)
        first = await plane.infer(step(1, rows(1), start=True), None)
        models.publish("main", replace(new, spec=MEMORY.model_copy()))
        player = Player(new)
        player.state[:] = found(first)
        answer = await plane.infer(step(1, rows(1, 1)), None)
        assert (answer.version, bits(answer)) == ("8", player.bits(rows(1, 1)))
        models.publish("main", policy(WIDER))
        assert await refusal(plane.infer(step(1, rows(1)), None)) == (
            "replaced",
            "sequence_id: the policy became another one, which cannot continue sequence 1: restart it with "
            "sequence_start",
        )
        assert (await refusal(plane.infer(step(1, rows(1)), None)))[0] == "unknown_sequence"
        assert bits(await plane.infer(step(1, rows(1), start=True), None)) == Player(policy(WIDER)).bits(rows(1))
        models.publish("main", policy(GRU))  # which remembers more than there is room for
        assert (await refusal(plane.infer(step(1, rows(1), start=True), None)))[0] == "full"
        models.publish("main", policy())
        assert (await plane.infer(step(1, rows(2), outputs=()), None)).version == "7"
        models.publish("main", policy(WIDER))
        table.now += SECONDS
        await plane.infer(step(2, rows(1), start=True), None)
        assert table.counts() == {"main": 1}

    run(test)


def test_a_policy_without_memory_takes_the_parameters_and_keeps_nothing() -> None:
    async def test() -> None:
        table = Sequences(max_sequences=0)
        plane, _ = data_plane(("main", policy()), sequences=table)
        await plane.infer(step(5, rows(3), start=True, outputs=()), None)
        await plane.infer(step(6, rows(3), outputs=()), None)
        assert table.counts() == {}

    run(test)


NO_NUMBER = "sequence_id: must be a whole number from 1 to 2**64 - 1, or text of at most 128 letters, got "


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (step(-1, rows(1)), f"{NO_NUMBER}-1"),
        (step(2**64, rows(1)), f"{NO_NUMBER}18446744073709551616"),
        (step(True, rows(1)), f"{NO_NUMBER}True"),
        (request(rows(1), sequence_id=1.0), f"{NO_NUMBER}1.0"),
        (step("x" * 129, rows(1)), f"{NO_NUMBER}'{'x' * 79}…"),
        (request(rows(1), sequence_id=5, sequence_start=1), "sequence_start: must be true or false, got 1"),
        (request(rows(1), sequence_id=5, sequence_end="no"), "sequence_end: must be true or false, got 'no'"),
        (request(rows(1), sequence_end=True), "sequence_id: is missing, and sequence_start or sequence_end is true"),
        (request(rows(1), sequence_start=True, sequence_id=""), "sequence_id: is missing"),
        (request(rows(1), sequence_strat=True), "parameters: 'sequence_strat' is none: did you mean sequence_start?"),
        (step(5, rows(2), start=True), "observation: a request of a sequence has one row, got 2"),
        (
            step(5, rows(1), start=True)._replace(
                inputs=[tensor("observation", rows(1)), tensor("state", np.zeros((1, 5), np.float32))]
            ),
            "state: is kept here for a sequence: leave out state or sequence_id",
        ),
    ],
)
def test_what_is_wrong_is_named(asked: InferRequest, message: str) -> None:
    async def test() -> None:
        plane, _ = data_plane(("main", policy(MEMORY)))
        code, said = await refusal(plane.infer(asked, None))
        assert code == "bad_value"
        assert said.startswith(message)

    run(test)


@pytest.mark.parametrize("none", [0, ""])
def test_an_empty_name_is_no_sequence(none: int | str) -> None:
    async def test() -> None:
        plane, _ = data_plane(("main", policy(MEMORY)))
        answer = await plane.infer(step(none, rows(3)), None)
        assert found(answer).shape == (3, 5)

    run(test)


def test_a_sequence_keeps_no_more_than_its_own_row() -> None:
    kept = Sequence(MEMORY)
    kept.remember(SequenceStep(1, starts=True, ends=False), MEMORY, np.ones((MAX_ROWS, 5), np.float32)[3:4])
    assert kept.state is not None
    assert kept.state.base is None
