"""What holds for every test: root or a clear failure, slow only when asked for, and nothing left on the machine at the end."""

from __future__ import annotations

import os
from pathlib import Path

import lanes
import pytest
from failed_files import FailedFiles
from hypothesis import HealthCheck, settings
from nothing_left import NothingLeft
from patience import PATIENCE

# A busy machine is no defect: examples may take what they take. A run draws what the one before it drew; whoever looks for more
# than that sets NSK8S_TEST_SEARCH, and examples are drawn anew each time.
settings.register_profile(
    "nsk8s", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True,
    derandomize=not os.environ.get("NSK8S_TEST_SEARCH"),
)  # fmt: skip
settings.load_profile("nsk8s")


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
    config.pluginmanager.register(lanes)
    if hasattr(config, "workerinput"):  # pytest-xdist's: the process that started it sees to both
        return
    if config.getoption("--failed-files"):
        config.pluginmanager.register(FailedFiles(config.getoption("--failed-files")))
    if os.geteuid() == 0 and not config.getoption("--shared-machine") and not config.getoption("--collect-only"):
        config.pluginmanager.register(NothingLeft())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if PATIENCE != 1:
        for item in items:
            mark = item.get_closest_marker("timeout")
            limit = mark.args[0] if mark and mark.args else config.getoption("--timeout", None) or float(config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(PATIENCE * limit), append=False)
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail('this test needs root: run `sudo scripts/test`, or leave such tests out with -m "not root"', pytrace=False)
