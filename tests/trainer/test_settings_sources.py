from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rattle.learning.algorithms import A2C, Reinforce
from rattle.trainer.errors import SettingsError
from rattle.trainer.settings import ExperimentSettings
from rattle.trainer.settings_sources import check_settings, load_settings, read_yaml, to_yaml
from tests.trainer.conftest import REPOSITORY

EXPERIMENTS = sorted((REPOSITORY / "shared" / "experiments").glob("*.yaml"))


def test_the_default_experiment_is_snake_yaml() -> None:
    assert load_settings(None) == load_settings(REPOSITORY / "shared" / "experiments" / "snake.yaml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_survives_being_written_down(path: Path) -> None:
    settings = load_settings(path)
    assert settings.name == path.stem
    assert check_settings(yaml.safe_load(to_yaml(settings)), "again") == settings


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1\nname: mine\nenv: {width: 9}\n")
    environ = {"RATTLE_SEED": "2", "RATTLE_ENV__WIDTH": "10", "PATH": "/bin"}
    assert load_settings(file).seed == 1
    settings = load_settings(file, ["env.width=11", "algorithm.learning_rate=0.5"], environ)
    assert (settings.seed, settings.name) == (2, "mine")
    assert settings.env.own_settings["width"] == 11
    assert settings.env.own_settings["height"] == 15  # the environment's own default is written down too
    assert isinstance(settings.algorithm, A2C)
    assert settings.algorithm.learning_rate == 0.5


def test_the_algorithm_is_chosen_by_id() -> None:
    assert isinstance(load_settings(None, ["algorithm.id=reinforce"]).algorithm, Reinforce)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trian.steps=5", "unknown key 'trian': did you mean 'train'?"),
        ("train.step=5", "unknown key 'train.step': did you mean 'steps'?"),
        ("algorithm.learning_rat=1", "unknown key 'algorithm.learning_rat': did you mean 'learning_rate'?"),
        ("algorithm.id=ppo", "unknown 'ppo'; choose one of 'a2c', 'reinforce'"),
        ("env.id=snakes", "unknown environment 'snakes'"),
        ("env.widht=20", "'width'"),
        ("env.width=wide", "width"),
        ("env.worlds=0", "env.worlds: input should be greater than or equal to 1 (got 0)"),
        ("env.num_snakes=9", "num_snakes"),
        ("policy.activation=swish", "policy.activation"),
        ("seed=-1", "seed"),
        ("seed.deeper=1", "seed"),
        ("train.steps", "write it as key=value"),
        ("train=[1", "not a YAML value"),
        ("name=a/b", "name"),
        ("training.policies=[red, red]", "training.policies: names a policy twice"),
        ("inference.index=1", "settings: inference.index counts the processes from 0"),
    ],
)
def test_wrong_settings_are_named_in_one_line(override: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [override])
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_a_wrong_environment_variable_is_an_error() -> None:
    with pytest.raises(SettingsError, match="did you mean 'seed'"):
        load_settings(None, [], {"RATTLE_SEDE": "2"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: 1\nb: [1", "line 2"), ("- 1\n- 2\n", "expected 'key: value' lines"), ("\x00", "YAML"), ("seed: ''", "seed")],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"bad\.yaml") as caught:
        load_settings(file)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        read_yaml(tmp_path / "missing.yaml")


def test_an_empty_file_is_the_default_experiment(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_settings(tmp_path / "empty.yaml") == load_settings(None)


def _described(model: type, seen: set[type]) -> list[str]:
    missing = []
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        inner = [
            t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(t, "model_fields")
        ]
        for choice in inner:
            if choice not in seen:
                missing += _described(choice, seen | {choice})
        if not inner and name != "id" and not field.description:
            missing.append(f"{model.__name__}.{name}")
    return missing


def test_every_setting_is_explained_where_it_stands() -> None:
    assert _described(ExperimentSettings, set()) == []
