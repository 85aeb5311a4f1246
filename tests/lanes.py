"""Who runs what when pytest-xdist has several workers: `pytest -n 2 --dist loadscope`.

Whole clusters, most of them of one name, mostly wait: the files that make them are one lane, in order. Every other file is a
lane of its own, for whoever is free.
"""

from __future__ import annotations

from typing import Any

import pytest

CLUSTERS = ("tests/e2e/", "tests/integration/cli/test_cli_bad_days.py")


def lane(nodeid: str) -> str:
    return "clusters" if nodeid.startswith(CLUSTERS) else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: lane(item.nodeid) != "clusters")  # the longest begins first


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lane(nodeid)

    return Lanes(config, log)
