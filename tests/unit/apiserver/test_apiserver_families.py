"""Which IP families a Service gets on single- and dual-stack clusters."""

from __future__ import annotations

from typing import Any

import pytest

from nsk8s.api.meta import Object
from nsk8s.apiserver.servicefamilies import settle

V4, V6, BOTH, BOTH6 = ["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]
DUAL: Object = {
    "ipFamilyPolicy": "PreferDualStack", "ipFamilies": BOTH, "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
    "selector": {"a": "b"},
}  # fmt: skip


def settled(cluster: list[str], before: Object | None = None, **spec: Any) -> tuple[str, list[str]]:
    full = {"selector": {"a": "b"}, **spec}
    assert settle(full, before, cluster) == []
    return full["ipFamilyPolicy"], full["ipFamilies"]


def refused(cluster: list[str], before: Object | None = None, **spec: Any) -> str:
    causes = settle({"selector": {"a": "b"}, **spec}, before, cluster)
    assert len(causes) == 1, causes
    return f"{causes[0].field}: {causes[0].message}"


@pytest.mark.parametrize(
    ("cluster", "spec", "policy", "families"),
    [
        (V4, {}, "SingleStack", V4),
        (BOTH, {}, "SingleStack", V4),
        (BOTH6, {}, "SingleStack", V6),
        (BOTH, {"ipFamilies": V6}, "SingleStack", V6),
        (BOTH, {"clusterIPs": ["fd00::1"]}, "SingleStack", V6),
        (BOTH, {"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", BOTH),
        (V4, {"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", V4),
        (BOTH, {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": V6}, "RequireDualStack", BOTH6),
        (BOTH, {"ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["fd00::1"]}, "PreferDualStack", BOTH6),
        (BOTH, {"clusterIP": "None"}, "SingleStack", V4),
        (V4, {"clusterIP": "None", "selector": {}}, "RequireDualStack", BOTH),
        (V4, {"clusterIP": "None", "selector": {}, "ipFamilies": V6, "ipFamilyPolicy": "SingleStack"}, "SingleStack", V6),
    ],
)
def test_a_new_service(cluster: list[str], spec: Object, policy: str, families: list[str]) -> None:
    assert settled(cluster, **spec) == (policy, families)


@pytest.mark.parametrize(
    ("cluster", "spec", "why"),
    [
        (V4, {"ipFamilyPolicy": "RequireDualStack"}, "this cluster is not configured for dual-stack services"),
        (V4, {"ipFamilies": V6}, 'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'),
        (V4, {"clusterIPs": ["fd00::1"]}, 'clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster'),
        (BOTH, {"ipFamilies": BOTH}, "when multiple IP families are specified"),
        (BOTH, {"clusterIPs": ["10.96.0.1", "fd00::1"]}, "when multiple cluster IPs are specified"),
    ],
)
def test_what_a_cluster_cannot_give_is_refused(cluster: list[str], spec: Object, why: str) -> None:
    assert why in refused(cluster, **spec)


def test_from_one_family_to_two_and_back_only_by_policy() -> None:
    single = {"ipFamilyPolicy": "SingleStack", "ipFamilies": V4, "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}
    assert settled(BOTH, single, **{**single, "ipFamilyPolicy": "PreferDualStack"}) == ("PreferDualStack", BOTH)
    down = {**DUAL, "ipFamilyPolicy": "SingleStack"}
    assert settle(down, DUAL, BOTH) == []
    assert (down["ipFamilies"], down["clusterIPs"]) == (V4, ["10.96.0.9"])
    less = {**DUAL, "clusterIPs": ["10.96.0.9"]}
    assert "must be 'SingleStack' to release the secondary cluster IP" in refused(BOTH, DUAL, **less)


def test_a_service_stays_as_it_is_when_the_cluster_has_changed() -> None:
    assert settled(V4, DUAL, **DUAL) == ("PreferDualStack", BOTH)
    lonely = {**DUAL, "ipFamilies": V4, "clusterIPs": ["10.96.0.9"]}
    assert settled(BOTH, lonely, **lonely) == ("PreferDualStack", V4)
