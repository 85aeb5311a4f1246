"""Which test files are worth another try: pytest's `--failed-files`, for `scripts/test --retry`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


class FailedFiles:
    """Writes a line a file. None at all after an error of a teardown: what was left on the machine would not be found again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: dict[str, None] = {}
        self._final = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid.partition("::")[0]] = None
            self._final |= report.when == "teardown"

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        yield  # what was left on the machine is looked for meanwhile
        self._path.write_text("" if self._final else "".join(f"{name}\n" for name in self._failed))
