"""Ask the database of Open Source Vulnerabilities for advisories against the pinned packages: `make audit`.

It fails where there is one that pyproject.toml does not ignore, under `tool.supply-chain`, with a reason. Where the
database cannot be reached it says so and does not fail. An argument names another database of the same interface.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from make_locks import DEVELOPERS, GPU, HERE, packages_of

IGNORED = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["supply-chain"]["ignored-advisories"]
DATABASE = "https://api.osv.dev/v1/query"
_ONE_PACKAGE = "annotated-types==0.7.0"  # asked first, to see whether the database answers at all


def pins() -> Iterator[str]:
    """Yield NAME==VERSION of all packages that are pinned; those of users are among them."""
    for text in (text for path in (DEVELOPERS, GPU) for text in packages_of(path)):
        yield text.split()[0]


def ask(database: str, packages: str) -> list[dict[str, Any]] | str:
    """Return what is known of packages, or why nothing could be asked."""
    ignored = [word for advisory in IGNORED for word in ("--ignore-vuln", advisory)]
    with TemporaryDirectory() as folder:
        listed, answer = Path(folder, "packages.txt"), Path(folder, "answer.json")
        listed.write_text(packages)
        what = ["--no-deps", "--disable-pip", "-r", str(listed), *ignored]
        how = ["-s", "osv", "--osv-url", database, "--progress-spinner", "off", "-f", "json", "-o", str(answer)]
        command = [sys.executable, "-m", "pip_audit", *what, *how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
        if answer.exists():
            found: list[dict[str, Any]] = json.loads(answer.read_text())["dependencies"]
            return found
        return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]


def advisories(packages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each advisory against a package."""
    for package in packages:
        for found in package.get("vulns", ()):
            mended = ", ".join(found["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']}: {found['id']}, mended in {mended}"


def main(database: str = DATABASE) -> None:
    """Say what is known, and fail for advisories."""
    if isinstance(said := ask(database, _ONE_PACKAGE), str):
        print(f"NOT CHECKED FOR ADVISORIES: {database} does not answer here; run `make audit` where it does.\n{said}")
        return
    answer = ask(database, "\n".join(pins()))
    if isinstance(answer, str):  # of a database that answers
        sys.exit(f"the packages could not be checked for advisories: {answer}")
    if lines := [*advisories(answer)]:
        sys.exit("\n".join(lines))
    print(f"{len(answer)} packages have no advisories that are not ignored")


if __name__ == "__main__":
    main(*sys.argv[1:])
