"""ServiceCIDRs and IPAddresses through a real kubectl: a range goes when no ClusterIP needs it."""

from __future__ import annotations

from typing import Any

import pytest
from controllers_cluster import Cluster, service

FINALIZER = "networking.k8s.io/service-cidr-finalizer"


def a_range(name: str, *cidrs: str) -> dict[str, Any]:
    return {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}


def ready(cluster: Cluster, name: str) -> tuple[str, str]:
    found = (cluster.get("servicecidr", name).get("status") or {}).get("conditions") or [{"status": "", "reason": ""}]
    return found[0]["status"], found[0]["reason"]


def in_range(name: str, namespace: str, ip: str) -> dict[str, Any]:
    made = service(name, namespace)
    made["spec"]["clusterIP"] = ip
    return made


def test_a_range_in_use_stays_and_gives_nothing_more(cluster: Cluster, namespace: str) -> None:
    cluster.apply(a_range("more", "10.97.1.0/28"))
    cluster.eventually(lambda: ready(cluster, "more") == ("True", ""))
    assert cluster.get("servicecidr", "more")["metadata"]["finalizers"] == [FINALIZER]
    cluster.apply(in_range("web", namespace, "10.97.1.3"))
    shown = cluster.kubectl("get", "ip", "10.97.1.3").splitlines()
    assert [line.split()[:2] for line in shown] == [["NAME", "PARENTREF"], ["10.97.1.3", f"services/{namespace}/web"]]
    assert cluster.kubectl("get", "servicecidrs").split()[:3] == ["NAME", "CIDRS", "AGE"]
    cluster.kubectl("delete", "servicecidr", "more", "--wait=false")
    cluster.eventually(lambda: ready(cluster, "more") == ("False", "Terminating"))
    refused = cluster.run("-n", namespace, "create", "service", "clusterip", "late", "--tcp=80", "--clusterip=10.97.1.4", check=False)
    assert "the provided network does not match the current range" in refused.stderr
    cluster.kubectl("-n", namespace, "delete", "service", "web")
    assert cluster.run("get", "ipaddress", "10.97.1.3", check=False).returncode == 1


@pytest.mark.slow
def test_a_range_goes_with_its_last_address_or_when_another_has_them(cluster: Cluster, namespace: str) -> None:
    cluster.apply(a_range("small", "10.97.2.0/28"), a_range("other", "10.97.3.0/28"))
    cluster.apply(in_range("one", namespace, "10.97.2.3"), in_range("two", namespace, "10.97.3.3"))
    cluster.eventually(lambda: ready(cluster, "other") == ready(cluster, "small") == ("True", ""))
    cluster.kubectl("delete", "servicecidr", "small", "other", "--wait=false")
    cluster.eventually(lambda: ready(cluster, "other") == ready(cluster, "small") == ("False", "Terminating"))
    cluster.apply(a_range("large", "10.97.2.0/24"))  # has all of the first
    cluster.kubectl("-n", namespace, "delete", "service", "two")
    for name in ("small", "other"):
        cluster.eventually(lambda n=name: cluster.run("get", "servicecidr", n, check=False).returncode == 1, 30)
    assert cluster.get("-n", namespace, "service", "one")["spec"]["clusterIP"] == "10.97.2.3"
