"""The objects of the DNS add-on fit together, and are what kubeadm's are called."""

from typing import Any

from nsk8s.dns import corefile, manifest
from nsk8s.dns.main import parse


def test_kinds_and_names() -> None:
    assert [(o["kind"], o["metadata"]["name"]) for o in manifest.objects()] == [
        ("ServiceAccount", "coredns"),
        ("ClusterRole", "system:coredns"),
        ("ClusterRoleBinding", "system:coredns"),
        ("Service", "kube-dns"),
        ("ConfigMap", "coredns"),
        ("Deployment", "coredns"),
    ]


def test_the_service_finds_the_pods() -> None:
    *_, service, _, deployment = manifest.objects("10.97.0.10")
    template = deployment["spec"]["template"]
    assert service["spec"]["clusterIP"] == "10.97.0.10"
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert [(p["name"], p["port"], p["protocol"]) for p in service["spec"]["ports"]] == [
        ("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP"),
    ]  # fmt: skip


def test_the_probes_and_ports_are_those_the_program_listens_on() -> None:
    *_, config, deployment = manifest.objects(domain="cluster.example", forward=("192.0.2.1",))
    spec = deployment["spec"]["template"]["spec"]
    (container,), (volume,), (mount,) = spec["containers"], spec["volumes"], container_mounts(spec)
    (item,) = volume["configMap"]["items"]
    assert (volume["configMap"]["name"], volume["name"]) == (config["metadata"]["name"], mount["name"])
    assert parse(container["args"]).conf == f"{mount['mountPath']}/{item['path']}"
    settings = corefile.parse(config["data"][item["key"]])
    assert settings.kubernetes.domain == "cluster.example"
    assert settings.blocks[0].forward == (("", (("192.0.2.1", 53),)),)
    assert container["readinessProbe"]["httpGet"]["port"] == settings.ready_port
    assert container["livenessProbe"]["httpGet"]["port"] == settings.health_port
    assert {p["containerPort"] for p in container["ports"]} == {settings.port, settings.metrics_port}


def container_mounts(spec: dict[str, Any]) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = spec["containers"][0]["volumeMounts"]
    return mounts


def test_each_call_gives_objects_of_its_own() -> None:
    manifest.objects()[3]["spec"]["selector"]["x"] = "y"
    assert "x" not in manifest.objects()[3]["spec"]["selector"]
    assert "x" not in manifest.LABELS


def test_dual_stack() -> None:
    service = manifest.objects("10.96.0.10", cluster_ips=("10.96.0.10", "fd00::a"))[3]
    assert service["spec"]["clusterIPs"] == ["10.96.0.10", "fd00::a"]
    assert service["spec"]["ipFamilyPolicy"] == "RequireDualStack"
