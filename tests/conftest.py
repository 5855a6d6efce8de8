"""What holds for all tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler.loadscope import LoadScopeScheduling

from rattle import addresses
from rattle.output import hush_libraries
from tests.passed import RECORD, SUITES, WHOLE, is_unchanged
from tests.rabbitmq import exchange, rabbitmq, rabbitmq_node  # noqa: F401 (fixtures for all)

#: Long tests that share nothing with the others of their file, the longest first. They start before all others, and any
#: worker takes them; the tests of a file otherwise stay with one worker, for they share its servers.
LONG = (
    "test_a_million_ticks",
    "test_services_that_are_killed_again_and_again",
    "test_ten_deaths",
    "test_twenty_deaths",
    "test_schemathesis",
    "test_targets.py",
    "test_up_services.py",
    "test_up_sync_services.py",
    "test_kernel_equals_reference_over_random_games",
    "test_exactness.py",
    "test_long_tables.py",
    "test_served.py",
    "test_foreign_environments.py",
)

CI_MINUTES = 25

# As every command does, some of which tests call in this process: forks of a template must have what it has.
hush_libraries()


def _is_long(nodeid: str) -> bool:
    return any(name in nodeid for name in LONG)


# A test that is slow on a busy machine is not wrong.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_configure() -> None:
    """Undo signals that a shell or nohup has had this process ignore: programs under test would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only modules with marked tests where those alone are wanted: all of them take every worker seconds."""
    if config.option.markexpr != "integration" or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text()
    return None if "mark.integration" in text or "needs_rabbitmq" in text else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what passed as it is, and begin with the long tests, so that no worker is left with one at the end."""
    passed = set() if os.environ.get(WHOLE) else {name for name in SUITES if is_unchanged(name)}
    for item in items:
        for mark in item.iter_markers("whole"):
            if mark.kwargs["suite"] in passed:
                reason = f"{mark.kwargs['suite']} is as it was when this passed ({RECORD}); {WHOLE}=1 runs it"
                item.add_marker(pytest.mark.skip(reason=reason))
    places = {item: next((n for n, name in enumerate(LONG) if name in item.nodeid), len(LONG)) for item in items}
    items.sort(key=places.__getitem__)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long CI has taken so far."""
    if started := os.environ.get("CI_STARTED"):
        minutes = (time.time() - float(started)) / 60
        terminalreporter.write_line(f"CI has taken {minutes:.1f} minutes so far; all of it may take {CI_MINUTES}")


class _Scheduling(LoadScopeScheduling):
    """Hands out files whole, and long tests one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if _is_long(nodeid) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduling:
    """Return who hands out tests to workers."""
    return _Scheduling(config, log)


@pytest.fixture(autouse=True)
def _no_credentials_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin every test without the credentials that an earlier one kept: its services would be handed them."""
    monkeypatch.setattr(addresses, "_kept", {})
    monkeypatch.delenv(addresses.CREDENTIALS_VARIABLE, raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let tests that CI promises to run fail there where they cannot run; what has passed as it is may be left out."""
    report = yield
    is_promised = os.environ.get("CI") and item.get_closest_marker("promised")
    if report.skipped and is_promised and RECORD not in report.longrepr[2]:
        report.outcome = "failed"
        report.longrepr = f"CI promises this test, and it was skipped: {report.longrepr[2]}"
    return report
