from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from rattle.extensions import _source_hash
from rattle.learning.algorithms import A2C, Reinforce
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import check_settings, load_settings, read_yaml, to_yaml
from rattle.tokens import keep_token, make_token, token_for
from tests.trainer.conftest import REPOSITORY
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

EXPERIMENTS = sorted((REPOSITORY / "shared" / "experiments").glob("*.yaml"))


def test_the_default_experiment_is_snake_yaml() -> None:
    assert load_settings(None) == load_settings(REPOSITORY / "shared" / "experiments" / "snake.yaml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_survives_being_written_down(path: Path) -> None:
    settings = load_settings(path)
    assert settings.experiment == path.stem
    assert check_settings(yaml.safe_load(to_yaml(settings)), "again") == settings


@pytest.mark.parametrize(
    ("environment", "experiment"),
    [
        ("snake", "snake"),
        ("gym:CartPole-v1", "cartpole"),
        ("gym:rattle.envs:rattle/Snake-v0", "snake"),
        ("gym:Blackjack-v1", "blackjack"),
        ("pettingzoo:tests.envs.parallel_party", "parallel_party"),
        ("pettingzoo:rattle.envs.snake.pettingzoo_env", "pettingzoo_env"),
    ],
)
def test_runs_are_named_after_their_environment_unless_they_have_a_name(environment: str, experiment: str) -> None:
    settings = ExperimentSettings.model_validate({"env": {"id": environment}})
    assert settings.experiment == experiment
    assert check_settings(yaml.safe_load(to_yaml(settings)), "again").experiment == experiment
    assert settings.model_copy(update={"name": "mine"}).experiment == "mine"


@pytest.mark.parametrize("odd", ["gym:ns/Größe 7-v0", "server's own thing", "gym:", "x" * 300])
def test_any_environment_gives_a_name_that_a_folder_can_have(odd: str) -> None:
    name = ExperimentSettings.model_validate({"env": {"id": odd}}).experiment
    assert ExperimentSettings(name=name).name == name


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
        ("trian.steps=5", "unknown key 'trian', did you mean 'train'"),
        ("train.step=5", "unknown key 'train.step', did you mean 'steps'?"),
        ("algorithm.learning_rat=1", "unknown key 'algorithm.learning_rat', did you mean 'learning_rate'?"),
        ("algorithm.id=a3c", "algorithm.id: there is no algorithm 'a3c', did you mean 'a2c'?"),
        ("env.id=snakes", "unknown environment 'snakes'"),
        ("env.widht=20", "'width'"),
        ("env.width=wide", "width"),
        ("env.worlds=0", "env.worlds: at least 1 is wanted, got 0"),
        ("env.num_snakes=9", "num_snakes"),
        ("policy.activation=swish", "policy.activation"),
        ("seed=-1", "seed"),
        ("seed.deeper=1", "seed"),
        ("train.steps", "write a key, = and a value"),
        ("train=[1", "not valid YAML"),
        ("train=" + "{a: " * 1500, "nested too deeply"),
        ("name=\udcfc", "name: text is wanted, got"),
        ("name=a/b", "name: the text must match ^[A-Za-z0-9._-]+$, as 'snake' does, got 'a/b'"),
        ("name=123", """name: text is wanted, got 123, which is text in quotes only: "123", or --set name='"123"'"""),
        ("name=yes", "--set name=yes: 'yes' is truth to some and text to others"),
        ("env.worlds=", "--set env.worlds=: a value is missing"),
        ("env.width=true", "width: a whole number is wanted, such as 15, got 'true'"),
        ("algorithm.discount=true", "algorithm.discount: a number is wanted, such as 0.99, got 'true'"),
        ("env.processes=0", "env.processes: at least 1 is wanted, or 'auto', got 0"),
        ("env.processes=x", "env.processes: a whole number is wanted, such as 4, or 'auto', got 'x'"),
        ("env_service.processes=1.5", "env_service.processes: a whole number is wanted, such as 4, or 'auto', got 1.5"),
        ("train=5", "train: a section with keys of its own is wanted, such as train.steps=40000000, got 5"),
        ("algorithm=a3c", "algorithm.id: there is no algorithm 'a3c', did you mean 'a2c'?"),
        ("policy.hidden_sizes=64,64", "a list is wanted, such as [64, 64], got '64,64': write [64, 64]"),
        ("policy.hidden_sizes=64 64", "a list is wanted, such as [64, 64], got '64 64': write [64, 64]"),
        ("policy.hidden_sizes=[64,true]", "policy.hidden_sizes[1]: a whole number is wanted"),
        ("algorithm.id=null", "algorithm.id: choose one of 'a2c', 'ppo', 'reinforce', got null"),
        ("algorithm.id=7", "algorithm.id: choose one of 'a2c', 'ppo', 'reinforce', got 7"),
        ("training.policies=[1]", 'training.policies[0]: text is wanted, got 1, which is text in quotes only: "1"'),
        (
            "training.policies=[]",
            "training.policies: a list with at least 1 is wanted, such as [main], got an empty list",
        ),
        ("env.urll=3", "unknown key 'urll', did you mean 'url'?"),
        (
            "env.url=ftp://user:secret@host",
            "env.url: 'ftp://host' is no server's address: write it as http://HOST:PORT",
        ),
        ("training.policies=[red, red]", "training.policies: names a policy twice"),
        (
            "security.allowed_hosts=['http://gpu-box:5000']",
            "security.allowed_hosts[0]: is no name of a host, such as gpu-box or gpu-box.example.org: without a scheme",
        ),
        ("inference.index=1", "settings: inference.index counts the processes from 0"),
    ],
)
def test_wrong_settings_are_named_in_one_line(override: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [override])
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e6", 1_000_000),
        ("1.5e6", 1_500_000),
        ("1_000_000", 1_000_000),
        ("1000000.0", 1_000_000),
        ("010", 10),
        ("0x10", 16),
        ("null", None),
        ("~", None),
        ("1:30", "got '1:30'"),
        ("true", "got 'true'"),
        ("yes", "write true or false, or the text in quotes"),
        ("1.5", "a whole number is wanted"),
        ("10k", "a whole number is wanted"),
        ("None", "nothing is written null"),
        ("1e999", "a finite number is wanted"),
    ],
)
def test_a_number_is_the_same_from_every_source(tmp_path: Path, text: str, expected: int | str | None) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"train:\n  steps: {text}\n")
    for path, overrides, environ in (
        (file, [], {}),
        (None, [f"train.steps={text}"], {}),
        (None, [], {"RATTLE_TRAIN__STEPS": text}),
    ):
        if isinstance(expected, str):
            with pytest.raises(SettingsError, match=expected):
                load_settings(path, overrides, environ)
        else:
            steps = load_settings(path, overrides, environ).train.steps
            assert (steps, type(steps)) == (expected, type(expected))


@pytest.mark.parametrize(
    "text", ["::", "::1", "fe80::1%eth0", "a: b", "# x", "- 1", "*", "!x", "2026-01-01", "1:30", "|"]
)
def test_text_that_is_no_list_or_quotation_is_taken_as_it_stands(text: str) -> None:
    assert load_settings(None, [f"env_service.host={text}"]).env_service.host == text
    assert load_settings(None, [], {"RATTLE_ENV_SERVICE__HOST": text}).env_service.host == text


def test_an_address_in_brackets_is_text() -> None:
    assert load_settings(None, ["sync.address=[::1]:5555"]).sync.address == "[::1]:5555"


@pytest.mark.parametrize("text", ["yes", "1", "010", "1e6", "null", "", "a: b", "[", "::", "on"])
def test_flags_need_no_reading(text: str) -> None:
    settings = load_settings(None, flags={"env_service.host": text, "training.policies": ("1", "no"), "seed": None})
    assert (settings.env_service.host, settings.training.policies) == (text, ("1", "no"))
    assert check_settings(yaml.safe_load(to_yaml(settings)), "YAML 1.1") == settings


@pytest.mark.parametrize("name", ["1e6", "010", "yes", "1_0", "0x1f", "1.5e6", "true"])
def test_a_name_that_looks_like_something_else_survives_being_written_down(tmp_path: Path, name: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_settings(None, flags={"name": name})))
    assert load_settings(file).name == name


def test_what_has_no_value_is_not_said(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  # steps: 5\nenv:\n  width:\nseed: 3\n")
    assert load_settings(file, [], {"RATTLE_TRAIN__STEPS": "", "RATTLE_SEED": " "}) == load_settings(None, ["seed=3"])


def test_merge_keys_bring_what_a_mapping_lacks(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("env: {<<: {width: 9, height: 9}, height: 8}\n")
    assert {name: load_settings(path).env.own_settings[name] for name in ("width", "height")} == {
        "width": 9,
        "height": 8,
    }


def test_a_key_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {steps: 5}\nseed: 1\ntrain: {seconds: 5}\n")
    with pytest.raises(SettingsError, match=r"mine.yaml, line 3: the key 'train' is there twice"):
        load_settings(file)


def test_short_forms_keep_what_else_is_said() -> None:
    algorithm = load_settings(None, ["algorithm.discount=0.5", "algorithm=reinforce"]).algorithm
    assert isinstance(algorithm, Reinforce)
    assert algorithm.discount == 0.5


def test_a_wrong_environment_variable_is_an_error() -> None:
    with pytest.raises(SettingsError, match="did you mean 'seed'"):
        load_settings(None, [], {"RATTLE_SEDE": "2"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [1", "line 2"),
        ("- 1\n- 2\n", "expected lines such as 'seed: 7'"),
        ("\x00", "YAML"),
        ("seed: ''", "seed"),
        (f"train: {'[' * 3000}", "lists or sections are nested too deeply"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"bad\.yaml") as caught:
        load_settings(file)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_blamed_for_its_own_mistakes_only(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {steps: 0}")
    for overrides, expected in (
        ([], f"{file}: train.steps: at least 1 is wanted, got 0"),
        (["train.steps=-1"], "settings: train.steps: at least 1 is wanted, got -1"),
        (["train.steps=5", "seed=x"], "settings: seed: a whole number is wanted, such as 0, got 'x'"),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(file, overrides)
        assert str(caught.value) == expected


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


@pytest.mark.parametrize("environment", ["gym:only_there:Pond-v0", "pettingzoo:only_there", "only_there:Pond"])
def test_who_plays_nothing_needs_no_package_of_the_environment(environment: str) -> None:
    override = f"env={{id: '{environment}', depth: 3}}"
    settings = load_settings(None, [override], plays=False)
    assert (settings.env.id, settings.env.own_settings) == (environment, {"depth": 3})
    assert load_settings(None, plays=False) == load_settings(None)
    with pytest.raises(SettingsError, match="cannot import 'only_there'"):
        load_settings(None, [override])
    for wrong in ("env={id: 'gym:Pond-v0'}", "env.widht=3", "hooks=[{use: 'only_there:Hook'}]"):
        with pytest.raises(SettingsError):
            load_settings(None, [wrong], plays=False)


@pytest.mark.parametrize("is_own", [True, False])
def test_a_server_elsewhere_is_sent_the_token_that_the_user_names_and_not_that_of_a_run(
    tmp_path: Path, is_own: bool
) -> None:
    path = tmp_path / ".token"
    token = make_token(path)
    environ = {"RUN_DIR": str(tmp_path if is_own else tmp_path / "other")}
    try:
        load_settings(None, [f"security.token_file={path}", "env.url=http://elsewhere:5000/"], environ)
        assert token_for("http://elsewhere:5000") == (None if is_own else token)
        assert token_for("127.0.0.1:50051") == token
        load_settings(None, [], {})
        assert token_for("127.0.0.1:50051") is None
    finally:
        keep_token(None)


def test_wrappers_of_a_user_are_code_of_a_run_and_those_of_gymnasium_are_not(user_module: UserModule) -> None:
    path = user_module("around", "import gymnasium\n\nclass Around(gymnasium.Wrapper): ...\n")
    wrappers = "env.wrappers=[TimeAwareObservation, {use: 'around:Around'}]"
    settings = load_settings(None, ["env.id=gym:CartPole-v1", wrappers])
    assert settings.env.own_settings["wrappers"] == [{"use": "TimeAwareObservation"}, {"use": "around:Around"}]
    assert [code.name for code in settings.code] == ["around:Around"]
    stored = yaml.safe_load(to_yaml(settings))
    assert check_settings(stored, "again") == settings
    path.write_text(path.read_text() + "# changed\n")
    _source_hash.cache_clear()
    with pytest.raises(SettingsError, match="the code of 'around:Around' has changed since the run began"):
        check_settings(stored, "again")
    path.unlink()
    del sys.modules["around"]
    with pytest.raises(SettingsError, match=r"again: env: wrappers\[1\]: cannot import 'around', which should hold"):
        check_settings(stored, "again")
    assert check_settings({**stored, "code": []}, "again", plays=False).env == settings.env


def test_an_experiment_s_wrappers_are_named_by_their_place() -> None:
    for wrapper, said in (
        ("{use: TimeLimit, steps: 3}", r"settings: env: wrappers\[0\]: bad settings of gymnasium.wrappers:TimeLimit: "),
        ("{used: TimeLimit}", r"settings: env.wrappers\[0\].use: a value is wanted"),
        ("7", r"settings: env.wrappers\[0\]: a section with keys of its own is wanted, got 7"),
    ):
        with pytest.raises(SettingsError, match=said) as caught:
            load_settings(None, ["env.id=gym:CartPole-v1", f"env.wrappers=[{wrapper}]"])
        assert "\n" not in str(caught.value)


def test_experiments_may_call_the_mode_as_it_was_called() -> None:
    assert ExperimentSettings.model_validate({"training": {"mode": "sync"}}).training.mode == "on_policy"
    with pytest.raises(SettingsError, match="on_policy"):
        check_settings({"training": {"mode": "other"}}, "an experiment")
