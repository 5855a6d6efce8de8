"""(world, world_episode) names one episode of a run, also where worlds began anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.runs.episode_numbers import EpisodeNumbers
from rattle.runs.errors import RunError


def rows(*numbers: int) -> np.ndarray:
    return np.array([[number] for number in numbers], np.uint32)


def test_numbers_stay_as_they_are_while_nothing_is_lost() -> None:
    numbers = EpisodeNumbers(3)
    for played in (rows(0, 0, 1), rows(1, 2), rows(2, 2)):
        np.testing.assert_array_equal(numbers.number(played, 1), played)


def test_worlds_that_count_from_0_again_are_numbered_on() -> None:
    numbers = EpisodeNumbers(1)
    numbers.number(rows(0, 1, 2), 0)
    numbers.begin_anew(slice(0, 1))
    assert numbers.number(rows(0, 0, 1), 0).ravel().tolist() == [3, 3, 4]
    assert numbers.number(rows(1, 2), 0).ravel().tolist() == [4, 5]
    numbers.begin_anew(slice(0, None))
    assert numbers.number(rows(3), 0).ravel().tolist() == [6]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(0, 7))
def test_no_number_comes_twice_and_a_restored_state_goes_on(lives: list[list[int]], stored_after: int) -> None:
    """Each life is how many episodes further each rollout begins; every life counts from 0."""
    numbers, seen = EpisodeNumbers(1), set()
    for number, life in enumerate(lives):
        if number == stored_after:
            restored = EpisodeNumbers(1)
            restored.restore(numbers.state())
            numbers = restored
        numbers.begin_anew(slice(0, 1))
        episode, of_this_life = 0, set()
        for further in life:
            played = rows(episode, episode + further)
            of_this_life |= set(numbers.number(played, 0).ravel().tolist())
            episode += further
        assert not seen & of_this_life
        seen |= of_this_life


def test_a_state_of_other_worlds_is_refused() -> None:
    with pytest.raises(RunError, match="worlds"):
        EpisodeNumbers(2).restore(EpisodeNumbers(3).state())
