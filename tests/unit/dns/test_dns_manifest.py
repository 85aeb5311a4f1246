"""The objects of the DNS add-on fit together, and are what kubeadm's are called."""

from nsk8s.dns import manifest
from nsk8s.dns.main import parse


def test_kinds_and_names() -> None:
    assert [(o["kind"], o["metadata"]["name"]) for o in manifest.objects()] == [
        ("ServiceAccount", "coredns"),
        ("ClusterRole", "system:coredns"),
        ("ClusterRoleBinding", "system:coredns"),
        ("Service", "kube-dns"),
        ("Deployment", "coredns"),
    ]


def test_the_service_finds_the_pods() -> None:
    *_, service, deployment = manifest.objects("10.97.0.10")
    template = deployment["spec"]["template"]
    assert service["spec"]["clusterIP"] == "10.97.0.10"
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert [(p["name"], p["port"], p["protocol"]) for p in service["spec"]["ports"]] == [
        ("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP"),
    ]  # fmt: skip


def test_the_probes_and_ports_are_those_the_program_listens_on() -> None:
    *_, deployment = manifest.objects(domain="cluster.example", forward=("192.0.2.1",))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    options = parse(container["args"])
    assert (options.cluster_domain, options.forward) == ("cluster.example", (("192.0.2.1", 53),))
    assert container["readinessProbe"]["httpGet"]["port"] == options.ready_port
    assert container["livenessProbe"]["httpGet"]["port"] == options.health_port
    assert {p["containerPort"] for p in container["ports"]} == {options.port, options.metrics_port}


def test_each_call_gives_objects_of_its_own() -> None:
    manifest.objects()[3]["spec"]["selector"]["x"] = "y"
    assert "x" not in manifest.objects()[3]["spec"]["selector"]
    assert "x" not in manifest.LABELS


def test_dual_stack() -> None:
    service = manifest.objects("10.96.0.10", cluster_ips=("10.96.0.10", "fd00::a"))[3]
    assert service["spec"]["clusterIPs"] == ["10.96.0.10", "fd00::a"]
    assert service["spec"]["ipFamilyPolicy"] == "RequireDualStack"
