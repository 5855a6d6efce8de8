"""The scripts among the examples: the pipeline for real, in a short form, and the Job against a stand-in of kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import helm
from tests.deploy.helm import ROOT, Helm
from tests.deploy.manifests import find, validate

__all__ = ["helm"]

pytestmark = pytest.mark.integration

EXAMPLES = ROOT / "examples"
SMALL = ("env.worlds=64", "policy.hidden_sizes=[16]", "train.checkpoint_seconds=0.1")

#: Writes down its arguments and what it reads, and has a cluster whose pods have a file of the run. Its Job is as the
#: file `job` says, until a new one is applied: that ends well, unless the file `fails` is there.
KUBECTL = """#!{python}
import io, json, sys, tarfile, time
from pathlib import Path
words = sys.argv[1:]
said = sys.stdin.read() if "/dev/stdin" in " ".join(words) else ""
with open("calls", "a") as calls:
    calls.write(json.dumps([words, said]) + "\\n")
if "exec" in words:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        about = tarfile.TarInfo("snake/config.yaml")
        archive.addfile(about, io.BytesIO())
job = Path("job")
if "apply" in words:
    job.write_text("Failed" if Path("fails").exists() else "Complete")
elif "delete" in words:
    job.unlink()
elif "wait" in words:
    wanted = words[3].rpartition("=")[2].capitalize()
    while job.read_text() != wanted:
        time.sleep(0.1)
elif "--ignore-not-found" in words:
    print("True" if job.exists() and job.read_text() in words[-1] else "")
    sys.exit()
sys.exit("get" in words)
"""


def run(script: Path, *arguments: str, cwd: Path, path: str, seconds: float = 280) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PATH": f"{path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [script, *arguments]
    return subprocess.run(command, cwd=cwd, env=known, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.mark.whole(suite="slow")
def test_the_pipeline_starts_trains_stops_goes_on_and_analyses(tmp_path: Path) -> None:
    sets = [word for setting in SMALL for word in ("--set", setting)]
    script = EXAMPLES / "pipeline" / "pipeline.sh"
    done = run(script, "runs/mine", "snake", "--steps", "60000", *sets, cwd=tmp_path, path=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "mine"
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert {"learning_curve.png", "replay.gif", "policy.onnx"} <= {path.name for path in folder.iterdir()}


@pytest.fixture
def programs(helm: Helm, tmp_path: Path) -> Path:
    """Return a folder with the stand-in of kubectl, and Helm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (folder / "kubectl").chmod(0o755)
    (folder / "helm").symlink_to(helm.folder / "helm")
    return folder


TRAIN = EXAMPLES / "kubernetes" / "train.sh"


def test_a_job_that_fails_is_said_and_begun_anew_the_next_time(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    done = run(TRAIN, cwd=tmp_path, path=str(programs))
    assert (done.returncode, "The Job has failed" in done.stderr) == (1, True), done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()
    (tmp_path / "fails").unlink()
    done = run(TRAIN, cwd=tmp_path, path=str(programs))
    assert done.returncode == 0, done.stdout + done.stderr
    verbs = [json.loads(line)[0][2] for line in (tmp_path / "calls").read_text().splitlines()]
    assert [verb for verb in verbs if verb in ("apply", "delete")] == ["apply", "delete", "apply"]


def test_the_job_is_applied_waited_for_and_fetched(programs: Path, tmp_path: Path) -> None:
    done = run(TRAIN, cwd=tmp_path, path=str(programs))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "snake" / "config.yaml").exists()
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    made = [one for one in yaml.safe_load_all((tmp_path / "snake-manifests.yaml").read_text()) if one]
    for manifest in made:
        validate(manifest)
    (token,) = [said for words, said in calls if said]
    assert len(token) >= 32
    assert not any(token in word for words, _ in calls for word in words)
    asked = [words[2:] for words, _ in calls if words[0] == "--namespace"]
    assert ["apply", "--filename", "snake-manifests.yaml"] in asked
    assert not any(words[0] == "delete" for words in asked)
    waited = [words for words in asked if words[0] == "wait"]
    assert {words[1] for words in waited} == {"--for=condition=complete", "--for=condition=failed"}
    ((kind, name),) = {tuple(words[-1].split("/")) for words in waited}
    assert find(made, kind.capitalize(), name)["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    (read,) = [words for words in asked if words[0] == "exec"]
    assert find(made, "Deployment", read[1].split("/")[1])
    pods = find(made, "Deployment", read[1].split("/")[1])["spec"]["template"]["spec"]
    volumes = {one["name"]: one.get("persistentVolumeClaim", {}).get("claimName") for one in pods["volumes"]}
    assert volumes["runs"] == f"runs-{name}-0"
