"""Algorithms of users, in one process: they train, resume and are told apart by their code; their faults are named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.extensions import ExtensionError
from rattle.learning.errors import LearningError
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.run_tables import read_run_row
from rattle.settings.errors import SettingsError
from rattle.settings.sources import load_settings, read_yaml, to_yaml
from rattle.trainer.train import resume, train
from tests.trainer.conftest import REPOSITORY, Silence, read_rows, small_settings
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

EXAMPLE = (REPOSITORY / "examples" / "extend" / "my_algorithm.py").read_text()
CLIPPED = ("algorithm={id: 'my_algorithm:Clipped', clip: 0.1, ticks: 8}",)

#: A class that goes wrong in the way that a test asks for; in its update, in the second one.
FAULTY = """
    import numpy as np
    import torch
    from dataclasses import replace
    from rattle.extend import A2C, Loss, Metric

    class Mine(A2C):
        metrics = (*A2C.metrics, Metric("own", "", "Anything."))
        fault: str = ""

        def update(self, rollout, optimisation):
            done = super().update(rollout, optimisation)
            if optimisation.version == 0:
                return done
            match self.fault:
                case "raises":
                    raise KeyError("lost")
                case "leaves":
                    raise SystemExit(0)
                case "nothing":
                    return None
                case "unknown":
                    return {**done, "other": 1.0}
                case "nan":
                    return {**done, "own": float("nan")}
                case "text":
                    return {**done, "own": "much"}
                case "a loss of nan":
                    optimisation.step(self.prepare(rollout), self.poisoned, 1e-3)
                case "keeps":
                    self.seen = 1
                case "scalars":
                    return {**done, "own": torch.tensor(2.0), "entropy": np.float32(0.5)}
                case "in place":
                    rollout.reward.mul_(1000)
            return done

        def poisoned(self, policy, value, batch):
            total, sums = super().loss(policy, value, batch)
            return Loss(total, {**sums, "policy_loss": total * float("nan")})

        def prepare(self, rollout):
            batch = super().prepare(rollout)
            match self.fault:
                case "no batch":
                    return None
                case "short batch":
                    return replace(batch, advantage=batch.advantage[1:])
                case "a column":
                    return replace(batch, advantage=batch.advantage[:, None])
                case "an array":
                    return replace(batch, target=batch.target.numpy())
                case "not finite batch":
                    return replace(batch, advantage=batch.advantage * float("inf"))
            return batch

        def loss(self, policy, value, batch):
            total, sums = super().loss(policy, value, batch)
            match self.fault:
                case "a loss for each":
                    total = (value - batch.target) ** 2
                case "no gradient":
                    total = torch.tensor(1.0)
                case "a number":
                    total = 1.0
                case "not finite":
                    total = total * float("nan")
                case "wrong shape":
                    total = (value[:-1] - batch.target).sum()
                case "no loss":
                    return total
            return Loss(total, sums)
"""


def test_the_example_trains_and_is_written_down(user_module: UserModule, tmp_path: Path) -> None:
    user_module("my_algorithm", EXAMPLE)
    directory = RunDirectory(tmp_path / "run")
    summary = train(small_settings(*CLIPPED), directory.path, Silence())
    assert summary.status == "finished"
    rows = read_rows(directory, "updates")
    assert len(rows) == summary.updates > 20
    assert {"held_share"} == set(rows[-1]["metrics"])
    row, config = read_run_row(directory), read_yaml(directory.config)
    assert row["algorithm"] == "my_algorithm:Clipped"
    assert config["algorithm"]["clip"] == 0.1
    [code] = config["code"]
    assert (code["name"], len(code["sha256"])) == ("my_algorithm:Clipped", 64)
    assert row["config"]["code"] == config["code"]


def test_a_run_goes_on_exactly_where_it_stopped(user_module: UserModule, tmp_path: Path) -> None:
    user_module("my_algorithm", EXAMPLE)
    whole = train(small_settings(*CLIPPED), tmp_path / "whole", Silence())
    train(small_settings(*CLIPPED, "train.steps=2000"), tmp_path / "parts", Silence())
    assert resume(str(tmp_path / "parts"), 4608, None, Silence()).policy_sha256 == whole.policy_sha256


def test_changed_code_is_refused_unless_allowed(user_module: UserModule, tmp_path: Path) -> None:
    from rattle.extensions import _source_hash

    module = user_module("my_algorithm", EXAMPLE)
    directory = RunDirectory(tmp_path / "run")
    train(small_settings(*CLIPPED, "train.steps=2000"), directory.path, Silence())
    before = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    module.write_text(f"{EXAMPLE}\n# another\n")
    _source_hash.cache_clear()
    with pytest.raises(SettingsError, match=r"code of 'my_algorithm:Clipped' has changed .* --allow-changed-code"):
        resume(str(directory.path), 4000, None, Silence())
    assert {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()} == before
    assert resume(str(directory.path), 4000, None, Silence(), allow_changed_code=True).env_steps >= 4000
    resume(str(directory.path), 5000, None, Silence())  # what was allowed is what the run has now


def test_without_pytorch_nothing_is_learnt_and_no_class_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    own = ("algorithm={id: 'not_here:Mine', clip: 0.1}", "policy={network: 'not_here:Net', width: 3}")
    settings = small_settings(*own)
    assert settings.algorithm.model_dump(exclude_unset=True) == {"id": "not_here:Mine", "clip": 0.1}
    assert settings.policy.model_dump(exclude_unset=True) == {"network": "not_here:Net", "width": 3}
    assert settings.code == ()
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    assert load_settings(tmp_path / "config.yaml") == settings
    with pytest.raises(ExtensionError, match=r"^algorithm\.id: not_here:Mine needs 'torch': pip install"):
        train(small_settings(own[0]), tmp_path / "run", Silence())
    with pytest.raises(SettingsError, match="there is no algorithm 'pppo'"):
        small_settings("algorithm=pppo")
    with pytest.raises(AnalyticsError, match=r"^policy\.network: Net needs 'torch': pip install"):
        small_settings("policy.network=Net")


def test_a_module_that_is_gone_is_said(
    user_module: UserModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_module("my_algorithm", EXAMPLE)
    train(small_settings(*CLIPPED, "train.steps=2000"), tmp_path / "run", Silence())
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("my_algorithm", "my_lost_algorithm"))
    with pytest.raises(SettingsError, match="cannot import 'my_lost_algorithm'"):
        resume(str(tmp_path / "run"), 4000, None, Silence())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "faulty:Mine: update raised KeyError: 'lost' in faulty.py, line 17"),
        ("leaves", "faulty:Mine: update raised SystemExit: 0"),
        ("nothing", "faulty:Mine: update returned NoneType instead of numbers by name"),
        ("unknown", "faulty:Mine: update returned 'other', which is none of its metrics: entropy, gradient_norm, "),
        (
            "a loss of nan",
            "faulty:Mine: loss: update 2: the policy loss is nan, so the update was not made: look at what",
        ),
        ("nan", "faulty:Mine: update returned nan as own, where a finite number is wanted"),
        ("text", "faulty:Mine: update returned much as own"),
        ("keeps", "update raised AttributeError: 'seen' cannot be set: an algorithm keeps nothing from one update to"),
    ],
)
def test_faults_of_an_update_are_named_and_what_was_learnt_is_kept(
    user_module: UserModule, tmp_path: Path, fault: str, said: str
) -> None:
    user_module("faulty", FAULTY)
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(RattleError) as error:
        train(small_settings(f"algorithm={{id: 'faulty:Mine', fault: {fault}}}"), directory.path, Silence())
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    row = read_run_row(directory)
    assert (row["status"], row["updates"]) == ("failed", 1)
    [failed] = [row for row in read_rows(directory, "logs") if row["event"] == "run_failed"]
    assert said in failed["fields"]
    assert len(list_checkpoints(directory)) == 2
    assert len(read_rows(directory, "updates")) == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("a loss for each", r"faulty:Mine: loss returned a tensor of shape \(384,\) as total"),
        ("no gradient", "faulty:Mine: loss returned a total that does not depend on the policy"),
        ("a number", "faulty:Mine: loss returned float as total"),
        ("no batch", "faulty:Mine: prepare returned NoneType instead of a Batch"),
        ("short batch", r"faulty:Mine: prepare raised ValueError: advantage has the shape \(383,\), and there are 384"),
        ("a column", r"prepare raised ValueError: advantage has the shape \(384, 1\), where \(384,\) is wanted"),
        ("an array", "prepare raised TypeError: target must be a tensor, got ndarray"),
        ("not finite batch", "faulty:Mine: loss: update 1: the policy loss is"),
        ("no loss", r"faulty:Mine: loss returned Tensor instead of Loss\(total, sums\)"),
        ("not finite", "faulty:Mine: loss: update 1: the gradient norm is nan"),
        ("wrong shape", r"faulty:Mine: loss raised RuntimeError: The size of tensor .* in faulty.py, line 6\d"),
    ],
)
def test_faults_of_a_loss_are_named(user_module: UserModule, tmp_path: Path, fault: str, said: str) -> None:
    user_module("faulty", FAULTY)
    with pytest.raises(RattleError, match=said) as error:
        train(small_settings(f"algorithm={{id: 'faulty:Mine', fault: '{fault}'}}"), tmp_path / "run", Silence())
    assert "\n" not in str(error.value)
    assert read_run_row(RunDirectory(tmp_path / "run"))["status"] == "failed"


def test_numbers_of_any_kind_are_reported_and_tables_do_not_follow_what_it_changes(
    user_module: UserModule, tmp_path: Path
) -> None:
    user_module("faulty", FAULTY)
    runs = {fault: RunDirectory(tmp_path / fault) for fault in ("none", "scalars", "in place")}
    for fault, directory in runs.items():
        train(small_settings(f"algorithm={{id: 'faulty:Mine', fault: {fault}}}"), directory.path, Silence())
    last = read_rows(runs["scalars"], "updates")[-1]
    assert (last["metrics"]["own"], last["entropy"]) == (2.0, 0.5)
    plain, changed = ([row["return"] for row in read_rows(runs[one], "episodes")] for one in ("none", "in place"))
    assert changed == plain


def test_a_run_that_failed_goes_on_when_the_code_is_mended(user_module: UserModule, tmp_path: Path) -> None:
    from rattle.extensions import _source_hash

    module = user_module("faulty", FAULTY)
    settings, directory = small_settings("algorithm={id: 'faulty:Mine', fault: raises}"), RunDirectory(tmp_path / "run")
    with pytest.raises(RattleError):
        train(settings, directory.path, Silence())
    module.write_text(module.read_text().replace('raise KeyError("lost")', "pass"))
    del sys.modules["faulty"]
    _source_hash.cache_clear()
    display = Silence()
    said = set[str]()
    display.update = lambda _: said.add(read_run_row(directory)["status"])  # type: ignore[method-assign, assignment]
    summary = resume(str(directory.path), None, None, display, allow_changed_code=True)
    assert (display.resumed_at, summary.status, said) == (1, "finished", {"running"})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("metrics = ('loss',)", "faulty:Mine: metrics must be a tuple of rattle.extend.Metric"),
        ("metrics = (Metric('env_steps', '', ''),)", "faulty:Mine: metrics: 'env_steps' is taken"),
        ("metrics = (Metric('Own loss', '', ''),)", "faulty:Mine: metrics: 'Own loss' must be of small letters"),
        ("ticks: str = 'x'\n    def loss(self): ...", "faulty:Mine: its settings returned 'x' as rollout_ticks"),
        ("width: int", "algorithm.width: a value is wanted"),
    ],
)
def test_classes_that_cannot_be_used_are_refused(user_module: UserModule, source: str, said: str) -> None:
    user_module("faulty", f"from rattle.extend import *\nclass Mine(A2C):\n    {source}\n")
    with pytest.raises(RattleError) as error:
        small_settings("algorithm.id=faulty:Mine")
    assert said in str(error.value)


def test_learning_errors_of_built_in_algorithms_name_no_class(tmp_path: Path) -> None:
    with pytest.raises(LearningError, match=r"^update "):
        train(small_settings("algorithm.learning_rate=1e15", "algorithm.max_gradient_norm=1e15"), tmp_path, Silence())
