"""Templates of CNI configurations: what a node puts in, and what is refused."""

from __future__ import annotations

import json

import pytest

from nsk8s.net.cnitemplate import Values, render

NODE = Values(
    "node1", ["192.168.56.11", "fd00:56::11"], ["10.244.1.0/24", "fd00:10:1::/64"], ["10.244.0.0/16", "fd00:10::/48"],
    ["10.96.0.0/16"], 1450,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ('{"subnet": "{{.PodCIDR}}"}', '{"subnet": "10.244.1.0/24"}'),
        ("{{ .PodCIDR }} {{-  .MTU -}} {{.NodeName}}", "10.244.1.0/24 1450 node1"),
        ("{{index .PodCIDRs 1}} {{ index  .NodeIPs  0 }}", "fd00:10:1::/64 192.168.56.11"),
        ("{{.NodeIP}} {{.ClusterCIDR}} {{index .ClusterCIDRs 1}} {{.ServiceCIDR}}", "192.168.56.11 10.244.0.0/16 fd00:10::/48 10.96.0.0/16"),
        ("{{.PodCIDRs}}", '["10.244.1.0/24", "fd00:10:1::/64"]'),
        ('{"a": {"b": {"c": {}}}}', '{"a": {"b": {"c": {}}}}'),
        ("", ""),
    ],
)
def test_what_a_node_puts_in(text: str, becomes: str) -> None:
    assert render(text, NODE) == becomes


def test_ranges_and_routes_are_what_host_local_takes() -> None:
    ipam = json.loads(render('{"ranges": {{.Ranges}}, "routes": {{.Routes}}}', NODE))
    assert ipam == {
        "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\n{{.PodCIRD}}", "line 3: {{.PodCIRD}}: there is no such field, did you mean PodCIDR?"),
        ("{{.Zz}}", "{{.Zz}}: there is no such field (there are NodeName, "),
        ("{{range .PodCIDRs}}x{{end}}", "{{range .PodCIDRs}}: only {{.Field}} and {{index .List NUMBER}} are understood"),
        ("{{PodCIDR}}", "only {{.Field}}"),
        ("{{}}", "only {{.Field}}"),
        ("{{index .PodCIDRs 2}}", "PodCIDRs has 2 of them here, counted from 0"),
        ("{{index .PodCIDR 0}}", "PodCIDR is no list"),
        ("a\n{{.PodCIDR}} {{.PodCIDR", "line 2: {{ without }}"),
    ],
)
def test_what_cannot_be_filled_in_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="line") as e:
        render(text, NODE)
    assert says in str(e.value)
    assert "\n" not in str(e.value)
