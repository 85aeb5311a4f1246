"""Which sysctls a node takes, in upstream's words; and the longest host name a kernel holds."""

from __future__ import annotations

from typing import Any

import pytest

from nsk8s.errors import Nsk8sError
from nsk8s.kubelet import sysctls
from nsk8s.kubelet.config import from_document
from nsk8s.kubelet.dns import kernel_hostname


def pod(*names: str, **spec: Any) -> dict[str, Any]:
    asked = [{"name": n, "value": "1"} for n in names]
    return {"metadata": {"name": "p", "namespace": "d"}, "spec": {"securityContext": {"sysctls": asked}, **spec}}


@pytest.mark.parametrize(
    ("asked", "allowed", "says"),
    [
        (pod(), (), ""),
        (pod("net.ipv4.ip_local_port_range", "net/ipv4/tcp_fin_timeout", "kernel.shm_rmid_forced"), (), ""),
        (pod("net.core.somaxconn"), (), 'forbidden sysctl: "net.core.somaxconn" not allowlisted'),
        (pod("net/core/somaxconn"), (), 'forbidden sysctl: "net.core.somaxconn" not allowlisted'),
        (pod("net.core.somaxconn"), ("net.core.*",), ""),
        (pod("net.core.somaxconn"), ("net.core.somaxconn",), ""),
        (pod("net.core.somaxconn2"), ("net.core.somaxconn",), 'forbidden sysctl: "net.core.somaxconn2" not allowlisted'),
        (pod("vm.swappiness"), ("net.*", "kernel.msg*"), 'forbidden sysctl: "vm.swappiness" not allowlisted'),
        (pod("net.ipv4.tcp_rmem", hostNetwork=True), (), 'forbidden sysctl: "net.ipv4.tcp_rmem" not allowed with host net enabled'),
        (pod("kernel.msgmax", hostIPC=True), ("kernel.msg*",), 'forbidden sysctl: "kernel.msgmax" not allowed with host ipc enabled'),
        (pod("kernel.msgmax", hostNetwork=True), ("kernel.msg*",), ""),
    ],
)
def test_what_is_taken_and_what_is_not(asked: dict[str, Any], allowed: tuple[str, ...], says: str) -> None:
    assert sysctls.problem(asked, allowed) == says


def test_both_forms_of_a_name() -> None:
    assert sysctls.as_cri(pod("net/ipv4/conf/eth0.1/arp_filter", "net.ipv4.conf.eth0/1.x")) == {
        "net.ipv4.conf.eth0/1.arp_filter": "1", "net.ipv4.conf.eth0/1.x": "1",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["vm.swappiness", "*", "kernel.*", "net.*.x", "Net.x", "net..*x", ""])
def test_a_pattern_that_cannot_be_allowed_is_refused(text: str) -> None:
    kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "allowedUnsafeSysctls": [text]}
    with pytest.raises(Nsk8sError, match="allowedUnsafeSysctls"):
        from_document(kubelet, "config.yaml")


def test_the_kubelets_new_settings() -> None:
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "allowedUnsafeSysctls": ["net.core.*", "kernel.sem"], "runtimeRequestTimeout": "1m",
    }  # fmt: skip
    config, ignored = from_document(kubelet, "config.yaml")
    assert (config.allowed_unsafe_sysctls, config.runtime_timeout_s, ignored) == (("net.core.*", "kernel.sem"), 60.0, [])


def test_a_full_name_that_the_kernel_cannot_hold_is_refused() -> None:
    asked = pod(setHostnameAsFQDN=True)
    assert kernel_hostname(asked, "a", "b.default.svc.cluster.local") == "a.b.default.svc.cluster.local"
    assert kernel_hostname(asked, "a", "") == "a"
    assert kernel_hostname(pod(), "a", "b.default.svc") == "a"
    with pytest.raises(Nsk8sError, match=r"FQDN a+\.b\.c is too long \(64 is the max, 65 characters requested\)"):
        kernel_hostname(asked, "a" * 61, "b.c")
