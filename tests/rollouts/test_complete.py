"""What is not given follows from what an environment's agents observe, or from the run that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rattle.learning.algorithms import A2C, PPO, Reinforce
from rattle.rollouts.complete import complete, complete_for_actors
from rattle.rollouts.worlds import environment_of
from rattle.settings.defaults import ALGORITHMS, SECTIONS, are_complete
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.policy import EncodersSection
from rattle.settings.sources import check_settings, load_settings, to_yaml
from tests.processes import ServiceProcess
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

POLE = "env.id=gym:CartPole-v1"
SNAKE = ("env.id=snake", "env.worlds=1024", "policy.activation=relu", "algorithm.id=a2c", "train.actors=2")
CELLS = (
    "policy.inputs=[last_action, last_reward, ticks_since_reward, ticks_since_turn]",
    "algorithm.learning_rate=0.002",
)


@pytest.fixture(scope="module")
def pole_server() -> Iterator[str]:
    with ServiceProcess("env", settings=(POLE,)) as server:
        yield server.url


def floats(*overrides: str) -> ExperimentSettings:
    """Return the settings in which floats have their defaults, as if a user had given them all."""
    settings = load_settings(None, overrides)
    algorithm = settings.algorithm.id if "id" in settings.algorithm.model_fields_set else "ppo"
    own = {"algorithm": {**SECTIONS["floats"]["algorithm"], "id": algorithm, **ALGORITHMS["floats"][algorithm]}}
    said = [
        f"{name}.{key}={value if isinstance(value, str) else yaml.safe_dump(value).split()[0]}"
        for name, section in {**SECTIONS["floats"], **own}.items()
        for key, value in section.items()
    ]
    return load_settings(None, [*said, *overrides])


def test_snake_sees_its_own_past_and_keeps_all_other_defaults_of_the_sections() -> None:
    assert complete(load_settings(None)) == load_settings(None, CELLS)
    assert load_settings(None) == load_settings(None, SNAKE)
    assert complete(load_settings(None, ["policy.inputs=[]"])).policy.inputs == ()  # type: ignore[union-attr]
    assert complete(load_settings(None, ["policy.network=gru"])).policy.inputs == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("overrides", [(), ("algorithm.id=a2c",), ("algorithm.id=reinforce",), ("algorithm.clip=0.1",)])
def test_where_numbers_are_observed_what_is_not_given_follows_from_that(overrides: tuple[str, ...]) -> None:
    said: list[str] = []
    settings = complete(load_settings(None, [POLE, *overrides]), say=said.append)
    assert settings == floats(POLE, *overrides) != load_settings(None, [POLE, *overrides])
    [line] = said
    assert line.startswith("'gym:CartPole-v1' observes numbers, so what is not set is env.worlds=16, ")
    assert ("algorithm.id" in line) == (overrides in ((), ("algorithm.clip=0.1",)))


def test_a_single_state_is_learnt_as_numbers_are_and_has_no_scale() -> None:
    said: list[str] = []
    lake = complete(load_settings(None, ["env.id=gym:FrozenLake-v1"]), say=said.append)
    numbers = complete(load_settings(None, ["env.id=gym:FrozenLake-v1", "algorithm.scale_observations=false"]))
    assert said[0].startswith("'gym:FrozenLake-v1' observes one of some states, so what is not set is env.worlds=16, ")
    assert (lake.algorithm, lake.env.worlds, lake.train.actors) == (
        floats(POLE).algorithm.model_copy(update={"scale_observations": False}),
        16,
        1,
    )
    assert lake == numbers


@pytest.mark.parametrize(
    "given", ["env.worlds=7", "policy.activation=relu", "algorithm.scale_rewards=false", "train.actors=2"]
)
def test_what_a_user_sets_wins_also_where_it_is_what_another_kind_has(given: str) -> None:
    key, _, value = given.partition("=")
    section, name = key.split(".")
    settings = complete(load_settings(None, [POLE, given]))
    assert str(getattr(getattr(settings, section), name)).lower() == value
    assert settings == floats(POLE, given)


def test_what_was_chosen_survives_being_written_down_and_is_asked_for_no_more(tmp_path: Path) -> None:
    said: list[str] = []
    settings = complete(load_settings(None, [POLE]))
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    again = load_settings(tmp_path / "config.yaml")
    assert are_complete(again)
    assert complete(again, say=said.append) == again == settings
    assert not said


def test_settings_of_an_algorithm_without_its_id_are_of_the_one_that_the_environment_has_by_default() -> None:
    assert isinstance(complete(load_settings(None, [POLE, "algorithm.clip=0.1"])).algorithm, PPO)
    assert isinstance(complete(load_settings(None, [POLE, "algorithm.learning_rate=0.1"])).algorithm, PPO)
    assert isinstance(complete(load_settings(None, ["algorithm.learning_rate=0.1"])).algorithm, A2C)
    for overrides in (["algorithm.clip=0.1"], [POLE, "algorithm.max_episode_ticks=10"]):
        settings = load_settings(None, overrides)
        with pytest.raises(SettingsError, match=f"unknown key '{overrides[-1].partition('=')[0]}'"):
            complete(settings)
    assert isinstance(load_settings(None, [POLE, "algorithm.baseline=true"]).algorithm, Reinforce)


def test_a_server_decides_as_the_environment_in_this_process_does(pole_server: str) -> None:
    here = complete(load_settings(None, [POLE]))
    there = complete(load_settings(None, [f"env.url={pole_server}"]))
    for section in ("policy", "algorithm", "train"):
        assert getattr(there, section) == getattr(here, section)
    assert (there.env.id, there.env.worlds) == (here.env.id, here.env.worlds)
    given = load_settings(None, [POLE, f"env.url={pole_server}", "env.worlds=7", "algorithm.id=a2c"])
    assert complete(given).model_copy(update={"env": given.env}) == floats(
        POLE, f"env.url={pole_server}", "env.worlds=7", "algorithm.id=a2c"
    )


def test_who_plays_at_a_server_has_the_settings_of_who_learns(pole_server: str) -> None:
    given = load_settings(None, [POLE])
    assert complete_for_actors(given, pole_server) == complete(given)
    whole = complete(given)
    assert complete_for_actors(whole, "http://127.0.0.1:9") == whole  # nobody is asked for what is known
    assert complete_for_actors(load_settings(None), "http://127.0.0.1:9") == load_settings(None, CELLS)
    unnamed = complete_for_actors(load_settings(None, [f"env.url={pole_server}"]), pole_server)
    assert unnamed.algorithm == whole.algorithm  # the id that is not given is not that of snake


@pytest.mark.parametrize("override", [POLE, "env.vision_radius=3"])
def test_an_environment_that_is_known_decides_without_a_world_or_a_server(
    monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    settings = load_settings(None, [override])
    expected, known = complete(settings), environment_of(settings)
    monkeypatch.setattr("rattle.rollouts.worlds.make_worlds", None)
    assert complete(settings, environment=known) == expected
    served = load_settings(None, ["env.url=http://127.0.0.1:9"])
    assert complete(served, environment=known).env.own_settings == expected.env.own_settings
    assert complete(served, environment=known).algorithm == expected.algorithm


def test_a_run_that_goes_on_keeps_what_it_has_begun_with() -> None:
    """Also one of a version that knew of no other defaults, or had other ones."""
    earlier = yaml.safe_load(to_yaml(load_settings(None, [POLE, "algorithm.learning_rate=0.5"])))
    del earlier["algorithm"]["scale_rewards"]
    run = check_settings(earlier, "config.yaml")
    again = complete(load_settings(None, [POLE]), run)
    assert (again.algorithm, again.policy, again.env) == (run.algorithm, run.policy, run.env)
    other = complete(load_settings(None, [POLE, "env.worlds=7", "algorithm.id=ppo"]), run)
    assert (other.env.worlds, other.algorithm) == (7, PPO())


def test_a_network_of_a_user_is_not_told_what_it_does_not_know(user_module: UserModule) -> None:
    user_module(
        "own_network",
        """
        from rattle.extend import Network

        class Own(Network):
            def step(self, observation, state):
                raise NotImplementedError
        """,
    )
    given = load_settings(None, [POLE, "policy={network: 'own_network:Own'}"])
    settings = complete(given)
    assert settings.policy == given.policy
    assert isinstance(settings.algorithm, PPO)
    assert (settings.algorithm.scale_rewards, settings.algorithm.scale_observations) == (True, False)
    assert are_complete(settings)
    assert complete(given, settings).policy == given.policy
    asked = load_settings(None, [POLE, "policy={network: 'own_network:Own'}", "algorithm.scale_observations=true"])
    with pytest.raises(SettingsError, match=r"scale_observations is true, and the first layer of 'own_network:Own' is"):
        complete(asked)


@pytest.mark.parametrize("environment", ["Lights", "MaskedLights"])
def test_images_and_parts_have_a_network_that_takes_them(environment: str) -> None:
    here = f"env.id=tests.encoded_worlds:{environment}"
    chosen = complete(load_settings(None, [here]))
    assert isinstance(chosen.policy, EncodersSection)
    assert (chosen.policy.network, chosen.algorithm.id) == ("encoders", "ppo")
    assert are_complete(chosen)
    assert complete(load_settings(None, [here]), chosen) == chosen  # as a resume has them
    for given, network in (("policy.hidden_sizes=[9]", "encoders"), ("policy.network=impala_cnn", "impala_cnn")):
        settings = complete(load_settings(None, [here, given]))
        assert settings.policy.network == network
        assert settings.algorithm == chosen.algorithm
        assert isinstance(settings.policy, EncodersSection)
        assert (settings.policy.hidden_sizes == (9,)) == (network == "encoders")


def test_numbers_are_encoded_where_that_is_asked_for() -> None:
    chosen = complete(load_settings(None, [POLE, "policy.network=encoders"]))
    assert isinstance(chosen.policy, EncodersSection)
    assert chosen.policy.activation == "relu"  # the default of numbers is that of the multilayer perceptron
    assert not chosen.algorithm.scale_observations
