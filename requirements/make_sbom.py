"""List the packages that users get, with their licences, as CycloneDX, and refuse licences that are not accepted.

`make sbom` writes dist/rattle.cdx.json, and dist/snake_rl_SERVICE.cdx.json for the image of each service. It looks at
the packages of users.txt and developers.txt that are installed; which licences are accepted stands in pyproject.toml,
under `tool.supply-chain`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, Licensing
from make_locks import DEVELOPERS, HERE, PYTORCH, SERVICE_LISTS, SERVICES, USERS, packages_of
from packaging.utils import canonicalize_name

OUTPUT = HERE.parent / "dist" / "rattle.cdx.json"
POLICY = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["supply-chain"]

_licensing = Licensing()


def names_of(*lists: Path) -> set[str]:
    """Return the names of the packages of lists."""
    return {canonicalize_name(text.partition("==")[0]) for path in lists for text in packages_of(path)}


def installed() -> dict[str, Any]:
    """Return a bill of everything that is installed beside this Python."""
    kind = ["--pyproject", "pyproject.toml", "--mc-type", "application", "--output-reproducible", "--no-validate"]
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--of", "JSON", *kind, sys.executable]
    done = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True)  # noqa: S603 (no shell)
    bill: dict[str, Any] = json.loads(done.stdout)
    for component in bill["components"]:
        if found := POLICY["reviewed"].get(canonicalize_name(component["name"])):
            component["licenses"] = [{"expression": found}]
    return bill


def only(bill: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a bill without the components that are not among the names."""
    kept = [component for component in bill["components"] if canonicalize_name(component["name"]) in names]
    known = {bill["metadata"]["component"]["bom-ref"], *(component["bom-ref"] for component in kept)}
    graph = [
        {**node, "dependsOn": [ref for ref in node.get("dependsOn", ()) if ref in known]}
        for node in bill["dependencies"]
        if node["ref"] in known
    ]
    return {**bill, "components": kept, "dependencies": graph}


def licences(component: dict[str, Any]) -> list[str]:
    """Return what a component of a bill has for licences: SPDX expressions and identifiers, and names."""
    given = component.get("licenses", ())
    return [one.get("expression") or one["license"].get("id") or one["license"]["name"] for one in given]


def is_accepted(licence: str) -> bool:
    """Tell whether an SPDX expression, or a classifier of PyPI, permits what we do with packages."""
    if licence in POLICY["licences"]:
        return True
    try:
        return _holds(_licensing.parse(licence))
    except ExpressionError:
        return False


def _holds(expression: Any) -> bool:
    if isinstance(expression, _licensing.AND):
        return all(map(_holds, expression.args))
    if isinstance(expression, _licensing.OR):
        return any(map(_holds, expression.args))
    return expression is not None and str(expression) in POLICY["licences"]


def complaints(components: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each package whose licence is unknown or not accepted."""
    for component in components:
        found = licences(component)
        if not found or not all(map(is_accepted, found)):
            said = " and ".join(found) or "no licence"
            yield f"{component['name']} {component['version']} has {said}, which tool.supply-chain does not accept"


def write(path: Path, bill: dict[str, Any]) -> None:
    """Write a bill as JSON."""
    path.write_text(json.dumps(bill, indent=1) + "\n")


def main() -> None:
    """Write the bill, and say what is wrong with it."""
    bill = installed()
    OUTPUT.parent.mkdir(exist_ok=True)
    write(OUTPUT, only(bill, names_of(USERS, PYTORCH)))
    for service in SERVICES.keys() - {"base"}:
        lists = [SERVICE_LISTS / "base.txt", SERVICE_LISTS / f"{service}.txt"]
        names = names_of(*lists, *([PYTORCH] if service == "training" else []))
        write(OUTPUT.with_name(f"snake_rl_{service}.cdx.json"), only(bill, names))
    found = only(bill, names_of(USERS, DEVELOPERS, PYTORCH))["components"]
    if wrong := list(complaints(found)):
        sys.exit("\n".join(wrong))
    print(f"licences of {len(found)} packages are accepted; {OUTPUT.relative_to(HERE.parent)} lists those of users")


if __name__ == "__main__":
    main()
