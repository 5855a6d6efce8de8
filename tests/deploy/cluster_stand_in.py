"""A stand-in for kubectl and helm: it keeps a small cluster on disk, and writes down what it is asked.

Called as the program `kubectl` or `helm`, with FAKE_CLUSTER naming a folder. `calls` there has a line of JSON a call,
`state.json` the cluster, and `faults.json` a list of words: a call whose arguments have all words of one of them fails.
Training is a Job where `job` there says how it is: "ready", "Complete", "Failed", or nothing of these yet.
"""

# ruff: noqa: T201
from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_CLUSTER"])
EMPTY: dict[str, Any] = {"namespaces": [], "secrets": {}, "releases": {}, "scaled": [], "files": {}, "pods": []}
JOB = FOLDER / "job"
WORKLOADS = {
    "rattle": [
        "job.batch/rattle-training" if JOB.exists() else "statefulset.apps/rattle-training",
        *("statefulset.apps/rattle-env", "deployment.apps/rattle-ingest"),
    ],
    "rattle-data": ["statefulset.apps/rattle-data-clickhouse", "statefulset.apps/rattle-data-rabbitmq"],
}


def main(program: str, words: list[str]) -> int:
    """Answer one call; returns its exit status."""
    with (FOLDER / "calls").open("a") as calls:
        calls.write(json.dumps([program, *words]) + "\n")
    faults = json.loads((FOLDER / "faults.json").read_text()) if (FOLDER / "faults.json").exists() else []
    if any(all(any(word in one for one in words) for word in fault) for fault in faults):
        print("Error: as the test wants it", file=sys.stderr)
        return 1
    path = FOLDER / "state.json"
    state = json.loads(path.read_text()) if path.exists() else EMPTY
    rest = list(words)
    for flag in ("--context", "--kube-context", "--namespace"):
        if flag in rest:
            at = rest.index(flag)
            del rest[at : at + 2]
    answer = {"kubectl": kubectl, "helm": helm}[program](rest, state)
    path.write_text(json.dumps(state))
    return answer


def helm(words: list[str], state: dict[str, Any]) -> int:
    verb = words[0]
    if verb == "upgrade":
        name = words[2]
        files = [Path(words[at + 1]).read_text() for at, word in enumerate(words) if word == "--values"]
        state["releases"][name] = {"values": files, "words": words}
    elif verb == "status":
        return 0 if words[1] in state["releases"] else 1
    elif verb == "uninstall":
        del state["releases"][words[1]]
    return 0


def kubectl(words: list[str], state: dict[str, Any]) -> int:
    verb, kind = words[0], words[1]
    if (verb, kind) == ("create", "namespace"):
        state["namespaces"].append(words[2])
    elif verb == "create":
        import yaml  # most calls do without

        made = yaml.safe_load(sys.stdin)
        if made["kind"] == "Secret":
            state["secrets"][made["metadata"]["name"]] = made
        else:
            state["pods"].append(made["metadata"]["name"])
    elif verb == "get":
        return _get(words, state)
    elif verb == "exec":
        return _exec(words, state)
    elif verb == "scale":
        state["scaled"].append([words[1], words[3]])
    elif verb == "patch":
        state["scaled"].append([words[1], json.loads(words[5])["spec"]["suspend"]])
    elif verb == "delete":
        _delete(words, state)
    elif (verb, kind) == ("rollout", "status"):
        return int(words[2].startswith("job"))  # kubectl knows no rollout of a Job
    return 0


def _delete(words: list[str], state: dict[str, Any]) -> None:
    if words[1] == "secret":
        for name in words[2:]:
            state["secrets"].pop(name, None)
    elif words[1] == "persistentvolumeclaims":
        state["files"].clear()


def _get(words: list[str], state: dict[str, Any]) -> int:
    kind = words[1]
    installed = [one for name in state["releases"] for one in WORKLOADS[name]]
    output = words[words.index("--output") + 1] if "--output" in words else ""
    if kind == "namespace":
        print("\n".join(f"namespace/{name}" for name in state["namespaces"] if name == words[2]))
    elif kind == "secret" and output == "name":
        print(f"secret/{words[2]}" if words[2] in state["secrets"] else "")
    elif kind == "secret":
        text = state["secrets"][words[2]]["stringData"].get(
            output.removeprefix("jsonpath={.data.").removesuffix("}"), ""
        )
        print(base64.b64encode(text.encode()).decode(), end="")
    elif kind == "configmap":
        print("telemetry: {enabled: true}")
    elif "," in kind:
        kinds = [f"{one.removesuffix('s')}." for one in kind.split(",")]
        ours = [one for one in installed if one.endswith("training") or "component=training" not in " ".join(words)]
        print("\n".join(one for one in ours if one.startswith(tuple(kinds))))
    elif kind.startswith("job.batch/"):
        print(_of_job(JOB.read_text(), output), end="")
    elif kind == "pods" and "job-name=rattle-training" in words:
        print("pod/rattle-training-x7" if JOB.read_text() == "ready" else "")
    elif kind in {"deployment", "pod"}:
        wanted = words[2].removesuffix("-0")
        print("\n".join(one for one in installed if one.endswith(f"/{wanted}")))
    return 0


def _of_job(said: str, output: str) -> str:
    if said == "ready":
        return "1" if output.endswith(".ready}") else ""
    return "True" if f'"{said}"' in output else ""


def _exec(words: list[str], state: dict[str, Any]) -> int:
    said, files = " ".join(words), state["files"]
    if "tar -C /runs -cf" in said:
        sys.stdout.write(files.get("runs", "runs of old"))
    elif "tar -C /runs -xf" in said:
        files["runs"] = sys.stdin.read()
    elif "BACKUP DATABASE" in said:
        files["zip"] = "store of old"
    elif "cat >" in said:
        files["zip"] = sys.stdin.read()
    elif "wc -c" in said:
        print(len(files["zip"]))
    elif "sh -c cat" in said:
        sys.stdout.write(files["zip"])
    elif "RESTORE DATABASE" in said:
        files["store"] = files["zip"]
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[0]).name, sys.argv[1:]))
