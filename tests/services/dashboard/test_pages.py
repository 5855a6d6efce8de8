"""What the pages show of run directories, and what they say of those that cannot be read."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rattle.analytics.replay import episodes
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.runs import row
from rattle.envs.snake.settings import SnakeSettings
from rattle.samples.spaces import MultiDiscreteSpace
from rattle.services.dashboard import compare_page, directories
from tests.analytics.build import make_run, record_snake, record_steps, steps_columns, update_row, write_rows
from tests.services.dashboard.build import Client, log, make_full_run, store_policy


def page(client: Client, path: str, expect: int = 200, **params: Any) -> str:
    answer = client.ask(path, **params)
    assert answer.status_code == expect, said(answer.text)
    return answer.text


def said(text: str) -> str:
    """Return what a reader sees, as one line."""
    body = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", text.partition("<main")[2], flags=re.DOTALL)
    return " ".join(html.unescape(body).split())


def embedded(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def listed(text: str) -> list[str]:
    return re.findall(r'<th scope="row"><a [^>]*>([^<]+)</a>', text)


@pytest.fixture
def three(root: Path) -> list[str]:
    names = ["a-run", "b-run", "c-run"]
    for name, rate, seed in zip(names, (0.001, 0.001, 0.01), (1, 2, 1), strict=True):
        make_full_run(root, name, rate=rate, seed=seed, mean_return=rate * 1000 + seed)
    return names


class TestRuns:
    def test_an_empty_folder_says_what_to_do(self, client: Client) -> None:
        assert "Start one with rattle train" in said(page(client, "/"))

    def test_a_folder_that_is_not_there_is_empty(self, client: Client, root: Path) -> None:
        root.rmdir()
        assert "No runs yet" in said(page(client, "/"))

    def test_runs_are_filtered_by_text_column_and_setting(self, client: Client, root: Path, three: list[str]) -> None:
        make_run(root, "other", environment="gym:CartPole-v1", status="failed")
        assert sorted(listed(page(client, "/"))) == [*three, "other"]
        assert listed(page(client, "/", q="B-RU")) == ["b-run"]
        assert listed(page(client, "/", status="failed")) == ["other"]
        assert listed(page(client, "/", environment="gym:CartPole-v1")) == ["other"]
        assert listed(page(client, "/", where="algorithm.learning_rate > 0.005")) == ["c-run"]
        assert sorted(listed(page(client, "/", where="algorithm.learning_rate<=1e-3, seed != 2"))) == ["a-run"]
        assert "No run fits" in page(client, "/", q="nothing like it")

    @pytest.mark.parametrize(
        "where",
        [
            "policy.hidden_sizes = [64, 64]",
            "policy.hidden_sizes=[64,64], seed = 1",
            "name = a, policy.hidden_sizes = [64, 64]",
            'names = ["a, b", "]"], seed = 1',
            'text = "a, b", seed = 1',
            "policy.hidden_sizes != [32, 64], seed < 2",
            "text != [a",
        ],
    )
    def test_conditions_on_lists_and_texts_with_commas(self, client: Client, root: Path, where: str) -> None:
        sizes: Any = {"hidden_sizes": [64, 64]}
        make_run(root, "a", config={"policy": sizes, "name": "a", "names": ["a, b", "]"], "text": "a, b"})
        make_run(root, "b", config={"policy": {"hidden_sizes": [32, 64]}, "text": "[a"}, seed=2)
        assert listed(page(client, "/", where=where)) == ["a"]

    def test_runs_are_sorted_by_columns_and_settings(self, client: Client, root: Path, three: list[str]) -> None:
        make_run(root, "none-yet", mean_return=None)
        assert listed(page(client, "/", sort="-mean_return")) == ["c-run", "b-run", "a-run", "none-yet"]
        assert listed(page(client, "/", sort="mean_return")) == ["a-run", "b-run", "c-run", "none-yet"]
        assert listed(page(client, "/", sort="-algorithm.learning_rate"))[0] == "c-run"

    def test_settings_can_be_columns(self, client: Client, three: list[str]) -> None:
        text = page(client, "/", column=["algorithm.learning_rate", "no.such"])
        assert ">learning_rate" in text
        assert '<td class="n">0.01</td>' in text

    def test_a_wrong_condition_is_explained(self, client: Client, three: list[str]) -> None:
        assert "'what is this' is no condition" in said(page(client, "/", expect=400, where="what is this"))
        assert "'nonsense' is no condition" in said(page(client, "/", expect=400, where="nonsense", q="zzz"))

    def test_a_damaged_run_is_listed_as_such(self, client: Client, root: Path) -> None:
        make_run(root, "broken").run.write_text("{")
        text = page(client, "/")
        assert listed(text) == ["broken"]
        assert "damaged" in said(text)
        assert "damaged" in said(page(client, "/run", run="broken"))

    def test_a_run_that_is_called_like_code_stays_text(self, client: Client, root: Path) -> None:
        make_run(root, "x", run_id="<script>alert(1)</script>", experiment="</script>")
        text = page(client, "/")
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text


class TestCompare:
    def test_without_runs_they_can_be_chosen(self, client: Client, three: list[str]) -> None:
        text = page(client, "/compare")
        assert re.findall(r'name="run" value="([^"]+)"', text) == ["c-run", "b-run", "a-run"]

    def test_each_run_is_a_line(self, client: Client, three: list[str]) -> None:
        chart = embedded(page(client, "/compare", run=three, smooth=0), "charts")["curves"]
        assert [trace["name"] for trace in chart["data"]] == three
        assert chart["data"][0]["x"][:2] == [16384, 24576]  # the first update knows no mean return

    def test_runs_that_agree_in_a_setting_are_a_line_with_a_band(self, client: Client, three: list[str]) -> None:
        text = page(client, "/compare", run=three, group="algorithm.learning_rate", smooth=0)
        data = embedded(text, "charts")["curves"]["data"]
        assert [(trace["name"], trace.get("fill")) for trace in data] == [
            ("learning_rate=0.001 (2 runs)", None),
            ("learning_rate=0.001 (2 runs)", "tonexty"),
            ("learning_rate=0.001 (2 runs)", None),
            ("learning_rate=0.01 (1 run)", None),
        ]
        assert embedded(page(client, "/compare", run=three, group="*"), "charts")["curves"]["data"][0]["name"] == (
            "learning_rate=0.001 (2 runs)"
        )

    def test_differing_settings_are_shown(self, client: Client, three: list[str]) -> None:
        text = said(page(client, "/compare", run=three)).partition("Settings that differ")[2]
        assert text.startswith(" run algorithm.learning_rate seed a-run 0.001 1 b-run 0.001 2 c-run 0.01 1 ")

    def test_the_best_comes_first_by_any_metric(self, client: Client, root: Path, three: list[str]) -> None:
        write_rows(make_full_run(root, "z-best"), "updates", [update_row_of(root, "z-best", 31, 99.0)])
        names = [*three, "z-best"]
        assert listed(page(client, "/compare", run=names))[0] == "z-best"
        lowest = page(client, "/compare", run=names, y="learning_rate", best="lowest")
        assert listed(lowest)[:4].index("c-run") == 3

    def test_a_run_whose_table_is_damaged_is_named_and_the_others_are_shown(
        self, client: Client, root: Path, three: list[str]
    ) -> None:
        (root / "b-run" / "updates" / "train.jsonl").write_text("nonsense\n")
        text = page(client, "/compare", run=three)
        assert "train.jsonl is damaged" in said(text)
        assert {trace["name"] for trace in embedded(text, "charts")["curves"]["data"]} == {"a-run", "c-run"}

    def test_what_is_not_there_is_said(self, client: Client, three: list[str]) -> None:
        assert "there is no run 'nobody'" in said(page(client, "/compare", expect=404, run=["a-run", "nobody"]))
        assert "Without no such metric: a-run, b-run, c-run" in said(
            page(client, "/compare", run=three, y="no_such_metric")
        )

    def test_many_runs_are_read_at_once(
        self, client: Client, three: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compare_page, "_ONE_BY_ONE", 2)
        assert "there is no run 'nobody'" in said(page(client, "/compare", expect=404, run=[*three, "nobody"]))
        monkeypatch.setattr(directories.RunDirectories, "run", lambda *_: pytest.fail("it asks for one run"))
        chart = embedded(page(client, "/compare", run=three[::-1], smooth=0), "charts")["curves"]
        assert [trace["name"] for trace in chart["data"]] == three[::-1]


def update_row_of(root: Path, name: str, version: int, mean_return: float) -> dict[str, Any]:
    return update_row(RunDirectory(root / name), version, mean_return=mean_return)


class TestRun:
    def test_curves_events_and_services_are_shown(self, client: Client, root: Path) -> None:
        run = make_full_run(root, "full")
        log(run, "service_started", service="actor")
        log(run, "service_ready", service="actor", second=1)
        log(run, "service_died", "WARNING", service="actor", second=2, reason="it was killed")
        log(run, "service_restarted", service="actor", second=3)
        log(run, "run_failed", "ERROR", second=4, error="<b>disk</b>")
        text = page(client, "/run", run="full", smooth=0)
        charts = embedded(text, "charts")
        assert {"return", "entropy", "policy_loss", "env_steps_per_second", "episodes-food"} <= charts.keys()
        lines = {trace["name"]: trace for trace in charts["return"]["data"]}
        assert lines["evaluations"]["y"] == pytest.approx([10 / 3, 20 / 3, 10], rel=1e-6)
        assert len(lines["mean of the last 100"]["y"]) == 29
        shown = said(text)
        assert "actor starting 1 1 0" in shown
        assert "train 0 0 1" in shown
        assert "run_failed error=<b>disk</b>" in shown
        assert "learning rate 0.001" in shown
        troubles = said(page(client, "/run", run="full", level="troubles"))
        assert "run_failed" in troubles
        assert "service_ready" not in troubles

    def test_the_axis_may_be_time(self, client: Client, root: Path) -> None:
        make_full_run(root, "full")
        charts = embedded(page(client, "/run", run="full", x="seconds", smooth=0), "charts")
        lines = {trace["name"]: trace for trace in charts["return"]["data"]}
        assert lines["mean of the last 100"]["x"][-1] == 6.0
        assert max(lines["episodes"]["x"]) <= 6.0

    def test_many_rows_are_thinned_and_say_so(self, client: Client, root: Path) -> None:
        make_full_run(root, "long", updates=3000)
        text = page(client, "/run", run="long")
        assert "Each point stands for several updates or episodes" in said(text)
        assert len(embedded(text, "charts")["entropy"]["data"][-1]["y"]) <= 1024

    def test_a_run_is_followed(self, client: Client, root: Path) -> None:
        run = make_full_run(root, "live", updates=5, status="running")
        with run.locked():
            before = page(client, "/run", run="live")
            assert 'data-live="5"' in before
            write_rows(run, "updates", [update_row(run, 6, env_steps=10**9)])
            assert "1 G" in said(page(client, "/run", run="live"))
        assert "interrupted" in said(page(client, "/run", run="live"))

    def test_a_damaged_table_leaves_the_others(self, client: Client, root: Path) -> None:
        run = make_full_run(root, "partly")
        (run.table("episodes") / "train.jsonl").write_text("nonsense\n")
        text = page(client, "/run", run="partly")
        assert "train.jsonl is damaged" in said(text)
        assert "entropy" in embedded(text, "charts")

    def test_a_run_without_updates_is_shown(self, client: Client, root: Path) -> None:
        make_run(root, "new")
        assert "No update has been stored yet" in said(page(client, "/run", run="new"))

    @pytest.mark.parametrize("name", ["", "nobody", "../runs/full", "full/../full", "/etc", "x" * 5000, "\0", "."])
    def test_other_names_are_no_runs(self, client: Client, root: Path, name: str) -> None:
        make_full_run(root, "full")
        assert "there is no run" in said(page(client, "/run", expect=404, run=name))

    def test_wrong_choices_are_named(self, client: Client, root: Path) -> None:
        make_full_run(root, "full")
        assert "smooth" in said(page(client, "/run", expect=400, run="full", smooth="much"))
        assert "x" in said(page(client, "/run", expect=400, run="full", x="moons"))


class TestReplay:
    def test_a_game_of_snakes_is_told_tick_by_tick(self, client: Client, root: Path) -> None:
        run = make_run(root, "game")
        ticks = record_snake(run, SnakeSettings())
        text = page(client, "/replay", run="game")
        replay = embedded(text, "replay")
        assert replay["ticks"] == len(replay["board"]["frames"]) == ticks
        assert (replay["board"]["width"], replay["board"]["radius"]) == (15, 5)
        first = replay["board"]["frames"][0]
        assert len(first["seen"]) == len(replay["board"]["offsets"]) == 60
        assert len(replay["rows"]["tick"]) == ticks
        assert replay["actions"] == ["forward", "right", "left"]
        assert replay["likelihoods"] is None
        assert "died" in said(text)

    def test_policies_that_are_at_hand_say_how_likely_actions_are(self, client: Client, root: Path) -> None:
        run = make_run(root, "game")
        ticks = record_snake(run, SnakeSettings())
        store_policy(run.policy, 9)
        store_policy(run.best_policy, 7)  # the version that played
        text = page(client, "/replay", run="game")
        found = embedded(text, "replay")["likelihoods"]
        assert len(found) == ticks
        assert all(sum(row) == pytest.approx(1, abs=1e-5) and len(row) == 3 for row in found)
        assert "By the policy that played, v7" in said(text)
        other = page(client, "/replay", run="game", policy="newest")
        assert "By the newest policy, v9: another version played" in said(other)
        assert embedded(other, "replay")["likelihoods"] != found

    @pytest.mark.parametrize("discount", [None, [0.9, 0.99], "high"])
    def test_a_discount_that_is_no_number_draws_no_return(self, client: Client, root: Path, discount: object) -> None:
        run = make_run(root, "game", config={"algorithm": {"discount": discount}})
        record_snake(run, SnakeSettings())
        chart = embedded(page(client, "/replay", run="game"), "charts")["values"]
        assert [trace["name"] for trace in chart["data"]] == ["predicted (value)"]

    def test_recordings_are_summarised_once(self, client: Client, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_run(root, "game")
        record_snake(run, SnakeSettings())
        read: list[object] = []
        summarise = episodes.list_episodes
        for module in (episodes, directories):
            monkeypatch.setattr(module, "list_episodes", lambda run: read.append(run) or summarise(run))
        assert "0-0" in page(client, "/replay", run="game")
        assert len(read) == 1

    def test_a_policy_of_another_environment_is_a_line(self, client: Client, root: Path) -> None:
        run = make_run(root, "game")
        record_snake(run, SnakeSettings())
        store_policy(run.policy, 7, cells=12)
        text = page(client, "/replay", run="game")
        assert "it was made for another environment" in said(text)
        assert embedded(text, "replay")["board"]

    def test_other_environments_show_what_was_observed(self, client: Client, root: Path) -> None:
        run = make_run(root, "pole", env={"id": "gym:CartPole-v1"}, environment="gym:CartPole-v1")
        record_steps(run, steps_columns(run, 12))
        charts = embedded(page(client, "/replay", run="pole"), "charts")
        assert {"values", "observed-0", "observed-3"} <= charts.keys()

    def test_real_numbers_are_shown_as_they_were_drawn_and_have_no_probability(
        self, client: Client, root: Path
    ) -> None:
        run = make_run(root, "swing", env={"id": "gym:Pendulum-v1"}, environment="gym:Pendulum-v1")
        rows = np.array([[0.5, -1.5], [2.25, 0.0]], np.float32)
        record_steps(run, steps_columns(run, 2, action=None, action_row=rows))
        replay = embedded(page(client, "/replay", run="swing"), "replay")
        assert (replay["rows"]["action"], replay["rows"]["chosen"]) == (rows.tolist(), [None, None])
        assert (replay["actions"], replay["likelihoods"]) == ([], None)

    def test_several_whole_numbers_have_a_bar_for_each_value_by_a_policy(self, client: Client, root: Path) -> None:
        run = make_run(root, "lock", env={"id": "locks"}, environment="locks")
        rows = np.array([[2, 0, 3], [1, 1, 0]], np.float32)
        more = {"observation": np.array([[0], [2]], np.float32), "log_prob": np.log([0.5, 0.25])}
        record_steps(run, steps_columns(run, 2, action=None, action_row=rows, **more))
        replay = embedded(page(client, "/replay", run="lock"), "replay")
        assert (replay["actions"], replay["likelihoods"], replay["rows"]["chosen"]) == ([], None, [None, None])
        store_policy(run.policy, 7, cells=1, action=MultiDiscreteSpace(sizes=(3, 2, 4)))
        replay = embedded(page(client, "/replay", run="lock"), "replay")
        assert replay["actions"][2:6] == ["number 0: 2", "number 1: 0", "number 1: 1", "number 2: 0"]
        assert (replay["rows"]["action"], replay["rows"]["taken"]) == (rows.tolist(), [[2, 3, 8], [1, 4, 5]])
        assert replay["rows"]["chosen"] == pytest.approx([0.5, 0.25])
        for likely in replay["likelihoods"]:
            assert [sum(likely[:3]), sum(likely[3:5]), sum(likely[5:])] == pytest.approx([1, 1, 1])

    def test_episodes_are_listed_and_sorted(self, client: Client, root: Path) -> None:
        run = make_run(root, "game")
        ticks = {f"▶ 0-{episode}": record_snake(run, SnakeSettings(), episode=episode) for episode in range(3)}
        rising = sorted(ticks, key=lambda name: ticks[name])
        assert listed(page(client, "/episodes", run="game", sort="ticks")) == rising
        assert listed(page(client, "/episodes", run="game", sort="-ticks")) == rising[::-1]
        assert "No episode has been recorded" in said(page(client, "/episodes", run=make_run(root, "none").path.name))

    def test_what_is_not_there_is_said(self, client: Client, root: Path) -> None:
        run = make_run(root, "game")
        assert "has no recorded episodes yet" in said(page(client, "/replay", expect=404, run="game"))
        record_snake(run, SnakeSettings())
        assert "no recorded episode '9-9'" in said(page(client, "/replay", expect=404, run="game", episode="9-9"))
        assert "no agent 5" in said(page(client, "/replay", expect=404, run="game", agent=5))
        assert "'oldest' of the run is not at hand" in said(page(client, "/replay", run="game", policy="oldest"))

    def test_a_damaged_recording_is_named(self, client: Client, root: Path) -> None:
        run = make_run(root, "game")
        record_snake(run, SnakeSettings())
        next(run.table("steps").glob("*.parquet")).write_bytes(b"PAR1 nothing PAR1")
        assert "cannot be read" in said(page(client, "/replay", expect=404, run="game"))


def test_a_run_in_a_folder_of_another_name_is_looked_for_once(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        make_run(root, f"folder-{name}", run_id=f"{name}-run")
    page(client, "/run", run="b-run")
    read: list[RunDirectory] = []
    monkeypatch.setattr(directories, "row", lambda run: read.append(run) or row(run))
    monkeypatch.setattr(directories.run_directory, "list_runs", lambda *_: pytest.fail("it looks for the run again"))
    page(client, "/run", run="b-run")
    assert read == []


def test_a_run_whose_folder_was_renamed_is_looked_for_anew(client: Client, root: Path) -> None:
    make_run(root, "folder-a", run_id="a-run")
    page(client, "/run", run="a-run")
    (root / "folder-a").rename(root / "folder-b")
    make_run(root, "folder-a", run_id="b-run", experiment="another")
    assert "another" not in said(page(client, "/run", run="a-run"))


def test_every_page_keeps_others_out(client: Client, root: Path) -> None:
    make_full_run(root, "full")
    for path in ("/", "/compare", "/run?run=full", "/sql", "/nope"):
        headers = client.ask(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"


def test_what_pages_name_is_served(client: Client, root: Path) -> None:
    make_full_run(root, "full")
    text = page(client, "/run", run="full")
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
    assert any("plotly" in name for name in files)
    for name in [*files, "/static/replay.js", "/static/board.js", "/static/world.js"]:
        assert client.ask(name).status_code == 200
    library = next(name for name in files if "plotly" in name)
    assert "immutable" in client.ask(library).headers["cache-control"]
    assert client.ask(library, headers={"accept-encoding": "identity"}).content.startswith(b"/**\n* plotly.js")


def test_only_reading_is_answered(client: Client) -> None:
    assert client.ask("/", "POST").status_code == 405
    assert client.ask("/", "HEAD").status_code == 200
    assert client.ask("/static/../app.py").status_code == 404
    assert "there is no page /nope" in said(page(client, "/nope", expect=404))


def test_operators_see_health_and_numbers(client: Client) -> None:
    page(client, "/")
    assert client.ask("/healthz").json() == {"status": "ok"}
    assert client.ask("/readyz").json() == {"status": "ready"}
    page(client, "/run", expect=404)
    numbers = client.ask("/metrics").text
    assert 'rattle_request_seconds_count{api="runs"} 1.0' in numbers
    assert 'rattle_requests_total{api="run",status="404"} 1.0' in numbers


def test_a_run_that_is_deleted_while_it_is_looked_at_is_said_to_be_gone(client: Client, root: Path) -> None:
    run = make_full_run(root, "full")
    page(client, "/run", run="full")
    shutil.rmtree(run.path)
    assert "there is no run 'full'" in said(page(client, "/run", expect=404, run="full"))
    make_full_run(root, "full", updates=3)
    assert embedded(page(client, "/run", run="full"), "charts")["return"]
