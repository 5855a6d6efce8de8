"""Hooks of users, in one process: what they see, ask for, report and keep, and what is said of their faults."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.errors import RattleError
from rattle.extensions import _source_hash
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.run_tables import read_run_row
from rattle.trainer.train import resume, train
from tests.hooks.test_tensorboard import read_events
from tests.trainer.conftest import REPOSITORY, Silence, read_rows, small_settings
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

EXAMPLE = (REPOSITORY / "examples" / "extend" / "my_hook.py").read_text()

#: Writes down what it is told; keeps numbers and arrays; goes wrong where a test asks for it.
WATCHER = """
    import json
    import numpy as np
    from pydantic import BaseModel
    from rattle.extend import Hook, Metric

    class Watcher(Hook):
        class Settings(BaseModel):
            file: str = ""
            fault: str = ""
            value: str = ""

        metrics = (Metric("seen", "", "Updates that were seen."),)

        def __init__(self, settings):
            super().__init__(settings)
            self.seen, self.returns = 0, np.zeros(2)
            self.fail("__init__")

        def fail(self, method):
            if self.settings.fault == method:
                raise RuntimeError("broken\\non purpose")

        def say(self, method, *content):
            if self.settings.file:
                with open(self.settings.file, "a") as file:
                    file.write(json.dumps([method, *content]) + "\\n")
            self.fail(method)

        def on_start(self, run):
            self.say("on_start", run.run_id, str(run.path), run.seed, run.update, run.settings["env"]["worlds"])

        def on_episodes(self, rows):
            self.returns += [len(rows), sum(row["return"] for row in rows)]
            self.say("on_episodes", len(rows), sorted(rows[0]))

        def on_update(self, row):
            self.seen += 1
            match self.settings.fault:
                case "undeclared":
                    self.report(other=1)
                case "not finite":
                    self.report(seen=float("nan"))
                case "leaves":
                    raise SystemExit(0)
                case "writes":
                    row["mean_return"] = 1e9
            self.report(seen=self.seen)
            self.say("on_update", row["policy_version"], self.returns.tolist())

        def on_checkpoint(self, path):
            self.say("on_checkpoint", path.name, path.exists())

        def on_end(self, status):
            self.say("on_end", status)

        def state(self):
            self.fail("state")
            if self.settings.fault == "late state" and self.seen:
                raise RuntimeError("broken late")
            wrong = {"none": None, "tuple": {"a": (1, 2)}, "object": {"a": object()}, "keys": {1: 2},
                     "nan": {"a": float("nan")}, "objects": {"a": np.array([object()])}}
            return wrong.get(self.settings.value, {"seen": self.seen, "returns": self.returns})

        def restore(self, state):
            self.fail("restore")
            self.seen, self.returns = state["seen"], state["returns"]

    class Misspelt(Hook):
        def on_updates(self, row): ...

    class Taken(Hook):
        class Settings(BaseModel):
            use: str = "it"
"""


def lines(file: Path) -> list[str]:
    return [line.split('"')[1] for line in file.read_text().splitlines()]


def test_the_example_ends_a_run_and_its_numbers_are_in_the_tables(user_module: UserModule, tmp_path: Path) -> None:
    user_module("my_hook", EXAMPLE)
    directory = RunDirectory(tmp_path / "run")
    hooks = "hooks=[{use: 'my_hook:StopAtFood', food: 0.01, episodes: 20}]"
    summary = train(small_settings("train.steps=null", "env.food=20", hooks), directory.path, Silence())
    assert summary.status == "finished"
    rows = read_rows(directory, "updates")
    assert all(set(row["metrics"]) in ({"mean_rho"}, {"mean_rho", "mean_food"}) for row in rows)
    assert rows[-1]["metrics"]["mean_food"] >= 0.01
    [ended] = [row for row in read_rows(directory, "logs") if row["event"] == "run_finished"]
    assert "my_hook:StopAtFood has asked it to stop: the last 20 episodes ate" in ended["fields"]
    config = directory.config.read_text()
    assert "episodes: 20" in config
    assert re.search(r"name: my_hook:StopAtFood\n  sha256: [0-9a-f]{64}", config)
    display = Silence()
    assert resume(str(directory.path), 10**6, None, display).updates == summary.updates == display.resumed_at


def test_a_hook_sees_a_run_from_its_start_to_its_end(user_module: UserModule, tmp_path: Path) -> None:
    user_module("watcher", WATCHER)
    display = Silence()
    settings = small_settings(f"hooks=[{{use: 'watcher:Watcher', file: {tmp_path / 'seen'}}}]")
    summary = train(settings, tmp_path / "run", display)
    said = lines(tmp_path / "seen")
    assert said[0] == "on_start"
    assert said[-2:] == ["on_end", "on_checkpoint"]
    assert said.count("on_update") == summary.updates
    assert "on_episodes" in said[1:-2]
    assert [row["metrics"]["seen"] for row in read_rows(RunDirectory(tmp_path / "run"), "updates")] == [
        float(number + 1) for number in range(summary.updates)
    ]
    assert display.progress[-1].metrics["seen"] == summary.updates
    assert "policy_loss" in display.progress[-1].metrics
    text = (tmp_path / "seen").read_text()
    assert '["on_checkpoint", "update-0000000000.safetensors", true]' in text
    assert '["on_end", "finished"]' in text


def test_what_a_hook_keeps_survives_a_stop_exactly(user_module: UserModule, tmp_path: Path) -> None:
    user_module("watcher", WATCHER)

    def hooks(name: str) -> str:
        return f"hooks=[{{use: 'watcher:Watcher', file: {tmp_path / name}}}, {{use: 'watcher:Other'}}]"

    with (tmp_path / "code of a user" / "watcher.py").open("a") as file:
        file.write(
            "\nclass Other(Watcher):\n    metrics = (Metric('other', '', ''),)\n    def on_update(self, row): ...\n"
        )
    whole = train(small_settings(hooks("whole")), tmp_path / "whole run", Silence())
    train(small_settings(hooks("parts"), "train.steps=2000"), tmp_path / "run", Silence())
    parts = resume(str(tmp_path / "run"), 4608, None, Silence())
    assert parts.policy_sha256 == whole.policy_sha256
    updates = [
        [line for line in (tmp_path / name).read_text().splitlines() if "on_update" in line]
        for name in ("whole", "parts")
    ]
    assert updates[0] == updates[1]


@pytest.mark.parametrize(
    ("fault", "said", "updates"),
    [
        ("on_start", r"^watcher:Watcher: on_start raised RuntimeError: broken on purpose in watcher.py, line \d+$", 0),
        ("on_episodes", "^watcher:Watcher: on_episodes raised RuntimeError: broken on purpose", None),
        ("on_update", "^watcher:Watcher: on_update raised RuntimeError: broken on purpose", 1),
        ("on_checkpoint", "^watcher:Watcher: on_checkpoint raised RuntimeError: broken on purpose", None),
        ("on_end", "^watcher:Watcher: on_end raised RuntimeError: broken on purpose", None),
        ("late state", "^watcher:Watcher: state raised RuntimeError: broken late", None),
        ("undeclared", "^watcher:Watcher: on_update raised ValueError: reports 'other', which is none of its", 1),
        ("not finite", "^watcher:Watcher: on_update raised ValueError: reports nan as 'seen'", 1),
        ("leaves", "^watcher:Watcher: on_update raised SystemExit: 0", 1),
        ("writes", "^watcher:Watcher: on_update raised TypeError: 'mappingproxy' object does not support", 1),
    ],
)
def test_what_a_hook_raises_is_one_line_and_what_was_learnt_is_kept(
    user_module: UserModule, tmp_path: Path, fault: str, said: str, updates: int | None
) -> None:
    module = user_module("watcher", WATCHER)
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(RattleError, match=said):
        train(small_settings(f"hooks=[{{use: 'watcher:Watcher', fault: {fault}}}]"), directory.path, Silence())
    row = read_run_row(directory)
    assert row["status"] == "failed"
    assert len(read_rows(directory, "updates")) == row["updates"]
    assert updates in (None, row["updates"])
    if fault != "late state":  # then the last checkpoint is the one before
        assert int(list_checkpoints(directory)[-1].stem.removeprefix("update-")) == row["updates"]
    # When it is mended, the run goes on as if nothing had been.
    module.write_text(module.read_text().replace("raise RuntimeError", "str").replace("raise SystemExit", "str"))
    module.write_text(module.read_text().replace("report(other", "report(seen").replace('float("nan"))', "1)"))
    module.write_text(module.read_text().replace('row["mean_return"] = 1e9', "pass"))
    del sys.modules["watcher"]
    _source_hash.cache_clear()
    summary = resume(str(directory.path), None, None, Silence(), allow_changed_code=True)
    assert summary.status == "finished"
    unharmed = train(small_settings(), tmp_path / "unharmed", Silence())
    assert summary.policy_sha256 == unharmed.policy_sha256


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (
            "{use: 'watcher:Watcher', fault: __init__}",
            "watcher:Watcher: __init__ raised RuntimeError: broken on purpose",
        ),
        ("{use: 'watcher:Watcher', fault: state}", "watcher:Watcher: state raised RuntimeError"),
        ("{use: 'watcher:Watcher', value: none}", "watcher:Watcher: state returned NoneType instead of values"),
        (
            "{use: 'watcher:Watcher', value: tuple}",
            r"watcher:Watcher: state returned \(1, 2\) as 'a', which is no",
        ),
        ("{use: 'watcher:Watcher', value: object}", "watcher:Watcher: state returned <object .* as 'a'"),
        ("{use: 'watcher:Watcher', value: keys}", "watcher:Watcher: state returned 2 as '1'"),
        ("{use: 'watcher:Watcher', value: nan}", "watcher:Watcher: state returned nan as 'a'"),
        ("{use: 'watcher:Watcher', value: objects}", r"watcher:Watcher: state returned array\(\[<object .* as 'a'"),
        (
            "{use: 'watcher:Watcher', fil: x}",
            r"hooks\[0\]: bad settings of watcher:Watcher: unknown key 'fil', did you",
        ),
        (
            "{use: 'watcher:Watcher', file: 3}",
            r"hooks\[0\]: bad settings of watcher:Watcher: file: text is wanted, got 3",
        ),
        ("{use: 'watcher:Wacher'}", r"hooks\[0\]: 'watcher' has no class 'Wacher', did you mean 'Watcher'"),
        (
            "{use: 'watcher:BaseModel'}",
            r"hooks\[0\]: 'watcher:BaseModel' is not a hook: .* subclass of rattle.extend.Hook",
        ),
        ("{use: watcher}", r"hooks\[0\]: there is no hook 'watcher'"),
        (
            "{use: 'watcher:Misspelt'}",
            r"hooks\[0\]: watcher:Misspelt: nobody calls the method on_updates, did you mean 'on_update'",
        ),
        ("{use: 'watcher:Taken'}", r"hooks\[0\]: watcher:Taken: Settings: 'use' is a setting of Rattle's own"),
        ("{uses: 'watcher:Watcher'}", r"hooks\[0\].use: a value is wanted"),
        (
            "{use: 'watcher:Watcher'}, {use: 'watcher:Watcher'}",
            r"hooks\[1\]: watcher:Watcher: metrics: 'seen' is taken",
        ),
    ],
)
def test_hooks_that_cannot_be_had_leave_no_run(user_module: UserModule, tmp_path: Path, hook: str, said: str) -> None:
    user_module("watcher", WATCHER)
    with pytest.raises(RattleError, match=said) as error:
        train(small_settings(f"hooks=[{hook}]"), tmp_path / "run", Silence())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_hook_that_cannot_go_on_leaves_the_run_as_it_was(user_module: UserModule, tmp_path: Path) -> None:
    user_module("watcher", WATCHER)
    hooks = "hooks=[{use: 'watcher:Watcher', fault: restore}]"
    train(small_settings(hooks, "train.steps=2000"), tmp_path / "run", Silence())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RattleError, match=r"^watcher:Watcher: restore raised RuntimeError: broken on purpose"):
        resume(str(tmp_path / "run"), 4608, None, Silence())
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_hook_without_settings_is_a_name(user_module: UserModule) -> None:
    user_module("watcher", WATCHER)
    [hook] = small_settings("hooks=['watcher:Watcher']").hooks
    assert (hook.use, hook.own_settings) == ("watcher:Watcher", {"file": "", "fault": "", "value": ""})


def test_hooks_may_be_added_and_taken_away(user_module: UserModule, tmp_path: Path) -> None:
    user_module("watcher", WATCHER)
    directory = RunDirectory(tmp_path / "run")
    train(small_settings("train.steps=2000"), directory.path, Silence())
    config = directory.config.read_text()
    directory.config.write_text(config.replace("hooks: []", "hooks: [{use: 'watcher:Watcher'}]"))
    resume(str(directory.path), 3000, None, Silence())
    assert read_rows(directory, "updates")[-1]["metrics"] == {"mean_rho": 1.0, "seen": 2.0}
    directory.config.write_text(config)
    assert resume(str(directory.path), 4608, None, Silence()).status == "finished"


def test_hooks_see_evaluations_and_what_those_before_them_report(user_module: UserModule, tmp_path: Path) -> None:
    user_module(
        "two",
        """
        import json
        from rattle.extend import Hook, Metric

        class First(Hook):
            metrics = (Metric("first", "", "A number."),)
            def on_update(self, row):
                assert "second" not in row["metrics"]
                self.report(first=row["policy_version"])

        class Second(Hook):
            metrics = (Metric("second", "", "Evaluations so far."),)
            def on_start(self, run):
                self.rows = []
            def on_evaluation(self, row):
                self.rows.append({**row, "metrics": dict(row["metrics"])})
            def on_update(self, row):
                assert row["metrics"]["first"] == row["policy_version"]
                assert row["run_id"] and row["time"]
                self.report(second=len(self.rows))
            def on_end(self, status):
                with open(self.path, "w") as file:
                    file.write(json.dumps(self.rows))
            path = "rows"
        """,
    )
    directory = RunDirectory(tmp_path / "run")
    hooks = "hooks=['two:First', 'two:Second', tensorboard]"
    train(small_settings(hooks, "evaluation.every_steps=1000", "evaluation.episodes=4"), directory.path, Silence())
    evaluated = read_rows(directory, "evaluations")
    seen = json.loads(Path("rows").read_text())
    assert seen == [row for row in evaluated if row["policy_version"] in {one["policy_version"] for one in seen}]
    assert seen
    assert all({"first", "second"} <= set(row["metrics"]) for row in read_rows(directory, "updates"))
    [file] = (directory.path / "tensorboard").iterdir()
    shown = {value.tag for event in read_events(file) for value in event.summary.value}
    assert {"learning/first", "learning/second", "evaluations/mean_return"} <= shown
