"""A stand-in for kubectl and helm: it keeps a small cluster on disk, and writes down what it is asked.

Called as the program `kubectl` or `helm`, with FAKE_CLUSTER naming a folder. `calls` there has a line of JSON a call,
`state.json` the cluster, and `faults.json` a list of words: a call whose arguments have all words of one of them fails.
Training is a Job where `job` there says how it is: "ready", "Complete", "Failed", or nothing of these yet. Charts are
rendered by the Helm that REAL_HELM names; without one they are those few lines that scripts read, whatever the values.
"""

# ruff: noqa: T201
from __future__ import annotations

import base64
import json
import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_CLUSTER"])
EMPTY: dict[str, Any] = {"namespaces": [], "secrets": {}, "releases": {}, "scaled": [], "files": {}, "pods": []}
JOB = FOLDER / "job"
INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"
#: Kinds as kubectl names their objects.
TYPES = {"Deployment": "deployment.apps", "Job": "job.batch", "Pod": "pod", "StatefulSet": "statefulset.apps"}


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
    verb, releases = words[0], state["releases"]
    if verb == "template":
        print(rendered(words[1], words[2], *given(words)))
    elif verb == "upgrade":
        install(words, state)
    elif verb == "get":
        print(releases[words[2]]["manifest"] if words[2] in releases else "")
        return int(words[2] not in releases)
    elif verb == "status":
        return int(words[1] not in releases)
    elif verb == "uninstall":
        del releases[words[1]]
    return 0


def install(words: list[str], state: dict[str, Any]) -> None:
    name, chart = words[2:4]
    values, sets = given(words)
    before = state["releases"].get(name, {"values": [], "sets": {}})
    if "--reset-then-reuse-values" in words or not (values or sets):  # else Helm forgets what was given before
        values, sets = before["values"] + values, before["sets"] | sets
    text = rendered(name, chart, values, sets)
    objects = parsed(text)
    state["releases"][name] = {"values": values, "sets": sets, "words": words, "manifest": text, "objects": objects}
    for one in objects:
        if one["kind"] == "Secret":
            keep_secret(one, state)
        elif one["kind"] == "Certificate":  # as cert-manager does
            about = one["spec"].get("secretTemplate", {}) | {"name": one["spec"]["secretName"]}
            keep_secret({"metadata": about, "stringData": {"tls.key": "made"}}, state)


def given(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the texts of the files of values, and the single values."""
    found: dict[str, list[str]] = {"--values": [], "--set-string": []}
    for word, value in pairwise(words):
        if word in found:
            found[word].append(value)
    values = [Path(file).read_text() for files in found["--values"] for file in files.split(",")]
    return values, dict(one.split("=", 1) for one in found["--set-string"])


def rendered(release: str, chart: str, values: list[str], sets: dict[str, str]) -> str:
    """Return the manifests of a chart."""
    if "REAL_HELM" in os.environ:
        import subprocess  # most calls do without

        command = [os.environ["REAL_HELM"], "template", release, chart, "--no-hooks"]
        for number, text in enumerate(values):
            (FOLDER / f"values-{number}").write_text(text)
            command += ["--values", str(FOLDER / f"values-{number}")]
        command += [word for name, value in sets.items() for word in ("--set-string", f"{name}={value}")]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    def made(kind: str, component: str, more: str = "", part: str | None = None) -> str:
        labels = f"    {INSTANCE}: {release}\n    {COMPONENT}: {component}\n"
        return f"---\nkind: {kind}\nmetadata:\n  name: {release}-{part or component}\n  labels:\n{labels}{more}"

    if chart == "k8s/data-stack":
        telemetry = f"    telemetry:\n      enabled: true\n      existingSecret: {release}-credentials\n"
        return (
            made("Secret", "credentials", 'data: {rabbitmq-username: "", clickhouse-username: ""}\n')
            + made("ConfigMap", "platform", f"data:\n  values.yaml: |\n{telemetry}")
            + "".join(made(kind, "clickhouse") for kind in ("Service", "StatefulSet"))
            + made("StatefulSet", "rabbitmq")
        )
    mounts = "      containers:\n        - image: training:1\n          volumeMounts:\n            - name: token\n"
    volumes = f"      volumes:\n        - name: token\n          secret:\n            secretName: {release}-token\n"
    return (
        made("Secret", "token")
        + "".join(made("Service", part.removesuffix("-any"), part=part) for part in ("env-any", "inference-any"))
        + made("Service", "dashboard")
        + made(
            "Job" if JOB.exists() else "StatefulSet", "training", f"spec:\n  template:\n    spec:\n{mounts}{volumes}"
        )
        + made("StatefulSet", "env")
        + made("Deployment", "ingest")
    )


def parsed(text: str) -> list[dict[str, Any]]:
    import yaml  # most calls do without

    quick = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [one for one in yaml.load_all(text, quick) if one]


def keep_secret(made: dict[str, Any], state: dict[str, Any]) -> None:
    """Make a Secret, or add to it what it does not have yet."""
    about = made["metadata"]
    kept = state["secrets"].setdefault(about["name"], {"labels": {}, "values": {}})
    kept["labels"] |= about.get("labels", {})
    coded = {key: base64.b64decode(value).decode() for key, value in made.get("data", {}).items()}
    kept["values"] = {**coded, **made.get("stringData", {}), **kept["values"]}


def kubectl(words: list[str], state: dict[str, Any]) -> int:
    verb, kind = words[0], words[1]
    if (verb, kind) == ("create", "namespace"):
        state["namespaces"].append(words[2])
    elif verb == "create":
        (made,) = parsed(sys.stdin.read())
        if made["kind"] == "Secret":
            keep_secret(made, state)
        else:
            state["pods"].append(made)
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
    if words[1] == "secrets":
        instances, _ = wanted(words)
        secrets = state["secrets"]
        state["secrets"] = {name: one for name, one in secrets.items() if one["labels"].get(INSTANCE) not in instances}
    elif words[1] == "persistentvolumeclaims":
        state["files"].clear()


def wanted(words: list[str]) -> tuple[set[str], str | None]:
    """Return of which releases, and of which component if of one only, something is asked for."""
    selector = words[words.index("--selector") + 1]
    ((one, several),) = re.findall(rf"{INSTANCE}(?:=([^,]+)| in \((.+?)\))", selector)
    components = re.findall(rf"{COMPONENT}=([^,]+)", selector)
    return {one} if one else set(several.split(",")), components[0] if components else None


def chosen(words: list[str], state: dict[str, Any]) -> list[str]:
    """Return what is of the kinds and labels that are asked for, as TYPE/NAME."""
    instances, component = wanted(words)
    found = []
    for one in (one for release in state["releases"].values() for one in release["objects"]):
        labels, of_type, name = one["metadata"]["labels"], TYPES.get(one["kind"]), one["metadata"]["name"]
        if of_type is None or labels[INSTANCE] not in instances or component not in {None, labels[COMPONENT]}:
            continue
        if words[1] == "pods" and one["kind"] == "StatefulSet":
            found.append(f"pod/{name}-0")
        elif f"{of_type.partition('.')[0]}s" in words[1].split(","):
            found.append(f"{of_type}/{name}")
    return found


def _get(words: list[str], state: dict[str, Any]) -> int:
    kind = words[1]
    output = words[words.index("--output") + 1] if "--output" in words else ""
    path = output.removeprefix("jsonpath={").removesuffix("}")
    if kind == "namespace":
        print("\n".join(f"namespace/{name}" for name in state["namespaces"] if name == words[2]))
    elif kind == "secret" and output == "name":
        print(f"secret/{words[2]}" if words[2] in state["secrets"] else "")
    elif kind == "secret":
        text = state["secrets"][words[2]]["values"].get(path.removeprefix(".data."), "")
        print(base64.b64encode(text.encode()).decode(), end="")
    elif kind == "pods" and "job-name=rattle-training" in words:
        print("pod/rattle-training-x7" if JOB.read_text() == "ready" else "")
    elif kind.startswith("job.batch/") and path.startswith(".status"):
        print(_of_job(JOB.read_text(), path), end="")
    elif "/" in kind:
        objects = [one for release in state["releases"].values() for one in release["objects"]]
        (asked,) = (one for one in objects if f"{TYPES.get(one['kind'])}/{one['metadata']['name']}" == kind)
        print(_at(asked, path), end="")
    elif output == "name":
        print("\n".join(chosen(words, state)))
    return 0


def _of_job(said: str, path: str) -> str:
    if said == "ready":
        return "1" if path.endswith(".ready") else ""
    return "True" if f'"{said}"' in path else ""


def _at(value: Any, path: str) -> str:
    """Return what is at a path, as kubectl prints it: texts as they are, and maps and lists as JSON."""
    for key, index, name in re.findall(r'\.(\w+)|\[(\d+)\]|\[\?\(@\.name=="(\w+)"\)\]', path):
        if name:
            value = next((one for one in value or () if one["name"] == name), None)
        elif value is not None:
            value = value[int(index)] if index else value.get(key)
    return value if isinstance(value, str) else json.dumps(value) if value is not None else ""


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
