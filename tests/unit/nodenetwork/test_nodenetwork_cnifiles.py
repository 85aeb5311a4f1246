"""What node-network writes into /etc/cni/net.d: its own conflist, or somebody's templates filled in, and nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from nsk8s.nodenetwork.cnifiles import CniFiles
from nsk8s.nodenetwork.plan import CONFLIST

NODE: dict[str, Any] = {
    "metadata": {"name": "node1"}, "spec": {"podCIDR": "10.244.1.0/24"},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.56.11"}]},
}  # fmt: skip


def files(tmp_path: Path, *, mtu: int = 0, **templates: str) -> CniFiles:
    folder = tmp_path / "templates"
    folder.mkdir(exist_ok=True)
    for name, text in templates.items():
        (folder / f"{name}.conflist").write_text(text)
    return CniFiles(tmp_path / "net.d", folder if templates else None, ["10.244.0.0/16"], ["10.96.0.0/16"], mtu)


def held(tmp_path: Path) -> dict[str, str]:
    return {f.name: f.read_text() for f in (tmp_path / "net.d").iterdir()}


@pytest.mark.parametrize(("asked", "overlay", "mtu"), [(0, 0, None), (1400, 0, 1400), (0, 1450, 1450), (1400, 1450, 1400), (9000, 1450, 1450)])
def test_without_templates_it_is_our_conflist_with_the_smaller_mtu(tmp_path: Path, asked: int, overlay: int, mtu: int | None) -> None:
    assert files(tmp_path, mtu=asked).ensure(NODE, overlay)
    assert list(held(tmp_path)) == [CONFLIST]
    assert json.loads(held(tmp_path)[CONFLIST])["plugins"][0].get("mtu") == mtu


def test_templates_take_the_place_of_ours_and_leave_other_files_alone(tmp_path: Path) -> None:
    files(tmp_path).ensure(NODE, 0)
    (tmp_path / "net.d" / "00-other.conf").write_text("mine")
    (tmp_path / "templates" / "README").write_text("{{.No}}")
    assert files(tmp_path, a="{{.NodeName}} {{.PodCIDR}} {{.MTU}}", b="{{.NodeIP}}").ensure(NODE, 1450)
    assert held(tmp_path) == {"00-other.conf": "mine", "a.conflist": "node1 10.244.1.0/24 1450", "b.conflist": "192.168.56.11"}


def test_a_template_that_cannot_be_filled_in_writes_nothing_and_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent = files(tmp_path, a="{}", b="{{.Pod}}")
    with caplog.at_level(logging.ERROR):
        assert not agent.ensure(NODE, 1450)
        assert not agent.ensure(NODE, 1450)
    assert [r.getMessage() for r in caplog.records] == [
        "CNI configuration: b.conflist: line 1: {{.Pod}}: there is no such field, did you mean PodCIDR? (there are NodeName, NodeIP, "
        "NodeIPs, PodCIDR, PodCIDRs, ClusterCIDR, ClusterCIDRs, ServiceCIDR, ServiceCIDRs, MTU, Ranges, Routes)"
    ]
    assert not (tmp_path / "net.d").exists()
    files(tmp_path, b="{}")
    assert agent.ensure(NODE, 1450), "once it is repaired"
