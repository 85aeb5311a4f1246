"""`node` is made once per test file; afterwards nothing of it may be left."""

from __future__ import annotations

import os

import pytest
from kubelet_node import KubeletNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = KubeletNode(tmp_path_factory.mktemp("node"))
    try:
        made.start()
        made.wait(lambda: made.get("node", "node1"), "Node registered")
        yield made
        for name in ("kubelet", "runtime"):
            text = (made.base / f"{name}.log").read_text()
            assert "Traceback" not in text, text[-5000:]
    finally:
        made.dispose()
