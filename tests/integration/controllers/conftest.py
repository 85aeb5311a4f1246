"""One control plane for the tests that only make objects in namespaces of their own; nodes are faked in a thread."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from controllers_cluster import Cluster, running

_numbers = itertools.count()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from running(tmp_path_factory.mktemp("controllers"))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace with its default ServiceAccount; deleted, not waited for, at the end."""
    name = f"t{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    cluster.eventually(lambda: cluster.run("-n", name, "get", "sa", "default", check=False).returncode == 0)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
