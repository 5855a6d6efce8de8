"""Which worlds an added actor gets."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.inference.actor_pool import assignments
from rattle.services.inference.actors import Assignment
from rattle.services.inference.assignment import MOST_ACTORS, ActorRequest, assign
from rattle.settings.experiment import ExperimentSettings
from rattle.tokens import keep_token, token_for
from rattle.wire.problems import RequestError

ENVS = ["http://one", "http://two"]


def experiment(mode: str = "on_policy", api: str = "vector", **inference: Any) -> ExperimentSettings:
    """Return one process of two that share 16 worlds, or 8 snakes, of each of two policies."""
    own = {"api": api, "snakes": 8, "envs": ENVS, "actors": 2, **inference}
    return ExperimentSettings.model_validate(
        {
            "env": {"worlds": 16},
            "training": {"mode": mode, "policies": ["main", "other"]},
            "topology": {"inference": 2},
            "inference": own,
        }
    )


def without(settings: ExperimentSettings, *names: str) -> list[Assignment]:
    return [one for one in assignments(settings) if one.name not in names]


def add(settings: ExperimentSettings, playing: list[Assignment], **wanted: Any) -> Assignment:
    return assign(settings, assignments(settings), playing, ActorRequest(**wanted))


def test_the_processes_share_all_worlds_of_every_policy() -> None:
    for api in ("vector", "agent"):
        both = [one for index in (0, 1) for one in assignments(experiment(api=api, index=index))]
        for policy_id in ("main", "other"):
            worlds = [
                world
                for one in both
                if one.policy_id == policy_id
                for world in range(one.first_world, one.first_world + one.worlds)
            ]
            assert worlds == list(range(16 if api == "vector" else 8))
        assert len({one.name for one in both}) == len(both)
        assert [one.env_url for one in both if one.policy_id == "main"][:4] == ENVS * 2


def test_the_first_of_two_processes_plays_half() -> None:
    planned = [(one.name, one.first_world, one.worlds) for one in assignments(experiment())]
    assert planned == [("main-0", 0, 4), ("main-1", 4, 4), ("other-0", 0, 4), ("other-1", 4, 4)]


@pytest.mark.parametrize("mode", ["on_policy", "async"])
def test_where_nothing_is_free_nothing_is_added(mode: str) -> None:
    settings = experiment(mode)
    with pytest.raises(RequestError, match="in use by main-0 0 to 3, main-1 4 to 7") as caught:
        add(settings, assignments(settings))
    assert (caught.value.code, caught.value.field) == ("conflict", None)


@pytest.mark.parametrize(
    ("wanted", "first_world", "worlds"),
    [
        ({}, 4, 4),
        ({"worlds": 2}, 4, 2),
        ({"first_world": 6}, 6, 2),
        ({"first_world": 5, "worlds": 2}, 5, 2),
        ({"policy_id": "main", "first_world": 4, "worlds": 4}, 4, 4),
    ],
)
def test_free_worlds_are_taken_over(wanted: dict[str, Any], first_world: int, worlds: int) -> None:
    settings = experiment()
    added = add(settings, without(settings, "main-1"), **wanted)
    assert (added.first_world, added.worlds, added.policy_id) == (first_world, worlds, "main")
    assert (added.name, added.kind) == ("main-of-0-added-1", "vector")
    assert added.env_url == "http://two", "where fewer play"
    with pytest.raises(RequestError, match="free worlds"):
        add(settings, [*without(settings, "main-1"), added], first_world=first_world)


def test_actors_of_a_process_are_bounded() -> None:
    settings = experiment("async", "agent")
    playing = [Assignment(f"snake-{n}", "agent", "main", ENVS[0], 0, 1) for n in range(MOST_ACTORS)]
    with pytest.raises(RequestError) as caught:
        add(settings, playing)
    assert caught.value.code == "full"
    assert add(settings, playing[1:]).worlds == 1


def test_names_are_not_used_twice() -> None:
    settings = experiment()
    playing = without(settings, "main-1")
    names = []
    for _ in range(4):
        playing.append(add(settings, playing, worlds=1))
        names.append(playing[-1].name)
    assert names == [f"main-of-0-added-{number}" for number in range(1, 5)]
    del playing[-3]
    assert add(settings, playing).name == "main-of-0-added-2"


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"first_world": 3, "worlds": 2}, "first_world"),
        ({"first_world": 6, "worlds": 3}, "first_world"),
        ({"worlds": 5}, "worlds"),
        ({"first_world": 12, "worlds": 4}, "first_world"),
        ({"policy_id": "other"}, None),
    ],
    ids=["played", "partly another process's", "too many", "another process's", "another policy's"],
)
def test_worlds_that_are_not_free_are_a_conflict(wanted: dict[str, Any], field: str | None) -> None:
    settings = experiment()
    with pytest.raises(RequestError) as caught:
        add(settings, without(settings, "main-1"), **wanted)
    assert (caught.value.code, caught.value.field) == ("conflict", field)


def test_in_mode_async_another_process_s_worlds_may_be_named() -> None:
    settings = experiment("async")
    assert add(settings, assignments(settings), first_world=12, worlds=4).first_world == 12
    assert add(settings, assignments(settings), first_world=12).worlds == 4


@pytest.mark.parametrize(
    ("api", "wanted", "field"),
    [
        ("vector", {"worlds": 0}, "worlds"),
        ("vector", {"worlds": 17}, "worlds"),
        ("vector", {"first_world": -1}, "first_world"),
        ("vector", {"first_world": 16}, "first_world"),
        ("vector", {"first_world": 13, "worlds": 4}, "first_world"),
        ("vector", {"snake": 1}, "snake"),
        ("vector", {"policy_id": "unheard"}, "policy_id"),
        ("vector", {"env_url": "ftp://one"}, "env_url"),
        ("vector", {"env_url": "http://three"}, "env_url"),
        ("vector", {"env_url": "http://one/any/path?x=1"}, "env_url"),
        ("vector", {"env_url": "http://u:hidden@one"}, "env_url"),
        ("agent", {"snake": 8}, "snake"),
        ("agent", {"snake": -1}, "snake"),
        ("agent", {"first_world": 1}, "first_world"),
        ("agent", {"worlds": 1}, "worlds"),
    ],
)
def test_what_cannot_be_is_named(api: str, wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        add(experiment(api=api), [], **wanted)
    assert (caught.value.code, caught.value.field) == ("bad_value", field)
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize("url", ["http://one", "http://one/", "http://ONE:80", "HTTP://one:80//"])
def test_an_environment_server_is_known_however_its_address_is_written(url: str) -> None:
    assert add(experiment(), [], env_url=url).env_url == "http://one"


def test_any_environment_server_may_be_named_where_a_setting_allows_it() -> None:
    settings = experiment(any_env=True)
    assert add(settings, [], env_url="http://u:hidden@three:5000").env_url == "http://three:5000"
    for url in ("ftp://three", "http://three:99999", "http://three\n"):
        with pytest.raises(RequestError) as caught:
            add(settings, [], env_url=url)
        assert caught.value.field == "env_url"
        assert str(caught.value).isprintable()


def test_a_server_that_a_request_alone_has_named_is_sent_no_token() -> None:
    keep_token("the-token-of-these-tests")
    try:
        add(experiment(any_env=True), [], env_url="http://three:5000/")
        add(experiment(any_env=True), [], env_url="http://one")
        assert token_for("http://three:5000") is None
        assert token_for("http://one") == "the-token-of-these-tests"
    finally:
        keep_token(None)


def test_snakes_in_mode_on_policy_are_taken_over() -> None:
    settings = experiment(api="agent")
    playing = without(settings, "main-1", "main-2")
    assert add(settings, playing).first_world == 1
    assert add(settings, playing, snake=2).first_world == 2
    for number, whose in ((0, playing), (5, playing), (None, assignments(settings))):
        with pytest.raises(RequestError, match="is free") as caught:
            add(settings, list(whose), snake=number)
        assert (caught.value.code, caught.value.field) == ("conflict", "snake")


def test_snakes_in_mode_async_may_have_several_players() -> None:
    settings = experiment("async", api="agent")
    playing = assignments(settings)
    assert add(settings, playing, snake=0).first_world == 0
    added = []
    for _ in range(5):
        added.append(add(settings, [*playing, *added]))
    assert [one.first_world for one in added] == [4, 5, 6, 7, 0], "those that fewest play"


@given(data=st.data(), mode=st.sampled_from(["on_policy", "async"]))
def test_no_two_actors_share_worlds_whatever_is_added_and_removed(data: st.DataObject, mode: str) -> None:
    settings = experiment(mode)
    playing = assignments(settings)
    for _ in range(data.draw(st.integers(1, 12))):
        if playing and data.draw(st.booleans()):
            playing.remove(data.draw(st.sampled_from(playing)))
        number = st.none() | st.integers(0, 16)
        wanted = {"first_world": data.draw(number), "worlds": data.draw(number)}
        policy_id = data.draw(st.sampled_from(["main", "other"]))
        with suppress(RequestError):
            playing.append(add(settings, playing, **wanted, policy_id=policy_id))
    for policy_id in ("main", "other"):
        own = [one for one in playing if one.policy_id == policy_id]
        played = [world for one in own for world in range(one.first_world, one.first_world + one.worlds)]
        assert len(played) == len(set(played))
        assert set(played) <= set(range(8 if mode == "on_policy" else 16))
