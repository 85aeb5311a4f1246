"""What a node resolves names with, where the machine's own file lies outside /etc (Ubuntu)."""

from __future__ import annotations

from pathlib import Path

from nsk8s.cluster.machines import linked_resolv_conf


def test_a_link_is_followed_once_and_for_all(tmp_path: Path) -> None:
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "linked").symlink_to("stub")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert linked_resolv_conf(tmp_path / "linked") == {"etc/resolv.conf": "nameserver 127.0.0.53\n"}
    assert linked_resolv_conf(tmp_path / "dangling") == {"etc/resolv.conf": ""}
    assert linked_resolv_conf(tmp_path / "stub") == {}  # a file of its own is seen through the overlay
    assert linked_resolv_conf(tmp_path / "missing") == {}
