"""The command's decisions: words, manifests, text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from nsk8s.cli import delete, machines, manifests, pods, printers, status
from nsk8s.cli.common import error_line
from nsk8s.cli.describers import generic, network, pod, workloads
from nsk8s.cli.describers.resources import container_resource, pod_total
from nsk8s.cli.describers.text import Text, align, annotation_lines
from nsk8s.cli.targets import parse_targets
from nsk8s.errors import NotFound, Nsk8sError


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        (("pods",), [("pods", "")]),
        (("pods,svc",), [("pods", ""), ("svc", "")]),
        (("pods", "a", "b"), [("pods", "a"), ("pods", "b")]),
        (("pod,svc", "a"), [("pod", "a"), ("svc", "a")]),
        (("pod/a", "svc/b"), [("pod", "a"), ("svc", "b")]),
    ],
)
def test_targets(words: tuple[str, ...], targets: list[tuple[str, str]]) -> None:
    assert parse_targets(words) == targets


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("kind: KubeProxyConfiguration\nmode: nftables\n", "nftables"),
        ("mode: 'ipvs'\n", "ipvs"),
        ('{\n  "mode": "userspace"\n}\n', "userspace"),
        ("# mode: nftables\ndetectLocalMode: ClusterCIDR\n", "iptables"),
        ('mode: ""\niptables: {}\n', "iptables"),
        ("", "iptables"),
    ],
)
def test_the_proxy_mode_that_a_nodes_file_says(text: str, mode: str) -> None:
    assert status.proxy_mode(text) == mode


@pytest.mark.parametrize("words", [(), ("pod/a", "b"), ("pod/",), ("/a",), ("pod/a/b",), (",",), ("pods", "a?watch=1"),
                                   ("pod/a#b",), ("pods", ".."), ("pods", "a b")])  # fmt: skip
def test_targets_that_mean_nothing(words: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        parse_targets(words)


def read(tmp_path: Path, text: str | bytes, name: str = "m.yaml") -> list[manifests.Manifest]:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifests.read((str(file),))


CM = "{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}}"


def test_manifests_of_every_form(tmp_path: Path) -> None:
    def names(text: str) -> list[str]:
        return [m.object["metadata"]["name"] for m in read(tmp_path, text)]

    assert names(f"---\n# a comment\n---\n{CM % 'a'}\n---\n{CM % 'b'}\n---\n") == ["a", "b"]
    assert names(f"apiVersion: v1\nkind: List\nitems:\n- {CM % 'a'}\n- {CM % 'b'}") == ["a", "b"]
    assert names(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "j"}})) == ["j"]
    assert names("\ufeff" + CM % "marked") == ["marked"], "a byte order mark is no part of the text"


def test_manifests_are_json_in_the_end(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {when: 2026-01-01, port: 10:30, 2: two, on: x}"
    assert read(tmp_path, text)[0].object["data"] == {"when": "2026-01-01", "port": "10:30", "2": "two", "true": "x"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no objects in"),
        ("---\n---\n", "no objects in"),
        ("a: b: c", "m.yaml:1:5: not valid YAML: mapping values are not allowed"),
        ("a: b\n\tc: d", "m.yaml:2:1: not valid YAML"),
        ("kind: Pod\nkind: Pod", 'm.yaml:2:1: not valid YAML: key "kind" already set'),
        ("- a\n- b", "a list is not an object"),
        ("just words", "a text is not an object"),
        ("42", "a value is not an object"),
        ("apiVersion: v1\nmetadata: {name: a}", "an object without kind (apiVersion is v1)"),
        ("kind: Pod\nmetadata: {name: a}", "an object without apiVersion (kind is Pod)"),
        ("foo: bar", "an object without apiVersion (its keys are foo)"),
        ("apiVersion: 1\nkind: Pod", "an object without apiVersion"),
        ("apiVersion: v1\nkind: Pod", "Pod without metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 5}", "Pod without metadata.name"),
        ("apiVersion: v1\nkind: List\nitems: [3]", "a value is not an object"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "is not text"),
        (b"a\0b", "null byte"),
        ("a: !!python/object:os.system x", "not valid YAML: could not determine a constructor"),
        ("a: &a [*a]", "recursive"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(c + 1)}: &{chr(c + 1)} [" + ",".join([f"*{chr(c)}"] * 9) + "]\n" for c in range(97, 106)), "aliases"),
        ("[" * 3000 + "]" * 3000, "cannot be read"),
        ("a: .inf\nb: !!binary AAEC", "cannot be read"),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_refused_in_one_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(Nsk8sError) as e:
        read(tmp_path, text)
    line = error_line(e.value)
    assert says in line
    assert "\n" not in line
    assert "m.yaml" in line


def test_a_huge_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_BYTES", 2**20)
    with pytest.raises(Nsk8sError, match="larger than 1 MiB"):
        read(tmp_path, b"#" * (2**20 + 1))


def test_manifests_of_folders_and_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "b.yaml").write_text(CM % "b")
    (tmp_path / "a.yml").write_text(CM % "a")
    (tmp_path / "below" / "c.json").write_text('{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}')
    (tmp_path / "notes.txt").write_text("a: b: c")
    (tmp_path / "cluster.yaml").write_text("name: demo\nnodes: 2")
    assert [m.object["metadata"]["name"] for m in manifests.read((str(tmp_path),))] == ["a", "b"]
    assert "cluster.yaml: a cluster file (for `nsk8s up -f`), skipped" in capsys.readouterr().err
    assert [m.object["metadata"]["name"] for m in manifests.read((str(tmp_path),), recursive=True)] == ["a", "b", "c"]
    with pytest.raises(Nsk8sError, match="not fetched"):
        manifests.read(("https://example.com/x.yaml",))
    with pytest.raises(Nsk8sError, match="does not exist"):
        manifests.read((str(tmp_path / "nosuch"),))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Nsk8sError, match="no manifests"):
        manifests.read((str(tmp_path / "empty"),))


def test_errors_are_one_line_in_kubectls_words() -> None:
    assert error_line(NotFound('pods "a" not found')) == 'Error from server (NotFound): pods "a" not found'
    assert error_line(Nsk8sError("two\n  lines", "do this")) == "error: two lines → do this"


def test_grace_periods_as_kubectl_takes_them() -> None:
    assert delete.grace_of(-1, False, False) is None
    assert delete.grace_of(-1, True, False) == 1
    assert delete.grace_of(0, False, False) == 1, "0 skips the node, and needs --force"
    assert delete.grace_of(0, False, True) == 0
    assert delete.grace_of(-1, False, True) == 0
    assert delete.grace_of(30, False, False) == 30
    for bad in ((30, True, False), (30, False, True)):
        with pytest.raises(click.UsageError):
            delete.grace_of(*bad)


def test_durations() -> None:
    assert [pods.seconds(t) for t in ("90", "90s", "5m", "1h", "1h30m", "1h1m1s")] == [90, 90, 300, 3600, 5400, 3661]
    for bad in ("", "0", "soon", "-5", "1d", "5 m", "1.5h"):
        with pytest.raises(click.BadParameter):
            pods.seconds(bad)


def test_the_default_container() -> None:
    def pod(names: list[str], init: list[str] | None = None, **annotations: str) -> dict[str, Any]:
        spec = {"containers": [{"name": n} for n in names], "initContainers": [{"name": n} for n in init or []]}
        return {"metadata": {"annotations": annotations}, "spec": spec}

    assert pods.default_container(pod(["a"])) == ("a", "")
    assert pods.default_container(pod(["a", "b"], ["i"])) == ("a", 'Defaulted container "a" out of: a, b, i (init)')
    assert pods.default_container(pod(["a", "b"], **{pods.DEFAULT_CONTAINER: "b"})) == ("b", "")
    assert pods.container_names(pod(["a", "b"], ["i"])) == ["i", "a", "b"]


def test_exit_codes_of_exec() -> None:
    assert pods.exit_code({"status": "Success"}) == 0
    assert pods.exit_code({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}) == 7
    with pytest.raises(Nsk8sError, match="no such container"):
        pods.exit_code({"status": "Failure", "message": "no such container"})


def test_words_for_a_clusters_state() -> None:
    assert status.word_for(True, [], []) == "stopped"
    assert status.word_for(False, ["on", "off"], ["running"]) == "running", "a node switched off is as it was wished"
    assert status.word_for(False, ["off", "on"], ["running"], True) == "degraded", "nobody wishes for no control plane"
    assert status.word_for(False, ["on", "on"], []) == "degraded"
    assert status.word_for(False, ["on"], ["running", "backoff"]) == "degraded"
    assert status.word_for(False, ["on", "missing"], ["running"]) == "degraded"
    assert status.word_for(False, ["missing", "missing"], []) == "off"


def test_alignment_as_gos_tabwriter_has_it() -> None:
    assert align(["a\tb", "long\tc", "", "xx\ty"]) == ["a     b", "long  c", "", "xx  y"]
    assert align(["a\tb\tc", "aaa\tb", "a\tbbb\tc"]) == ["a    b  c", "aaa  b", "a    bbb  c"]
    assert align(["a\t\tc", "aa\t\tc"]) == ["a     c", "aa    c"], "an empty column is as wide as its padding"
    assert align(["a\t", "bbb\t"]) == ["a    ", "bbb  "]


def test_labels_of_fields_as_kubectl_splits_words() -> None:
    words = {"ownerReferences": "Owner References", "uid": "UID", "apiVersion": "API Version", "podIP": "Pod IP",
             "clusterIPs": "Cluster I Ps", "hugepages-1Gi": "Hugepages - 1 Gi", "x_y": "X Y"}  # fmt: skip
    assert {k: generic.label(k) for k in words} == words


def test_long_annotations_are_cut() -> None:
    out = Text()
    annotation_lines(out, {"a": "x" * 200, "b": "1\n2\n", "kubectl.kubernetes.io/last-applied-configuration": "{}"})
    assert out.render().splitlines() == [
        "Annotations:  a:", f"                {'x' * 138}...", "              b:", "                1", "                2"
    ]


def test_probes() -> None:
    base = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    tail = " delay=0s timeout=1s period=10s #success=1 #failure=3"
    assert pod.probe({**base, "exec": {"command": ["cat", "/x"]}}) == "exec [cat /x]" + tail
    assert pod.probe({**base, "httpGet": {"scheme": "HTTP", "port": "http", "path": "/z"}}) == "http-get http://:http/z" + tail
    assert pod.probe({**base, "tcpSocket": {"port": 80}}) == "tcp-socket :80" + tail
    assert pod.probe({**base, "grpc": {"port": 9, "service": "s"}}) == "grpc <pid>:9 s" + tail
    assert pod.probe(base) == "unknown" + tail


def test_sums_of_requests() -> None:
    def c(cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {"containers": [c("100m"), c("200m")], "initContainers": [c("250m"), c("50m", restartPolicy="Always"), c("400m")]}
    assert str(pod_total({"spec": spec}, "requests")["cpu"]) == "450m", "the last init container beside the sidecar is the most"
    spec["initContainers"] = [c("1m", restartPolicy="Always")]
    assert str(pod_total({"spec": {**spec, "overhead": {"cpu": "1"}}}, "requests")["cpu"]) == "1301m"
    container = {"resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}
    assert container_resource(None, container, {"resource": "limits.cpu"}) == "2"
    assert container_resource(None, container, {"resource": "limits.cpu", "divisor": "1m"}) == "1500"
    assert container_resource(None, container, {"resource": "limits.memory", "divisor": "1Mi"}) == "1024"
    assert container_resource(None, container, {"resource": "requests.memory"}) == "0"


def test_endpoints_shown_of_a_service() -> None:
    endpoints = [{"addresses": [f"10.0.0.{i}"], "conditions": {"ready": i != 2}} for i in range(1, 7)]
    slices = [{"ports": [{"name": "http", "port": 80}], "endpoints": endpoints}]
    assert network.endpoints_of(slices, "http") == "10.0.0.1:80,10.0.0.3:80,10.0.0.4:80 + 2 more..."
    assert network.endpoints_of(slices, "other") == ""


def test_the_new_replica_set_is_the_one_of_the_same_template() -> None:
    def rs(name: str, image: str) -> dict[str, Any]:
        labels = {"app": "a", workloads.HASH: name}
        return {"metadata": {"name": name}, "spec": {"template": {"metadata": {"labels": labels}, "spec": {"image": image}}}}

    deployment = {"spec": {"template": {"metadata": {"labels": {"app": "a"}}, "spec": {"image": "two"}}}}
    sets = [rs("one", "one"), rs("two", "two")]
    assert workloads.new_replica_set(deployment, sets) is sets[1]
    assert workloads.new_replica_set(deployment, sets[:1]) is None


def test_yaml_comes_back_as_it_was() -> None:
    values = ["yes", "no", "y", "012", "1e3", "1.5", "", " x", "a: b", "# c", "two\nlines\n", "two\nlines", "'", "null", "~", "2026-01-01", "é", "-", "a" * 200]
    assert yaml.safe_load(printers.to_yaml(values)) == values
    assert printers.to_yaml({"b": "yes", "a": [1, {"x": "012"}]}) == 'a:\n- 1\n- x: "012"\nb: "yes"\n'
    assert printers.to_json({"b": "<&>", "a": []}) == '{\n    "a": [],\n    "b": "\\u003c\\u0026\\u003e"\n}\n'


def test_pod_phases_are_counted() -> None:
    found = [{"status": {"phase": p}} for p in ("Running", "Pending", "Running", "Failed")]
    assert workloads.phases(found) == "2 Running / 1 Waiting / 0 Succeeded / 1 Failed"


def test_a_captures_target_names_the_port_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    from nsk8s.cluster.state import new_state
    from nsk8s.config import ClusterConfig

    state = new_state(ClusterConfig(), 6443)
    monkeypatch.setattr(machines, "loaded", lambda cluster: (None, state))
    assert machines.find("c", "switch/node2").interface == "node2"
    assert machines.find("c", "switch").interface == ""
    with pytest.raises(Nsk8sError, match="no node 'node9'"):
        machines.find("c", "switch/node9")
    with pytest.raises(Nsk8sError, match="there is no machine"):
        machines.find("c", "nowhere")


def test_a_cluster_of_another_version_says_how_to_be_rid_of_it() -> None:
    from nsk8s.cluster.state import ClusterState

    with pytest.raises(Nsk8sError, match="there is no such setting") as e:
        ClusterState({"name": "old", "kubeVersion": "1.2"}, 6443, []).cluster_config()
    assert e.value.remedy.endswith("nsk8s down --name old")
