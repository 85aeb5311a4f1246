"""What `scripts/test --retry` may try again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import pytest
from failed_files import FailedFiles

When = Literal["setup", "call", "teardown"]


def report(nodeid: str, when: When, outcome: Literal["passed", "failed", "skipped"]) -> pytest.TestReport:
    return pytest.TestReport(nodeid, (nodeid, 1, nodeid), cast(Any, {}), outcome, None, when)


def written(tmp_path: Path, *reports: pytest.TestReport) -> list[str]:
    file = tmp_path / "failed"
    plugin = FailedFiles(file)
    for each in reports:
        plugin.pytest_runtest_logreport(each)
    list(plugin.pytest_sessionfinish())
    return file.read_text().splitlines()


def test_each_file_once_in_the_order_of_failing(tmp_path: Path) -> None:
    failed = [report("b.py::one", "call", "failed"), report("a.py::two[x]", "setup", "failed"), report("b.py::C::t", "call", "failed")]
    fine = [report("c.py::one", "call", "passed"), report("d.py::one", "setup", "skipped")]
    assert written(tmp_path, *failed, *fine) == ["b.py", "a.py"]


def test_what_a_teardown_found_is_final(tmp_path: Path) -> None:
    assert written(tmp_path, report("a.py::one", "call", "failed"), report("z.py::last", "teardown", "failed")) == []
