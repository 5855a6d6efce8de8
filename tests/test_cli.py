"""The command as a user meets it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rattle.cli import main
from rattle.errors import RattleError
from tests.template import RattleProcess
from tests.trainer.conftest import RATTLE, last_json, rattle

SMALL = ["--set", "env.worlds=24", "--steps", "4608", "--set", "policy.hidden_sizes=[16]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small run once and return the folder whose runs/ holds it."""
    folder = tmp_path_factory.mktemp("cli")
    trained = rattle("train", *SMALL, "--set", "record.every_episodes=1", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    return folder


def test_help_is_quick() -> None:
    """Help loads nothing heavy; the time itself is measured in benchmarks/."""
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from rattle.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numba', 'numpy', 'gymnasium', 'pydantic', 'pyarrow', 'rich', 'chdb', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


#: Their one-line summaries are in files with a recorded hash: they change with the next change of cli/services.py.
RECORDED_SUMMARIES = {"inference", "training"}


@pytest.mark.parametrize("group", [(), ("runs",)])
def test_summaries_of_commands_fit_into_80_columns(group: tuple[str, ...]) -> None:
    # Click leaves two columns free at a terminal of 80, and takes a width that it is told as it is.
    shown = CliRunner().invoke(main, [*group, "--help"], terminal_width=78).output.partition("Commands:")[2]
    lines = [line.split(maxsplit=1) for line in shown.splitlines() if line.strip()]
    assert {name for name, summary in lines if summary.endswith("...")} <= RECORDED_SUMMARIES


EXTRAS = (
    "chdb fastapi fastapi_swagger flask grpc grpc_health grpc_reflection httptools httpx imageio_ffmpeg matplotlib "
    "mlflow onnx onnxruntime pettingzoo PIL prometheus_client psutil pyarrow tenacity tensorboardX torch uvicorn "
    "uvloop wandb websockets werkzeug"
)


def test_help_and_lists_need_no_extra() -> None:
    """Whoever has only the base installed can read what there is."""
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(sys.argv[1].split()))\n"  # None: its import fails
        "from click.testing import CliRunner\n"
        "from rattle.cli import main\n"
        "for asked in [['-V'], ['check-env', '--list'], *([name, '--help'] for name in main.commands)]:\n"
        "    done = CliRunner().invoke(main, asked)\n"
        "    assert done.exit_code == 0, (asked, done.output, done.exception)\n"
        "    print(done.output)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, EXTRAS], capture_output=True, text=True, check=True)
    assert "vector.websocket.unknown" in done.stdout
    assert "pip install 'rattle[mock-env]'" in done.stdout


def test_eval_says_how_many_episodes_were_cut(run: Path) -> None:
    done = rattle("eval", "latest", "--episodes", "20", "--max-ticks", "1", "--json", cwd=run)
    assert last_json(done.stdout)["cut_episodes"] == 20
    assert done.stderr.count("\n") == 1
    assert "20 episodes had not ended after 1 ticks" in done.stderr
    assert "were cut" in rattle("eval", "latest", "--episodes", "20", "--max-ticks", "1", cwd=run).stdout


def test_the_json_summary_has_what_it_promises(tmp_path: Path) -> None:
    done = rattle("train", "--json", "--seed", "3", *SMALL, cwd=tmp_path)
    summary = last_json(done.stdout)
    expected = {
        "run_id": str,
        "env_steps": int,
        "seconds": float,
        "env_steps_per_second": float,
        "updates": int,
        "mean_return": float,
        "mean_episode_length": float,
        "policy_sha256": str,
    }
    for name, kind in expected.items():
        assert isinstance(summary[name], kind), name
    assert (tmp_path / "runs" / summary["run_id"] / "policy.safetensors").is_file()
    assert "-s3-" in summary["run_id"]


@pytest.mark.parametrize("arguments", [[], ["--greedy"], ["--seed", "5"]])
def test_eval_prints_means_and_their_spread(run: Path, arguments: list[str]) -> None:
    policy = next(run.glob("runs/*/policy.safetensors"))
    by_run = last_json(rattle("eval", "latest", "--episodes", "20", "--json", *arguments, cwd=run).stdout)
    by_file = last_json(rattle("eval", policy, "--episodes", "20", "--json", *arguments, cwd=run).stdout)
    assert {**by_file, "policy": ""} == {**by_run, "policy": ""}
    assert by_run["episodes"] == 20
    for name in ("mean_return", "mean_length", "mean_food", "std_return", "std_length", "std_food"):
        assert isinstance(by_run[name], float)
    table = rattle("eval", "latest", "--episodes", "20", *arguments, cwd=run).stdout
    assert f"{by_run['mean_food']:.2f}" in table


def test_export_writes_a_model_that_runs(run: Path) -> None:
    done = rattle("export", "latest", "--onnx", "snake.onnx", cwd=run)
    assert done.returncode == 0, done.stderr
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(run / "snake.onnx")
    memory = session.get_inputs()[1].shape[1]
    inputs = {"observation": np.zeros((5, 60), np.uint8), "state": np.zeros((5, memory), np.float32)}
    logits, value, state = session.run(None, inputs)
    assert (logits.shape, value.shape, state.shape) == ((5, 3), (5,), (5, memory))


def shown_in_a_terminal(arguments: list[str], cwd: Path, columns: int) -> list[str]:
    """Return the lines that a command shows in a terminal of some width."""
    reader, writer = pty.openpty()
    process = subprocess.Popen(
        [*RATTLE, *arguments],
        cwd=cwd,
        stdout=writer,
        stderr=writer,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "30"},
    )
    os.close(writer)
    shown = b""
    while True:
        try:
            part = os.read(reader, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(reader)
    assert process.wait(timeout=30) == 0
    return shown.decode().splitlines()


def test_a_terminal_gets_a_live_view(tmp_path: Path) -> None:
    text = "\n".join(shown_in_a_terminal(["train", "--run-dir", "run", *SMALL], tmp_path, 100))
    for word in ("steps/s", "mean return", "mean length", "entropy", "value loss", "left", "policy sha256"):
        assert word in text
    assert "\x1b[" in text


def test_texts_of_an_inspection_are_folded_where_a_terminal_ends(tmp_path: Path) -> None:
    wide, narrow = (
        shown_in_a_terminal(["inspect", "gym:Taxi-v4", "--seconds", "1"], tmp_path, columns) for columns in (9999, 60)
    )
    assert max(map(len, narrow)) <= 60
    assert max(map(len, wide)) > 60
    assert [line for line in narrow if line.startswith(16 * " ")]
    assert {line[:16] for line in wide} <= {line[:16] for line in narrow}


WRONG = {
    "unknown key": (["train", "--set", "env.widht=20"], "did you mean 'width'"),
    "unknown environment": (["train", "--set", "env.id=snaek"], "unknown environment 'snaek'"),
    "unknown gym id": (["train", "--set", "env={id: 'gym:CartPole-v9'}"], "CartPole-v1"),
    "unknown pettingzoo module": (["train", "--set", "env={id: 'pettingzoo:nosuch'}"], "cannot import 'nosuch'"),
    "unknown algorithm": (["train", "--set", "algorithm.id=a3c"], "'a2c'"),
    "missing file": (["train", "nothing.yaml"], "nothing.yaml"),
    "board too small": (["train", "--set", "env={num_snakes: 8, width: 8, height: 8}"], "too small"),
    "flags with resume": (["train", "--resume", "latest", "--seed", "3"], "own settings"),
    "no such run": (["train", "--resume", "nothing"], "no run 'nothing'"),
    "no such policy": (["eval", "nothing"], "no run 'nothing'"),
    "foreign policy": (["eval", "foreign.safetensors"], "not a safetensors file"),
    "corrupt policy": (["eval", "corrupt.safetensors"], "damaged"),
    "export of nothing": (["export", "foreign.safetensors", "--onnx", "x.onnx"], "not a safetensors file"),
    "export to nowhere": (["export", "latest", "--onnx", "missing/x.onnx"], "missing"),
    "bad number": (["eval", "latest", "--episodes", "0"], "--episodes"),
}


@pytest.mark.parametrize(("arguments", "expected"), WRONG.values(), ids=WRONG)
def test_mistakes_get_one_clear_line(run: Path, arguments: list[str], expected: str) -> None:
    (run / "foreign.safetensors").write_bytes(b"<html>not a policy</html>")
    policy = next(run.glob("runs/*/policy.safetensors")).read_bytes()
    (run / "corrupt.safetensors").write_bytes(policy[:-40])
    done = rattle(*arguments, cwd=run)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert expected in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error:")]) == 1
    assert not (run / "x.onnx").exists()
    assert len(list((run / "runs").iterdir())) == 1


def test_a_run_is_found_by_its_run_id_wherever_it_is_stored(tmp_path: Path) -> None:
    trained = rattle("train", "--json", "--run-dir", "runs/mine", *SMALL, cwd=tmp_path)
    run_id = last_json(trained.stdout)["run_id"]
    assert last_json(rattle("eval", run_id, "--episodes", "5", "--json", cwd=tmp_path).stdout)["episodes"] == 5
    assert run_id in rattle("runs", cwd=tmp_path).stdout


def test_a_run_directory_in_use_is_refused(tmp_path: Path) -> None:
    command = ["train", "--json", "--run-dir", "run", "--set", "env.worlds=64"]
    first = RattleProcess(*command, cwd=tmp_path, stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    for arguments in (["train", "--resume", "run"], ["train", "--run-dir", "run"]):
        done = rattle(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert "run" in done.stderr
        assert first.poll() is None
    assert "in use" in rattle("train", "--resume", "run", cwd=tmp_path).stderr
    first.terminate()
    output, _ = first.communicate(timeout=30)
    assert last_json(output)["status"] == "interrupted"


def test_experiments_are_found_by_name_and_files_win(tmp_path: Path) -> None:
    small = ["--set", "env.worlds=2", "--steps", "64", "--json"]
    shipped = rattle("train", "cartpole", *small, cwd=tmp_path)
    assert "-cartpole-" in last_json(shipped.stdout)["run_id"], shipped.stderr
    (tmp_path / "cartpole").write_text("name: mine\n")
    assert "-mine-" in last_json(rattle("train", "cartpole", *small, cwd=tmp_path).stdout)["run_id"]
    unknown = rattle("train", "cartpol", cwd=tmp_path)
    assert unknown.returncode == 2
    assert (
        "experiments with names are cartpole, cartpole-ppo, cartpole-vector, snake, snake-duel, snake-lockstep"
        in unknown.stderr
    )


@pytest.mark.parametrize(
    "arguments", [["runs"], ["runs", "--json"], ["query", "SELECT 1"], ["--help"], ["check-env", "--list"]]
)
def test_a_full_disk_behind_standard_output_is_one_line(run: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*RATTLE, *arguments], cwd=run, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    wanted = "Error: cannot write to standard output: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, wanted)


def test_a_statement_comes_from_standard_input_and_its_answer_goes_to_a_file(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "rattle", "query", "-", "--output", "answer.csv"],
        cwd=tmp_path,
        input="SELECT 1 AS one",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert (tmp_path / "answer.csv").read_text() == '"one"\n1\n'


@pytest.mark.parametrize("command", ["env", "training", "inference", "sync", "train"])
def test_ctrl_c_while_a_command_starts_ends_it_quietly(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def pressed(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    for module in ("settings.sources", "runs.first_policy"):
        monkeypatch.setattr(f"rattle.{module}.load_settings", pressed)
    monkeypatch.setattr("rattle.output.claim_stdout", lambda: None)
    ended = CliRunner().invoke(main, [command])
    assert (ended.exit_code, ended.output) == (130, "")


@pytest.mark.parametrize("command", [["runs"], ["--help"], ["query", "SELECT 1"]])
@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_standard_streams_are_no_traceback(tmp_path: Path, command: list[str], closed: str) -> None:
    shell = ["bash", "-c", f'"$@" {closed}', "bash", sys.executable, "-m", "rattle", *command]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode in (0, 1)


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments", [["eval", LONG], ["train", LONG], ["train", "--run-dir", LONG], ["export", LONG, "--onnx", "x.onnx"]]
)
def test_names_that_no_file_can_have_are_one_line(run: Path, arguments: list[str]) -> None:
    done = rattle(*arguments, cwd=run)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_a_run_whose_row_cannot_be_read_does_not_hide_the_others(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "odd" / "run.json").mkdir(parents=True)
    (tmp_path / "runs" / "odd" / "config.yaml").touch()
    done = rattle("runs", cwd=tmp_path)
    assert done.returncode == 0
    assert "odd" in done.stdout
    assert len(done.stdout.splitlines()) >= 3


def test_too_few_files_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    shell = ["bash", "-c", 'ulimit -n 12; exec "$@"', "bash", sys.executable, "-m", "rattle", "env", "--port", "0"]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "standard output" not in done.stderr
    assert "Too many open files" in done.stderr


def test_why_a_command_ends_is_an_event_where_json_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    asked = {"LOG_FORMAT": "json", "LOG_FILE": str(file), "EXPERIMENT_NAME": "mine"}
    ended = CliRunner().invoke(main, ["eval", "nothing"], env=asked)
    assert ended.exit_code == 1
    (line,) = ended.stderr.splitlines()
    assert file.read_text() == ended.stderr
    told = json.loads(line)
    assert (told["event"], told["level"], told["service"], told["experiment"]) == ("error", "ERROR", "eval", "mine")
    assert told["fields"]["error"].startswith("no run 'nothing'")
    plain = CliRunner().invoke(main, ["eval", "nothing"], env={"LOG_FILE": str(file)})
    assert plain.stderr == f"Error: {told['fields']['error']}\n"
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["error", "error"]


def test_what_an_error_quotes_steers_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RattleError("the server said \x1b]0;mine\x07\nfinished: 5 steps of 'caf\udcc3'")

    monkeypatch.setattr("rattle.runs.find_policy.find_policy", fail)
    ended = CliRunner().invoke(main, ["eval", "latest"], color=True)  # as in a terminal
    assert ended.stderr == "Error: the server said ]0;mine finished: 5 steps of 'caf\\udcc3'\n"


def test_an_error_that_nobody_thought_of_is_an_event_with_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("the wheels")

    monkeypatch.setattr("rattle.runs.find_policy.find_policy", fail)
    ended = CliRunner().invoke(main, ["eval", "latest"], env={"LOG_FORMAT": "json"})
    told = json.loads(ended.stderr)
    assert (ended.exit_code, told["event"]) == (1, "crashed")
    assert told["message"] == "internal error in the command: KeyError: 'the wheels'"
    assert told["fields"]["exception"]["frames"][-1]["function"] == "fail"
    plain = CliRunner().invoke(main, ["eval", "latest"])
    assert isinstance(plain.exception, KeyError), "Python shows its traceback"
