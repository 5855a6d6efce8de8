"""Networks of users, in whole runs: what goes wrong in one names it, and leaves the last checkpoint as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.envs.errors import EnvError
from rattle.extensions import ExtensionError
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.run_tables import read_run_row
from rattle.settings.errors import SettingsError
from rattle.trainer.train import resume, train
from tests.trainer.conftest import Silence, small_settings
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

#: A network that goes wrong in the way that a test asks for, when it learns from many rows.
FAULTY = """
    import torch
    from torch import nn
    from pydantic import BaseModel
    from rattle.extend import Network

    class Faulty(Network):
        class Settings(BaseModel):
            fault: str = ""
            from_update: int = 2

        def __init__(self, spaces, settings):
            super().__init__(spaces, settings)
            self.policy = nn.Linear(spaces.observation.inputs, spaces.action.outputs)
            self.value = nn.Linear(spaces.observation.inputs, 1)
            self.calls = 0

        def step(self, observation, state):
            seen = self.encode(observation)
            outputs, value = self.policy(seen), self.value(seen).squeeze(1)
            self.calls += len(observation) > 100
            if self.calls >= self.settings.from_update:
                match self.settings.fault:
                    case "raises":
                        raise KeyError("lost")
                    case "nan":
                        outputs = outputs * float("nan")
                    case "shape":
                        value = value.unsqueeze(1)
                    case "dtype":
                        outputs = outputs.double()
                    case "leaves":
                        raise SystemExit(3)
            return outputs, value, state
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "faulty:Faulty: step raised KeyError: 'lost' in faulty.py, line "),
        ("nan", "faulty:Faulty: step returned numbers that are not finite"),
        ("shape", r"faulty:Faulty: step returned the values as torch.float32 \(384, 1\)"),
        ("dtype", "faulty:Faulty: step returned the outputs as torch.float64"),
        ("leaves", "faulty:Faulty: step raised SystemExit: 3"),
    ],
)
def test_what_goes_wrong_later_names_it_and_keeps_what_was_learnt(
    user_module: UserModule, tmp_path: Path, fault: str, said: str
) -> None:
    user_module("faulty", FAULTY)
    directory = RunDirectory(tmp_path / "run")
    settings = small_settings("policy={}", f"policy={{network: 'faulty:Faulty', fault: {fault}}}")
    with pytest.raises(ExtensionError, match=said) as caught:
        train(settings, directory.path, Silence())
    assert "\n" not in str(caught.value)
    row = read_run_row(directory)
    assert (row["status"], row["updates"]) == ("failed", 1)
    assert list_checkpoints(directory)


def test_a_run_goes_on_with_the_code_that_it_began_with(user_module: UserModule, tmp_path: Path) -> None:
    user_module("faulty", FAULTY)
    own = ("policy={}", "policy={network: 'faulty:Faulty'}")
    whole = train(small_settings(*own), tmp_path / "whole", Silence())
    train(small_settings(*own, "train.steps=2000"), tmp_path / "parts", Silence())
    assert resume(str(tmp_path / "parts"), 4608, None, Silence()).policy_sha256 == whole.policy_sha256


def test_what_is_no_network_is_said_before_a_run_begins(user_module: UserModule, tmp_path: Path) -> None:
    user_module("faulty", FAULTY)
    for network, said in (
        ("faulty:Missing", "policy.network: 'faulty' has no class 'Missing'"),
        ("faulty:nn", "'faulty:nn' is no class, but a module: a network is a subclass of rattle.extend.Network"),
        ("json:JSONDecoder", "'json:JSONDecoder' is not a network"),
        ("perceptron", "there is no network 'perceptron': there are mlp"),
        ("missing_module:Own", "cannot import 'missing_module'"),
    ):
        with pytest.raises(SettingsError, match=said):
            small_settings("policy={}", f"policy.network={network}")
    with pytest.raises(EnvError, match="bad settings of faulty:Faulty: unknown key 'wdth'"):
        small_settings("policy={}", "policy={network: 'faulty:Faulty', wdth: 3}")
    assert not list(tmp_path.glob("run*"))
