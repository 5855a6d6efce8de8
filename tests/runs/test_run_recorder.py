"""What is written down of a run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from rattle.policies.file import StoredPolicy, dump_policy
from rattle.runs import run_recorder
from rattle.services.training.opening import open_loops
from tests.trainer.conftest import small_settings


def test_a_policy_file_that_went_out_is_stored_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def count(policy: StoredPolicy) -> bytes:
        made.append(policy.version)
        return dump_policy(policy)

    with ExitStack() as stack:
        run = open_loops(small_settings(), tmp_path / "run", "lineage", stack)["main"].run
        stack.callback(run.close)
        monkeypatch.setattr(run_recorder, "dump_policy", count)
        assert run.policy().file is run.policy().file
        run.recorder.checkpoint("running", lambda: ({}, {"first_tick": 0, "intake": {}}))
        run.recorder.stored()
        assert made == []
        assert run.recorder.directory.policy.read_bytes() == run.policy().file
