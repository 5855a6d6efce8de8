"""What is said of several runs, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rattle.launch.compare import AgreedTick
from rattle.launch.verify_report import Outcome, PolicyOutcome, VerifyReport
from tests.launch.test_compare import curves, history_of, truth


def outcome(
    ticks: int = 20,
    changed: tuple[str, int] | None = None,
    policies: Mapping[str, PolicyOutcome] | None = None,
    disagreements: Sequence[Mapping[str, Any]] = (),
) -> Outcome:
    return Outcome(
        inference=2,
        loss=0.25,
        delay_seconds=0.001,
        worlds=("env-0",),
        history=history_of(truth(ticks, changed)),
        policies=policies or {"main": policy("ab")},
        seconds=4.0,
        datagrams={"sent": 100, "repeated": 1234},
        disagreements=disagreements,
        restarts=0,
    )


def policy(sha256: str, updates: int = 5, changed: tuple[str, int] | None = None) -> PolicyOutcome:
    return PolicyOutcome(sha256 * 32, updates, curves(updates, changed))


def test_equal_runs_agree() -> None:
    report = VerifyReport([outcome(), outcome(), outcome()])
    history = report.outcomes[0].history.digest()
    assert report.agree
    assert list(report.lines()) == ["All 3 runs agree.", f"history {history}", f"policy {'ab' * 32}"]
    content = json.loads(json.dumps(report.as_dict()))
    assert (content["agree"], content["difference"], content["different_policies"]) == (True, None, {})
    assert [run["history_sha256"] for run in content["runs"]] == [history] * 3


def test_a_run_is_a_line() -> None:
    one = outcome()
    assert one.line() == (
        f"20 ticks in 0:04 (5/s), 2 inference, loss 25%, 1,234 datagrams repeated; "
        f"history {one.history.digest()[:12]}, policy abababababab after 5 updates"
    )


def test_worlds_and_agents_that_differ_are_named_with_the_runs() -> None:
    runs = [outcome(), outcome(changed=("env-0", 9)), outcome(changed=("main-2", 9))]
    report = VerifyReport(runs)
    assert not report.agree
    verdict, first, world, agent = report.lines()
    assert verdict == "The runs do not agree."
    assert first == "The first difference is in tick 9, phase step, as the worlds say:"
    hashes = [run.history.moments[AgreedTick(9, by_agents=False)] for run in runs]
    assert world == f"  world env-0 is {hashes[0]['env-0']} in runs 1 and 3, {hashes[1]['env-0']} in run 2"
    assert agent == f"  agent main-2 is {hashes[0]['main-2']} in runs 1 and 2, {hashes[2]['main-2']} in run 3"
    found = report.as_dict()["difference"]
    assert (found["tick"], found["phase"], set(found["agents"]), set(found["worlds"])) == (
        *(9, "step"),
        *({"main-2"}, {"env-0"}),
    )


def test_histories_that_end_at_another_tick_do_not_agree() -> None:
    report = VerifyReport([outcome(20), outcome(17), outcome(20)])
    assert not report.agree
    assert list(report.lines()) == [
        "The runs do not agree.",
        "the histories end with tick 20 in runs 1 and 3, tick 17 in run 2",
    ]


def test_policies_that_differ_are_named_with_the_version_since_which() -> None:
    same, other = {"main": policy("ab")}, {"main": policy("cd", changed=("entropy", 4))}
    report = VerifyReport([outcome(policies=same), outcome(policies=other)])
    assert not report.agree
    assert list(report.lines())[1:] == [
        "policy is abababababab after 5 updates in run 1, cdcdcdcdcdcd after 5 updates in run 2, which differ from "
        "version 4 on"
    ]
    assert report.as_dict()["different_policies"] == {"main": {"since_version": 4}}


def test_a_policy_that_differs_though_all_updates_are_equal_has_no_version() -> None:
    report = VerifyReport([outcome(policies={"main": policy(sha)}) for sha in ("ab", "cd")])
    assert list(report.lines())[1:] == [
        "policy is abababababab after 5 updates in run 1, cdcdcdcdcdcd after 5 updates in run 2"
    ]


def test_each_of_several_policies_is_named() -> None:
    policies = {"hare": policy("ab"), "fox": policy("cd")}
    report = VerifyReport([outcome(policies=policies), outcome(policies={**policies, "fox": policy("cd", 6)})])
    assert report.different_policies == ["fox"]
    assert list(report.lines())[-1].startswith("policy fox is cdcdcdcdcdcd after 5 updates in run 1, ")
    assert "policy hare abababababab after 5 updates, policy fox cd" in report.outcomes[0].line()
    agreed = VerifyReport([outcome(policies=policies), outcome(policies=policies)])
    assert list(agreed.lines())[2:] == [f"policy hare {'ab' * 32}", f"policy fox {'cd' * 32}"]


def test_members_of_a_run_that_disagree_are_a_fault_even_where_all_runs_are_equal() -> None:
    found = {"subject": "main-1", "tick": 7, "members": ["env-0", "inference-1"], "hashes": ["aa", "bb"]}
    report = VerifyReport([outcome(disagreements=[found]), outcome(disagreements=[found])])
    assert not report.agree
    assert list(report.lines())[1:] == [
        f"run {number}: env-0 and inference-1 disagree about main-1 from tick 7 on" for number in (1, 2)
    ]


def test_a_run_with_two_histories_of_one_moment_agrees_with_none() -> None:
    twice = outcome()
    twice.history.add(AgreedTick(3, by_agents=True), {"main-0": "ff"})
    report = VerifyReport([outcome(), twice])
    assert not report.agree
    assert "run 2: main-0 has two histories in tick 3, phase act: " in list(report.lines())[-1]
