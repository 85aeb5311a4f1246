"""`node` is made once per test file; afterwards nothing of it may be left: processes, control groups, mounts."""

from __future__ import annotations

import os

import pytest
from runtime_node import Client, Pod, RuntimeNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = RuntimeNode(tmp_path_factory.mktemp("node"))
    yield made
    log = made.base / "runtime.log"
    made.dispose()
    text = log.read_text() if log.exists() else ""
    assert "Traceback" not in text, text


@pytest.fixture
def client(node: RuntimeNode):
    connection = node.connect()
    yield connection
    connection.close()


@pytest.fixture
def pod(node: RuntimeNode, client: Client):
    made = Pod(node, client)
    yield made
    made.remove()
