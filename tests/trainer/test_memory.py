"""Policies with memory: what acts remembers what learns computes, across rollouts, episodes, kills and services."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from rattle import python as rattle
from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.policies.file import load_policy
from rattle.rollouts.complete import complete
from rattle.rollouts.worlds import policy_spec
from rattle.samples.rollout import allocate, as_tensors, join
from rattle.samples.spaces import CodeSpace, DiscreteSpace
from rattle.trainer.build import build_acting_policy, build_collector, build_learner
from rattle.trainer.train import resume, train
from tests.services.cluster import Cluster
from tests.trainer.conftest import REPOSITORY, Silence, small_settings
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

EXAMPLE = (REPOSITORY / "examples" / "extend" / "my_network.py").read_text()
OWN = "policy={network: 'my_network:Remembers', width: 7}"
MINGRU = "policy={network: mingru, hidden_sizes: [7], memory_layers: 2}"
GRU = "policy={network: gru, hidden_sizes: [9, 14]}"
PAST = "policy={hidden_sizes: [9], inputs: [last_action, last_reward, ticks_since_reward, ticks_since_turn]}"
GRU_PAST = "policy={network: gru, hidden_sizes: [9], inputs: [ticks_since_turn, last_reward]}"
SMALL = ("env.worlds=24", "train.steps=4608", "record.every_episodes=2")
DUEL = ("env.num_snakes=3", "env.max_steps=20")
TURNS = ("env={id: 'pettingzoo:tests.envs.countdown', worlds: 24, players: 3, leaves: [1], late: [2]}",)
GIFTS = (*TURNS, "env.gift=0.5", "env.fee=-0.25")  # which come to who waits, too

#: An environment that shows one of three things once, and pays for naming it some ticks later.
RECALL = """
    import gymnasium
    import numpy as np

    class Recall(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        action_space = gymnasium.spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.shown, self.tick = int(self.np_random.integers(3)), 0
            return self.see(), {}

        def see(self):
            seen = np.zeros(4, np.float32)
            if self.tick == 0:
                seen[self.shown] = 1
            seen[3] = self.tick == 3
            return seen

        def step(self, action):
            over = self.tick == 3
            reward = float(over and action == self.shown)
            self.tick += 1
            return self.see(), reward, over, False, {}

    gymnasium.registry.pop("Recall-v0", None)  # of an earlier test, whose module was another one
    gymnasium.register("Recall-v0", entry_point=Recall)
"""


def settings(*overrides: str, network: str = OWN) -> list[str]:
    return [network, *overrides]


@pytest.mark.parametrize(
    "network", [OWN, MINGRU, GRU, PAST, GRU_PAST], ids=["own", "mingru", "gru", "past", "gru past"]
)
@pytest.mark.parametrize("overrides", [("env.max_steps=9",), DUEL, TURNS], ids=["one agent", "three agents", "turns"])
def test_what_learns_computes_what_acted_and_remembered(
    user_module: UserModule, overrides: tuple[str, ...], network: str
) -> None:
    user_module("my_network", EXAMPLE)
    chosen = small_settings("policy={}", *settings(*overrides, network=network))
    with closing(build_collector(chosen)) as collector:
        learner = build_learner(chosen, policy_spec(chosen, collector.batches[0].spec))
        with closing(learner):
            policy = build_acting_policy(chosen, learner)
            collector.remember(learner.spec.memory_size)
            for turn in range(4):
                rollout = collector.collect(policy, 0, lambda _: False)
                assert rollout.memory.any() == (turn > 0)
                batch = chosen.algorithm.samples(learner.prepared(as_tensors(rollout)))  # type: ignore[attr-defined]
                with torch.no_grad():
                    outputs, value = learner._forward(batch)
                flat = batch.flat()
                found = learner.spec.action.distribution(outputs).log_prob(flat.action)
                np.testing.assert_allclose(found, flat.log_prob, rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(value, flat.value, rtol=1e-3, atol=1e-4)
            ended = (rollout.terminated | rollout.truncated).any(axis=0)
            assert ended.any()
            assert rollout.active.all() == (overrides == ("env.max_steps=9",))


@pytest.mark.parametrize("overrides", [("env.max_steps=9",), DUEL, GIFTS], ids=["one agent", "three agents", "turns"])
def test_what_learns_sees_what_acted_saw_of_its_own_past(overrides: tuple[str, ...]) -> None:
    """The values are what was seen, each times a number of its own: nothing else has a weight."""
    chosen = small_settings(*overrides, PAST, "policy.hidden_sizes=[]")
    with closing(build_collector(chosen)) as collector:
        learner = build_learner(chosen, policy_spec(chosen, collector.batches[0].spec))
        with closing(learner):
            weights = {name: np.zeros_like(array) for name, array in learner.parameters().items()}
            own = np.random.default_rng(0).normal(size=learner.spec.own.width).astype(np.float32)
            weights["value.weight"][0, -len(own) :] = own
            policy = build_acting_policy(chosen, learner)
            policy.load(weights)
            collector.remember(learner.spec.memory_size)
            shown, before = [], []
            for _ in range(4):
                rollout = learner.prepared(as_tensors(collector.collect(policy, 0, lambda _: False)))
                before.append(bool(rollout.own[0].any()))  # the rollout began
                shown.append(rollout.own[rollout.active].numpy())
                np.testing.assert_allclose(shown[-1] @ own, rollout.value[rollout.active], rtol=1e-5, atol=1e-5)
            assert any(before)
            assert (np.concatenate(shown).std(axis=0) > 0.01).all()


@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
def test_a_policy_that_has_not_changed_corrects_nothing_of_what_it_played_earlier(
    user_module: UserModule, algorithm: str
) -> None:
    """Corrections begin with what the network says and remembers: in the wrong order, ratios would not be 1."""
    user_module("my_network", EXAMPLE)
    chosen = small_settings("policy={}", *settings(*DUEL, f"algorithm.id={algorithm}"))
    reports, weights = [], []
    with (
        closing(build_collector(chosen)) as collector,
        closing(build_learner(chosen, policy_spec(chosen, collector.batches[0].spec))) as learner,
    ):
        undecided = learner.parameters()
        learner.begin_with({name: 3 * array for name, array in undecided.items()})
        policy = build_acting_policy(chosen, learner)
        collector.remember(learner.spec.memory_size)
        for _ in range(2):
            rollout = as_tensors(collector.collect(policy, 0, lambda _: False))
        assert rollout.memory.any()
        assert not rollout.active.all()
        begun = {**learner.state(), "version": np.array(5)}
        slots = torch.arange(rollout.slots)
        for versions in (torch.full_like(slots, 5), slots % 3 + 3, torch.zeros_like(slots)):
            learner.restore(begun)
            reports.append(learner.update(rollout.replace(policy_version=versions)).values)
            weights.append(learner.parameters())
    for report, found in zip(reports[1:], weights[1:], strict=True):
        assert report == pytest.approx(reports[0], rel=1e-3, abs=1e-3)
        assert any((array != weights[0][name]).any() for name, array in found.items())  # it was corrected, by rounding
        for name, array in found.items():
            np.testing.assert_allclose(array, weights[0][name], atol=2e-4, err_msg=name)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("algorithm", "environment", "network"),
    [
        ("a2c", (), MINGRU),
        ("ppo", (), GRU),
        ("ppo", (), OWN),
        ("reinforce", (), OWN),
        ("a2c", TURNS, MINGRU),
        ("a2c", (), PAST),
        ("ppo", TURNS, PAST),
        ("ppo", DUEL, GRU_PAST),
        ("reinforce", (), PAST),
    ],
)
def test_a_run_that_was_interrupted_goes_on_with_the_same_bytes(
    user_module: UserModule, tmp_path: Path, algorithm: str, environment: tuple[str, ...], network: str
) -> None:
    user_module("my_network", EXAMPLE)
    more = ["algorithm.max_episode_ticks=40"] if algorithm == "reinforce" else []
    own = settings(*environment, f"algorithm.id={algorithm}", *more, network=network)
    whole = train(small_settings("policy={}", *own), tmp_path / "whole", Silence())
    train(small_settings("policy={}", *own, "train.steps=2000"), tmp_path / "parts", Silence())
    parts = resume(str(tmp_path / "parts"), 4608, None, Silence())
    assert parts.policy_sha256 == whole.policy_sha256
    assert parts.updates == whole.updates


@pytest.mark.whole(suite="slow")
@pytest.mark.integration
@pytest.mark.parametrize(
    ("overrides", "network"),
    [((), MINGRU), (DUEL, GRU), (TURNS, OWN), (TURNS, PAST)],
    ids=["one agent, mingru", "three agents, gru", "turns, own", "turns, past"],
)
def test_services_in_mode_on_policy_change_nothing(
    user_module: UserModule, tmp_path: Path, overrides: tuple[str, ...], network: str
) -> None:
    user_module("my_network", EXAMPLE)
    own = settings(*overrides, network=network)
    here = train(complete(small_settings("policy={}", *own)), tmp_path / "here", Silence())
    with Cluster(tmp_path / "there", *SMALL, *own, envs=2) as cluster:
        status = cluster.wait_for(lambda status: status.status == "finished")
    assert status.policy_sha256 == here.policy_sha256


@pytest.mark.parametrize("network", [OWN, "policy.network=mingru", "policy.network=gru"])
def test_it_learns_what_cannot_be_learnt_without(user_module: UserModule, tmp_path: Path, network: str) -> None:
    user_module("my_network", EXAMPLE)
    user_module("recall", RECALL)
    common = ("env.id=gym:recall:Recall-v0", "train.actors=1", "train.steps=25000", "env.worlds=32")
    learning = "algorithm={id: ppo, ticks: 16, passes: 4, minibatches: 1, learning_rate: 0.01}"
    own = small_settings("policy={}", *settings(*common, learning, "train.stop_at_return=0.9", network=network))
    with_memory = train(own, tmp_path / "with", Silence())
    without = train(small_settings(*common, learning), tmp_path / "without", Silence())
    assert with_memory.mean_return is not None
    assert without.mean_return is not None
    assert with_memory.mean_return > 0.85
    assert without.mean_return < 0.6


def test_a_policy_is_handed_its_state(user_module: UserModule, tmp_path: Path) -> None:
    user_module("my_network", EXAMPLE)
    train(small_settings("policy={}", *settings("train.steps=800")), tmp_path / "run", Silence())
    policy = rattle.load_policy(tmp_path / "run")
    seen = np.ones(60, np.uint8)
    action, state = policy.act(seen, greedy=True)
    assert (action in range(3), state.shape, policy.memory_size) == (True, (7,), 7)
    _, again = policy.act(np.stack([seen, seen]), state=np.stack([state, np.zeros(7)]))
    assert (again[1] == state).all()
    assert (again[0] != state).any()
    with pytest.raises(RattleError, match=r"^state must be float32 \(1, 7\), got an array \(2, 7\)$"):
        policy.act(seen, state=again)
    with pytest.raises(RattleError, match=r"^reward must be float32 \(1,\), got 'much'$"):
        policy.act(seen, state=state, reward="much")
    assert rattle.evaluate(policy, 3).total_reward.shape == (3,)
    assert load_policy(RunDirectory(tmp_path / "run").policy.read_bytes()).spec.memory_size == 7


def test_a_policy_that_sees_its_own_past_is_told_what_came_of_it(tmp_path: Path) -> None:
    train(small_settings(PAST, "train.steps=800"), tmp_path / "run", Silence())
    policy, seen = rattle.load_policy(tmp_path / "run"), np.ones((2, 60), np.uint8)
    action, state = policy.act(seen, greedy=True)
    assert state.tolist() == [[0, 1, one + 1, 0, 1] for one in action]  # as docs/settings.md says
    _, told = policy.act(seen, greedy=True, state=state, reward=[0.5, 0])
    assert told[:, :2].tolist() == [[0, 1], [0, 2]]
    assert rattle.evaluate(policy, 3, greedy=True).total_reward.shape == (3,)
    weights = f"policy.weights={tmp_path / 'run' / 'policy.safetensors'}"
    more = train(small_settings(PAST, "train.steps=100", weights), tmp_path / "more", Silence())
    assert more.status == "finished"
    blind = small_settings("policy.hidden_sizes=[9]", weights)
    with pytest.raises(RattleError, match=r"inputs .*'last_action'.* the experiment none"):
        train(blind, tmp_path / "blind", Silence())


def test_rollouts_with_memory_are_joined_side_by_side() -> None:
    spaces = CodeSpace(cells=2, codes=3), DiscreteSpace(n=2)
    one, other = (allocate(*spaces, ticks, 2, memory_size=3) for ticks in (4, 2))
    other.memory[:] = 5.0
    joined = join([one, other])
    assert joined.memory.shape == (4, 3)
    assert joined.memory[2:].all()
    assert "memory" not in allocate(*spaces, 4, 2).arrays


def test_minibatches_in_which_nobody_lived_are_left_out(user_module: UserModule, tmp_path: Path) -> None:
    user_module("my_network", EXAMPLE)
    few = ("env.worlds=2", "env.num_snakes=3", "train.steps=200", "algorithm={id: ppo, ticks: 2, minibatches: 6}")
    summary = train(small_settings("policy={}", *settings(*few)), tmp_path / "run", Silence())
    assert summary.status == "finished"
