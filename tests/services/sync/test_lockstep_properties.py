"""Clusters through loss, duplication, reordering, delays, deaths and partitions: nothing is done twice or left out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seed_of_hypothesis
from hypothesis import strategies as st

from rattle.wire.lockstep import Phase, Role
from tests.services.sync.simulation import Network, Simulation

networks = st.builds(
    Network,
    loss=st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5]),
    duplicates=st.sampled_from([0.0, 0.1, 0.5]),
    delay=st.sampled_from([0.0001, 0.001, 0.03]),
    late=st.sampled_from([0.0, 0.02, 0.2]),
    late_seconds=st.sampled_from([0.02, 0.5, 5.0]),
)
seeds = st.integers(0, 2**32 - 1)
whole = pytest.mark.whole(suite="lockstep")
thorough = settings(max_examples=200, suppress_health_check=list(HealthCheck))


def cluster(seed: int, network: Network, agents: int, environments: int, **options: Any) -> Simulation:
    names = {f"env-{number}": Role.ENVIRONMENT for number in range(environments)}
    names |= {f"inference-{number}": Role.AGENT for number in range(agents)}
    simulation = Simulation(seed, names, network, **options)
    for simulated in simulation.members.values():
        simulated.work_seconds = simulation.random.choice([0.0, 0.0, 0.001, 0.08])
    return simulation


def start_all(simulation: Simulation) -> None:
    starts = [simulation.start_sync, *(lambda name=name: simulation.start_member(name) for name in simulation.members)]
    for start in starts:
        simulation.at(simulation.now + simulation.random.uniform(0, 2), start)


def is_over(simulation: Simulation) -> bool:
    return simulation.coordinator is not None and simulation.coordinator.leader.finished


def run_to_the_end(simulation: Simulation, seconds: float = 36_000) -> None:
    simulation.run(lambda: is_over(simulation), seconds)


def run_to_the_beginning(simulation: Simulation) -> tuple[int, int]:
    """Wait for an epoch; returns it with its session."""
    simulation.run(lambda: simulation.coordinator is not None and simulation.coordinator.leader.has_begun, 36_000)
    assert simulation.coordinator is not None
    return simulation.coordinator.leader.session, simulation.coordinator.leader.epoch


def check_everything_was_done(simulation: Simulation, ticks: int) -> None:
    """Every member that lived once did every piece of its work, once and in order."""
    for simulated in simulation.members.values():
        if simulated.lives == 1:
            last = ticks + 1 if simulated.role == Role.AGENT else ticks
            assert simulated.done == [(tick, Phase(simulated.role)) for tick in range(1, last + 1)]
            assert [work.last for work in simulated.works] == [work.tick > ticks for work in simulated.works]
    told = {tick for tick, phase in simulation.phases if phase == Phase.STEP}
    assert told >= set(range(1, ticks + 1))


@thorough
@given(seeds, networks, st.integers(0, 5), st.integers(0, 2), st.integers(1, 60))
def test_every_tick_is_done_once_by_everybody(
    seed: int, network: Network, agents: int, environments: int, ticks: int
) -> None:
    simulation = cluster(seed, network, max(agents, 1 - environments), environments, ticks=ticks)
    start_all(simulation)
    run_to_the_end(simulation)
    check_everything_was_done(simulation, ticks)
    for simulated in simulation.members.values():
        hashes = {(tick, Phase(simulated.role)) for tick, _ in simulated.done}
        assert all(simulated.name in simulation.phases[t - (p == Phase.ACT), p] for t, p in hashes)


@thorough
@given(seeds, st.sampled_from([0.1, 0.3]), st.integers(1, 3))
def test_what_is_doubled_and_late_leaves_nobody_waiting(seed: int, loss: float, agents: int) -> None:
    network = Network(loss=loss, duplicates=0.5, delay=0.002, late=0.3, late_seconds=0.3)
    simulation = cluster(seed, network, agents, 1, ticks=50)
    for simulated in simulation.members.values():
        simulated.work_seconds = 0.02
    start_all(simulation)
    run_to_the_end(simulation, 120)
    assert not any("not been heard" in text for text in simulation.events)


@thorough
@given(seeds, networks, st.integers(1, 4), st.integers(0, 2), st.integers(5, 60), st.integers(1, 6))
def test_the_service_may_die_at_any_moment(
    seed: int, network: Network, agents: int, environments: int, ticks: int, deaths: int
) -> None:
    simulation = cluster(seed, network, agents, environments, ticks=ticks)
    start_all(simulation)
    epochs = [run_to_the_beginning(simulation)]
    for _ in range(deaths):
        simulation.at(simulation.now + simulation.random.expovariate(1 / 3) + 2, simulation.stop_sync)
        simulation.run(lambda: simulation.coordinator is None or is_over(simulation), 36_000)
        if is_over(simulation):
            break
        simulation.at(simulation.now + simulation.random.uniform(0, 3), simulation.start_sync)
        epochs.append(run_to_the_beginning(simulation))
    run_to_the_end(simulation)
    check_everything_was_done(simulation, ticks)
    assert all(new > old for (session, old), (same, new) in itertools.pairwise(epochs) if session == same)


@thorough
@given(seeds, networks, st.integers(1, 4), st.integers(1, 2), st.integers(5, 60), st.integers(1, 8))
def test_members_and_the_service_may_die_and_be_cut_off(
    seed: int, network: Network, agents: int, environments: int, ticks: int, troubles: int
) -> None:
    simulation = cluster(seed, network, agents, environments, ticks=ticks)
    start_all(simulation)
    run_to_the_beginning(simulation)
    when = simulation.now
    for _ in range(troubles):
        when += simulation.random.expovariate(1 / 2)
        simulation.at(when, lambda: make_trouble(simulation))
    run_to_the_end(simulation)
    check_everything_was_done(simulation, ticks)


@settings(thorough, max_examples=40)
@given(seeds, st.integers(1, 3), st.integers(5, 40), st.integers(0, 6))
def test_datagrams_that_somebody_has_recorded_change_nothing(seed: int, agents: int, ticks: int, troubles: int) -> None:
    """Of all lives of everybody, from their own addresses and from others, while the service and members die."""
    simulation = cluster(seed, Network(loss=0.01, recorded=3), agents, 1, ticks=ticks)
    start_all(simulation)
    run_to_the_beginning(simulation)
    when = simulation.now
    for _ in range(troubles):
        when += simulation.random.expovariate(1 / 2)
        simulation.at(when, lambda: make_trouble(simulation))
    run_to_the_end(simulation, 600)
    check_everything_was_done(simulation, ticks)


@pytest.mark.integration
@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=whole) for n in range(1, 10))])
def test_a_million_ticks(part: int) -> None:
    """100,000 ticks a part: clusters of all sizes in all kinds of networks, now and then a death or a partition."""
    ticks = []

    @settings(max_examples=20, database=None, suppress_health_check=list(HealthCheck))
    @seed_of_hypothesis(part)
    @given(seeds, networks, st.integers(1, 3), st.lists(st.floats(1, 600), max_size=6))
    def play(seed: int, network: Network, agents: int, troubles: list[float]) -> None:
        simulation = cluster(seed, network, agents, 1, ticks=5000, sealed=False)  # seals take a fifth of the time
        start_all(simulation)
        run_to_the_beginning(simulation)
        for seconds in troubles:
            simulation.at(simulation.now + seconds, lambda: make_trouble(simulation))
        run_to_the_end(simulation, 1e7)
        check_everything_was_done(simulation, 5000)
        ticks.append(5000)

    play()
    assert sum(ticks) >= 100_000


def make_trouble(simulation: Simulation) -> None:
    """Let somebody die, or be cut off, for up to five seconds."""
    random = simulation.random
    until = simulation.now + random.uniform(0, 5)
    victim = random.choice(["", *simulation.members])
    if not victim:
        simulation.stop_sync()
        simulation.at(until, simulation.start_sync)
    elif random.random() < 0.5:
        simulation.members[victim].partitioned = True
        simulation.at(until, lambda: setattr(simulation.members[victim], "partitioned", False))
    else:
        simulation.start_member(victim)


@thorough
@given(seeds, networks, st.sampled_from(["drop", "forward"]), st.integers(2, 4), st.integers(40, 200))
def test_nobody_holds_up_the_others_where_the_policy_says_so(
    seed: int, network: Network, silent: str, agents: int, ticks: int
) -> None:
    simulation = cluster(seed, network, agents, 1, ticks=ticks, silent=silent, silence_seconds=0.5)
    start_all(simulation)
    run_to_the_beginning(simulation)
    victim = simulation.members["inference-0"]
    victim.partitioned = True
    run_to_the_end(simulation)
    for simulated in simulation.members.values():
        ticks_done = [tick for tick, _ in simulated.done]
        assert ticks_done == sorted(set(ticks_done))
    said = [text for text in simulation.events if text.startswith("inference-0 has not been heard")]
    assert said


@thorough
@given(seeds, networks, st.integers(1, 4), st.integers(5, 40), st.lists(st.integers(1, 40), max_size=20))
def test_agents_hear_that_all_were_idle_in_the_very_next_tick(
    seed: int, network: Network, agents: int, ticks: int, idle: list[int]
) -> None:
    simulation = cluster(seed, network, agents, 1, ticks=ticks)
    everybody = frozenset(idle)
    for number in range(agents):
        alone = {(number + 1) * 7} - everybody if agents > 1 else set()
        simulation.members[f"inference-{number}"].idle_at = everybody | alone
    start_all(simulation)
    for _ in range(2):
        run_to_the_beginning(simulation)
        simulation.at(simulation.now + simulation.random.uniform(2, 6), simulation.stop_sync)
        simulation.run(lambda: simulation.coordinator is None or is_over(simulation), 36_000)
        if is_over(simulation):
            break
        simulation.start_sync()
    run_to_the_end(simulation)
    for number in range(agents):
        works = simulation.members[f"inference-{number}"].works
        assert [work.all_idle for work in works] == [work.tick - 1 in everybody for work in works]
