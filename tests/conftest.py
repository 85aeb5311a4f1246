"""What holds for every test: root or a clear failure, slow only when asked for, and nothing left on the machine at the end."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import machine_state
import pytest
from failed_files import FailedFiles
from hypothesis import HealthCheck, settings

SESSION_MARK = "NSK8S_TEST_SESSION"
# A busy machine is no defect: examples may take what they take.
settings.register_profile("nsk8s", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nsk8s")

TOUCHES_THE_MACHINE = ("integration", "e2e")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests marked slow (minutes)")
    parser.addoption(
        "--shared-machine", action="store_true",
        help="do not assert that nothing is left: other clusters or test runs come and go on this machine meanwhile",
    )  # fmt: skip
    parser.addoption(
        "--failed-files", type=Path, metavar="FILE",
        help="write down the test files of which something failed; nothing when the machine was not left as it was",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--failed-files"):
        config.pluginmanager.register(FailedFiles(config.getoption("--failed-files")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail('this test needs root: run `sudo scripts/test`, or leave such tests out with -m "not root"', pytrace=False)


def _touches_the_machine(items: list[pytest.Item]) -> bool:
    here = Path(__file__).parent
    return any(
        item.get_closest_marker("root") or item.path.relative_to(here).parts[0] in TOUCHES_THE_MACHINE
        for item in items
        if item.path.is_relative_to(here)
    )


@pytest.fixture(scope="session", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """The machine is after the session what it was before: network, mounts, cgroups, processes, files."""
    if request.config.getoption("--shared-machine") or not _touches_the_machine(request.session.items):
        yield
        return
    mark = uuid.uuid4().hex
    os.environ[SESSION_MARK] = mark
    before = machine_state.snapshot()
    yield
    del os.environ[SESSION_MARK]
    problems = machine_state.wait_for_nothing_left(before, f"{SESSION_MARK}={mark}")
    assert not problems, "the tests left this behind or changed it:\n" + "\n".join(f"  {p}" for p in problems)
