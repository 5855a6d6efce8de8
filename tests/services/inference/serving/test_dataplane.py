"""Requests that share forward passes: each gets what it would get alone, whatever happens to the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rattle.policies.acting import ActingPolicy
from rattle.policies.own.inputs import OWN_INPUTS
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import BoxSpace, MultiDiscreteSpace
from rattle.services.inference.serving import model_runner
from rattle.services.inference.serving.dataplane import DataPlane
from rattle.services.inference.serving.messages import InferRequest, InferResponse
from rattle.services.inference.serving.model_runner import Computed, PendingRequest
from rattle.services.inference.serving.models import Served
from rattle.wire.problems import RequestError
from tests.policies.building import Played, play, random_policy
from tests.services.inference.serving.building import (
    CODES,
    FLOATS,
    MAX_ROWS,
    chosen,
    data_plane,
    policy,
    request,
    rows,
    run,
    tensor,
)

ALL = ("action", "log_prob", "logits", "value")


def columns(answer: InferResponse) -> dict[str, NDArray[Any]]:
    return {tensor.name: tensor.array for tensor in answer.outputs}


def test_real_numbers_are_served_within_their_bounds_with_what_they_are_drawn_from() -> None:
    spec = FLOATS.model_copy(update={"action": BoxSpace(low=(-0.5, -1.0), high=(0.5, None))})
    steering = random_policy(spec)
    acting = ActingPolicy(spec, steering.parameters, seed=5)
    observation = rows(40, spec=spec)

    async def ask() -> None:
        plane, _ = data_plane(("main", steering))
        outputs = ("action", "log_prob", "mean", "log_std")
        drawn = columns(await plane.infer(request(observation, outputs=outputs, seed=5), None))
        alone = play(acting, observation)
        assert (drawn["action"] != alone.action).any()
        np.testing.assert_array_equal(drawn["action"], np.clip(alone.action, [-0.5, -1], [0.5, np.inf]))
        np.testing.assert_array_equal(drawn["log_prob"], alone.log_prob)
        given, _ = acting.forward(observation)
        np.testing.assert_array_equal(np.concatenate([drawn["mean"], drawn["log_std"]], axis=1), given)
        greedy = columns(await plane.infer(request(observation, greedy=True), None))
        np.testing.assert_array_equal(greedy["action"], np.clip(given[:, :2], [-0.5, -1], [0.5, np.inf]))
        described = {output.name: output for output in plane.model_metadata("main", "").outputs}
        assert (described["action"].datatype, described["action"].shape) == ("FP32", (-1, 2))
        assert described["log_std"].shape == (-1, 2)

    run(ask)


def test_several_whole_numbers_are_served_with_the_logits_of_all() -> None:
    spec = FLOATS.model_copy(update={"action": MultiDiscreteSpace(sizes=(3, 2, 4))})
    several = random_policy(spec)
    observation = rows(40, spec=spec)

    async def ask() -> None:
        plane, _ = data_plane(("main", several))
        drawn = columns(await plane.infer(request(observation, outputs=("action", "log_prob", "logits"), seed=5), None))
        alone = play(ActingPolicy(spec, several.parameters, seed=5), observation)
        np.testing.assert_array_equal(drawn["action"], alone.action)
        np.testing.assert_array_equal(drawn["log_prob"], alone.log_prob)
        greedy = columns(await plane.infer(request(observation, greedy=True), None))
        best = [own.argmax(axis=1) for own in np.split(drawn["logits"], [3, 5], axis=1)]
        np.testing.assert_array_equal(greedy["action"], np.stack(best, axis=1))
        described = {output.name: output for output in plane.model_metadata("main", "").outputs}
        assert (described["action"].datatype, described["action"].shape) == ("INT64", (-1, 3))
        assert described["logits"].shape == (-1, 9)

    run(ask)


def test_a_policy_that_sees_its_own_past_plays_on_with_what_its_client_or_the_service_keeps() -> None:
    spec = CODES.model_copy(update={"inputs": tuple(OWN_INPUTS)})
    past, random = random_policy(spec), np.random.default_rng(0)
    state, reward = np.zeros((5, spec.memory_size), np.float32), np.zeros(5, np.float32)

    async def ask() -> None:
        plane, _ = data_plane(("main", past))
        carried: NDArray[np.float32] | None = None
        for tick in range(6):
            observation = rows(5, tick)
            asked = request(observation, outputs=("action", "value", "next_state"), seed=tick)
            if carried is not None:
                given = [*asked.inputs, tensor("state", carried), tensor("reward", reward)]
                asked = asked._replace(inputs=given)
            answer = columns(await plane.infer(asked, None))
            kept = request(observation[:1], seed=tick, sequence_id="game", sequence_start=not tick)
            kept = kept._replace(inputs=[*kept.inputs, tensor("reward", reward[:1])])
            np.testing.assert_array_equal(columns(await plane.infer(kept, None))["action"], answer["action"][:1])
            acting = ActingPolicy(spec, past.parameters, seed=tick)
            acting.own.rewarded(state, reward)
            alone = Played(5, spec.action)
            written = {"action": alone.action, "log_prob": alone.log_prob, "value": alone.value}
            acting.act(observation, tick=0, state=state, **written)
            for name, array in {**written, "next_state": state}.items():
                if name in answer:
                    np.testing.assert_array_equal(answer[name], array)
            carried, reward[:] = answer["next_state"], random.integers(-1, 2, 5)
        assert state[:, 1:].all()  # all but the reward, which is taken in

    run(ask)


class HeldPasses:
    """Forward passes in a thread that go on when a test lets them."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.goes_on = threading.Semaphore(0)
        self.batches: list[list[int]] = []  # rows of every request, of every pass
        self._compute = model_runner.compute

    def compute(self, served: Served, questions: Sequence[PendingRequest]) -> Computed:
        self.batches.append([question.rows for question in questions])
        self.began.release()
        assert self.goes_on.acquire(timeout=240)
        return self._compute(served, questions)

    async def wait(self) -> None:
        """Wait until a pass has begun."""
        assert await asyncio.to_thread(self.began.acquire, timeout=240)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldPasses]:
    holding = HeldPasses()
    monkeypatch.setattr(model_runner, "compute", holding.compute)
    monkeypatch.setattr(model_runner, "_QUICK", 0)
    yield holding
    holding.goes_on.release(100)


def begun(plane: DataPlane, asked: InferRequest, seconds: float | None = None) -> asyncio.Task[InferResponse]:
    return asyncio.create_task(plane.infer(asked, seconds))


async def settled(tasks: Sequence[asyncio.Task[InferResponse]]) -> None:
    """Let tasks run until nothing more happens by itself."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def refusal(answering: Coroutine[Any, Any, InferResponse] | asyncio.Task[InferResponse]) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await answering
    return refused.value


@pytest.mark.parametrize("spec", [CODES, FLOATS])
def test_an_answer_is_what_acting_gives(spec: PolicySpec) -> None:
    served, observation = policy(spec), rows(5, spec=spec)
    names = ALL if spec.value_head else ALL[:3]

    async def test() -> None:
        plane, _ = data_plane(("main", served))
        answer = await plane.infer(request(observation, outputs=names, seed=3), None)
        assert (answer.model, answer.version, answer.parameters) == ("main", "7", {})
        assert [tensor.name for tensor in answer.outputs] == list(names)
        found = columns(answer)
        action, log_prob, value = chosen(served, observation, 3)
        assert found["action"].tolist() == action
        assert found["log_prob"].tolist() == log_prob
        if spec.value_head:
            assert found["value"].tolist() == value
        logits = found["logits"]
        log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(log_softmax[np.arange(5), found["action"]], found["log_prob"], rtol=1e-5)

    run(test)


def test_without_names_the_actions_are_given_and_the_seed_that_was_drawn() -> None:
    async def test() -> None:
        plane, _ = data_plane()
        observation = rows(40)
        answer = await plane.infer(request(observation), None)
        assert list(columns(answer)) == ["action"]
        seed = answer.parameters["seed"]
        again = await plane.infer(request(observation, seed=seed), None)
        assert (
            columns(again)["action"].tolist()
            == columns(answer)["action"].tolist()
            == chosen(policy(), observation, seed)[0]
        )

    run(test)


def test_rows_with_seeds_of_their_own_draw_as_if_alone() -> None:
    observation, seeds = rows(30), np.arange(30) + 2**62

    async def test() -> None:
        plane, _ = data_plane()
        together = columns(await plane.infer(request(observation, seeds=seeds), None))["action"]
        alone = [
            columns(await plane.infer(request(observation[[row]], seed=int(seeds[row])), None))["action"][0]
            for row in range(30)
        ]
        assert together.tolist() == alone

    run(test)


@settings(max_examples=50)
@given(data=st.data(), total=st.integers(1, MAX_ROWS), spec=st.sampled_from([CODES, FLOATS]))
def test_however_rows_are_split_over_requests_they_get_the_same(
    data: st.DataObject, total: int, spec: PolicySpec
) -> None:
    """Any requests at the same time are answered as one by one, to the bit."""
    cuts = sorted(data.draw(st.sets(st.integers(1, total - 1), max_size=12))) if total > 1 else []
    parts = np.split(rows(total, spec=spec), cuts)
    ways = st.sampled_from([{"greedy": True}, {"seed": 1}, {"seed": 2**40}, {"outputs": ["logits"]}])
    asked = [request(part, **{"outputs": ALL[:3], **data.draw(ways)}) for part in parts]

    def bits(answer: InferResponse) -> list[tuple[str, bytes]]:
        return [(tensor.name, tensor.array.tobytes()) for tensor in answer.outputs]

    async def test() -> None:
        plane, _ = data_plane(("main", policy(spec)))
        alone = [bits(await plane.infer(one, None)) for one in asked]
        together = await asyncio.gather(*(plane.infer(one, None) for one in asked))
        assert [bits(answer) for answer in together] == alone

    run(test)


def test_what_comes_while_a_pass_runs_shares_the_next_one(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        first = begun(plane, request(rows(2)))
        await held.wait()
        others = [begun(plane, request(rows(count))) for count in (1, 3, 2)]
        await settled([first, *others])
        assert (plane.waiting_rows(), plane.running_rows()) == ({"main": 6}, {"main": 2})
        held.goes_on.release(2)
        await asyncio.gather(first, *others)
        assert held.batches == [[2], [1, 3, 2]]
        assert plane.waiting_rows() == plane.running_rows() == {"main": 0}

    run(test)


def test_requests_that_come_together_share_a_pass(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        held.goes_on.release()
        await asyncio.gather(*(plane.infer(request(rows(1)), None) for _ in range(10)))
        assert held.batches == [[1] * 10]

    run(test)


def test_models_do_not_wait_for_each_other(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane(("main", policy()), ("rival", policy(FLOATS)))
        both = [begun(plane, request(rows(1))), begun(plane, request(rows(2, spec=FLOATS), model="rival"))]
        await held.wait()
        await held.wait()
        held.goes_on.release(2)
        await asyncio.gather(*both)

    run(test)


def test_bad_requests_never_meet_good_ones(held: HeldPasses) -> None:
    observation, bad = rows(3), rows(3)
    bad[1, 2] = 4

    async def test() -> None:
        plane, _ = data_plane()
        asked = [request(observation, seed=1), request(bad), request(rows(1), seed=-1), request(observation, seed=1)]
        held.goes_on.release(10)
        answers = await asyncio.gather(*(plane.infer(one, None) for one in asked), return_exceptions=True)
        assert [str(answer) for answer in answers[1:3]] == [
            "observation: must hold cell codes from 0 to 3, and [1, 2] is 4",
            "seed: must be a whole number from 0 to 2**63 - 1, got -1",
        ]
        for answer in (answers[0], answers[3]):
            assert isinstance(answer, InferResponse)
            assert columns(answer)["action"].tolist() == chosen(policy(), observation, 1)[0]
        assert held.batches == [[3, 3]]

    run(test)


def test_a_cancelled_request_leaves_the_queue_and_the_others_alone(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        running = [begun(plane, request(rows(1))) for _ in range(2)]
        await held.wait()
        waiting = [begun(plane, request(rows(2), seed=3)) for _ in range(3)]
        await settled(waiting)
        running[0].cancel()
        waiting[1].cancel()
        await asyncio.wait([running[0], waiting[1]])
        assert plane.waiting_rows() == {"main": 4}
        held.goes_on.release(2)
        await running[1]
        for task in (waiting[0], waiting[2]):
            assert columns(await task)["action"].tolist() == chosen(policy(), rows(2), 3)[0]
        assert held.batches == [[1, 1], [2, 2]]

    run(test)


def test_a_request_whose_time_is_over_is_not_computed(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        first = begun(plane, request(rows(1)))
        await held.wait()
        late = [begun(plane, request(rows(1)), 0.01), begun(plane, request(rows(1), timeout=1000), 60)]
        in_time = begun(plane, request(rows(2), timeout=60_000_000), 60)
        await settled([first, *late, in_time])
        await asyncio.sleep(0.05)
        held.goes_on.release(2)
        assert [(await refusal(task)).code for task in late] == ["too_late"] * 2
        await first
        await in_time
        assert held.batches == [[1], [2]]

    run(test)


def test_a_request_that_nobody_waits_for_is_not_computed(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        first = begun(plane, request(rows(1)))
        await held.wait()
        given_up = threading.Event()
        left = asyncio.create_task(plane.infer(request(rows(1)), None, given_up.is_set))
        stays = begun(plane, request(rows(2)))
        await settled([left, stays])
        given_up.set()
        held.goes_on.release(2)
        await asyncio.gather(first, stays)
        assert (await refusal(left)).code == "too_late"
        assert held.batches == [[1], [2]]

    run(test)


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        first = begun(plane, request(rows(MAX_ROWS)))
        await held.wait()
        waiting = begun(plane, request(rows(MAX_ROWS - 1)))
        await settled([first, waiting])
        refused = await refusal(plane.infer(request(rows(2)), None))
        assert (refused.code, str(refused)) == ("full", "63 rows wait and 64 may: try again in a while")
        last = begun(plane, request(rows(1)))
        held.goes_on.release(2)
        await asyncio.gather(first, waiting, last)
        held.goes_on.release()
        await plane.infer(request(rows(MAX_ROWS)), None)

    run(test)


def test_late_requests_make_room_in_a_full_queue(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        first = begun(plane, request(rows(1)))
        await held.wait()
        late = begun(plane, request(rows(MAX_ROWS)), 0.01)
        await settled([first, late])
        await asyncio.sleep(0.05)
        taken = begun(plane, request(rows(MAX_ROWS)))
        assert (await refusal(late)).code == "too_late"
        held.goes_on.release(2)
        await asyncio.gather(first, taken)

    run(test)


def test_more_rows_than_may_ever_wait_are_no_request() -> None:
    async def test() -> None:
        plane, _ = data_plane()
        refused = await refusal(plane.infer(request(rows(MAX_ROWS + 1)), None))
        assert (refused.code, refused.field) == ("bad_value", "observation")

    run(test)


def test_a_new_version_begins_with_the_next_pass(held: HeldPasses) -> None:
    old, new = policy(version=7), policy(version=8, seed=5)

    async def test() -> None:
        plane, models = data_plane(("main", old))
        first = begun(plane, request(rows(30), seed=1))
        await held.wait()
        waiting = begun(plane, request(rows(30), seed=1))
        await settled([first, waiting])
        models.publish("main", new)
        held.goes_on.release(2)
        for task, version, made_by in ((first, "7", old), (waiting, "8", new)):
            answer = await task
            assert answer.version == version
            assert columns(answer)["action"].tolist() == chosen(made_by, rows(30), 1)[0]

    run(test)


def test_a_request_for_a_version_is_answered_by_this_version_or_not_at_all(held: HeldPasses) -> None:
    async def test() -> None:
        plane, models = data_plane()
        assert (await refusal(plane.infer(request(rows(1), version="6"), None))).code == "unknown_policy"
        first = begun(plane, request(rows(1), version="7"))
        await held.wait()
        pinned, free = begun(plane, request(rows(1), version="7")), begun(plane, request(rows(2)))
        await settled([first, pinned, free])
        models.publish("main", policy(version=8))
        held.goes_on.release(2)
        assert (await first).version == "7"
        assert str(await refusal(pinned)) == "model_version: 7 of model 'main' has been replaced"
        assert (await free).version == "8"
        assert held.batches == [[1], [2]]

    run(test)


def test_requests_to_a_policy_of_another_form_are_refused_when_it_has_changed(held: HeldPasses) -> None:
    async def test() -> None:
        plane, models = data_plane()
        first = begun(plane, request(rows(1)))
        await held.wait()
        waiting = begun(plane, request(rows(1)))
        await settled([first, waiting])
        models.publish("main", policy(FLOATS))
        fits = begun(plane, request(rows(3, spec=FLOATS)))
        await settled([first, waiting, fits])
        held.goes_on.release(2)
        assert (await refusal(waiting)).code == "replaced"
        await asyncio.gather(first, fits)
        assert held.batches == [[1], [3]]

    run(test)


def test_a_pass_that_fails_ends_its_requests_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compute = model_runner.compute

    def fails(served: Served, questions: Sequence[PendingRequest]) -> Computed:
        if any(question.rows == 13 for question in questions):
            raise MemoryError
        return compute(served, questions)

    monkeypatch.setattr(model_runner, "compute", fails)

    async def test() -> None:
        plane, _ = data_plane()
        both = await asyncio.gather(
            plane.infer(request(rows(13)), None), plane.infer(request(rows(1)), None), return_exceptions=True
        )
        assert [getattr(one, "code", None) for one in both] == ["internal"] * 2
        await plane.infer(request(rows(1)), None)

    run(test)
    assert "a forward pass of model 'main' has failed" in caplog.text


def test_large_passes_leave_the_event_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that takes long is in a thread, a quick one in the loop itself."""
    threads: list[str] = []
    compute = model_runner.compute

    def noticing(served: Served, questions: Sequence[PendingRequest]) -> Computed:
        threads.append(threading.current_thread().name)
        return compute(served, questions)

    monkeypatch.setattr(model_runner, "compute", noticing)

    async def test() -> None:
        plane, _ = data_plane()
        await plane.infer(request(rows(MAX_ROWS)), None)
        monkeypatch.setattr(model_runner, "_QUICK", MAX_ROWS * (9 * 5 + 5 * 4) - 1)
        await plane.infer(request(rows(MAX_ROWS)), None)
        await plane.infer(request(rows(MAX_ROWS - 1)), None)

    run(test)
    here = threading.current_thread().name
    assert [name if name == here else name.rpartition("_")[0] for name in threads] == [here, "forward-pass", here]


def test_a_closed_data_plane_takes_nothing_and_answers_what_waits(held: HeldPasses) -> None:
    async def test() -> None:
        plane, _ = data_plane()
        first = begun(plane, request(rows(1)))
        await held.wait()
        waiting = begun(plane, request(rows(1)))
        await settled([first, waiting])
        plane.close()
        assert (await refusal(plane.infer(request(rows(1)), None))).code == "shutting_down"
        with pytest.raises(RequestError, match="stopping"):
            plane.check_model_ready("main", "")
        held.goes_on.release(2)
        await asyncio.gather(first, waiting)

    run(test)
