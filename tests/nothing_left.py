"""The machine is after a test run what it was before: a pytest plugin that looks at both ends of the session.

It lives in the process that the run was started as; with pytest-xdist that is the one whose workers run the tests. What
it finds is reported as an error of the session's teardown, so that the closing line counts it.
"""

from __future__ import annotations

import os
import uuid

import machine_state
import pytest

SESSION_MARK = "NSK8S_TEST_SESSION"
"""An environment variable that every process of the run inherits."""


class NothingLeft:
    """Network, mounts, control groups, processes, files; see machine_state."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._before: machine_state.State = {}

    @pytest.hookimpl(tryfirst=True)  # before the workers are started
    def pytest_sessionstart(self) -> None:
        os.environ[SESSION_MARK] = self._mark
        self._before = machine_state.snapshot()

    @pytest.hookimpl(trylast=True)  # after they have ended
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        os.environ.pop(SESSION_MARK, None)
        if session.items and not any(map(_touches_the_machine, session.items)):
            return  # with workers this process does not know the items
        problems = machine_state.wait_for_nothing_left(self._before, f"{SESSION_MARK}={self._mark}")
        if problems:
            said = "the tests left this behind or changed it:\n" + "\n".join(f"  {p}" for p in problems)
            place = ("tests", None, "what the tests left")
            session.config.hook.pytest_runtest_logreport(report=pytest.TestReport("tests", place, {}, "failed", said, "teardown"))
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _touches_the_machine(item: pytest.Item) -> bool:
    return item.get_closest_marker("root") is not None or item.nodeid.startswith(("tests/integration/", "tests/e2e/"))
