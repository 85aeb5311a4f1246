"""A node whose plugins run in a network namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cni_node import Node

from cni.errors import CniError


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    found = Node(tmp_path)
    yield found
    found.close()


@pytest.fixture
def failure() -> Callable[[Callable[[], Any]], CniError]:
    """The CniError a call raises."""

    def catch(call: Callable[[], Any]) -> CniError:
        with pytest.raises(CniError) as caught:
            call()
        return caught.value

    return catch
