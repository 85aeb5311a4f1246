"""`nsk8s rules`: what somebody meant who wrote a Service's name wrong."""

from __future__ import annotations

import pytest

from nsk8s.cli.rules import meant

KNOWN = ["default/hello", "default/web", "kube-system/kube-dns", "shop/web"]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("default/helo", "default/hello"),
        ("default/kube-dns", "kube-system/kube-dns"),
        ("shop/wbe", "shop/web"),
        ("kube-system/kubedns", "kube-system/kube-dns"),
        ("default/something", ""),
    ],
)
def test_meant(written: str, found: str) -> None:
    assert meant(written, KNOWN) == found
