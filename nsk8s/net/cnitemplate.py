"""CNI configurations with what differs from node to node left open: `{{.PodCIDR}}` and its like. Pure.

Upstream: containerd's conf_template and kind's /kind/manifests, both Go templates; this is the part of those that such files
need: a field in double braces, and `{{index .PodCIDRs 1}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

EXTENSIONS = (".conf", ".conflist", ".json")
"""What a runtime reads of /etc/cni/net.d."""
_ACTION = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
_FIELD = re.compile(r"\.(\w+)")
_INDEX = re.compile(r"index\s+\.(\w+)\s+(\d+)")
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True)
class Values:
    """What a node puts in. Lists have one entry an address family."""

    node_name: str
    node_ips: Sequence[str]
    pod_cidrs: Sequence[str]
    cluster_cidrs: Sequence[str]
    service_cidrs: Sequence[str]
    mtu: int

    def fields(self) -> dict[str, str | list[str]]:
        """Name → text, or a list, which `index` can take apart and which by itself is written as JSON."""
        versions = [ip_network(c).version for c in self.pod_cidrs]
        return {
            "NodeName": self.node_name,
            "NodeIP": next(iter(self.node_ips), ""),
            "NodeIPs": list(self.node_ips),
            "PodCIDR": next(iter(self.pod_cidrs), ""),
            "PodCIDRs": list(self.pod_cidrs),
            "ClusterCIDR": next(iter(self.cluster_cidrs), ""),
            "ClusterCIDRs": list(self.cluster_cidrs),
            "ServiceCIDR": next(iter(self.service_cidrs), ""),
            "ServiceCIDRs": list(self.service_cidrs),
            "MTU": str(self.mtu),
            "Ranges": json.dumps([[{"subnet": c}] for c in self.pod_cidrs]),
            "Routes": json.dumps([{"dst": _ANYWHERE[v]} for v in versions]),
        }


def render(text: str, values: Values) -> str:
    """The text with every action replaced. Raises ValueError that names the line and what is meant."""
    fields = values.fields()

    def replaced(action: re.Match[str]) -> str:
        try:
            return _value(action.group(1).strip(), fields)
        except ValueError as e:
            shown = " ".join(action.group().split())[:60]
            raise ValueError(f"line {_line(text, action.start())}: {shown}: {e}") from None

    done = _ACTION.sub(replaced, text)
    # JSON has no "{{" outside of strings: what is left of them was never closed.
    left = _ACTION.sub("", text).find("{{")
    if left >= 0:
        raise ValueError(f"line {_line(text, text.rindex('{{'))}: {{{{ without }}}}")
    return done


def _value(action: str, fields: dict[str, str | list[str]]) -> str:
    plain, indexed = _FIELD.fullmatch(action), _INDEX.fullmatch(action)
    found = plain or indexed
    if found is None:
        raise ValueError("only {{.Field}} and {{index .List NUMBER}} are understood")
    name = found.group(1)
    if name not in fields:
        from difflib import get_close_matches  # for whoever mistypes

        near = get_close_matches(name, fields, 1, 0.5)
        meant = f", did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no such field{meant} (there are {', '.join(fields)})")
    value = fields[name]
    if indexed is None:
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str):
        raise ValueError(f"{name} is no list")
    number = int(indexed.group(2))
    if number >= len(value):
        raise ValueError(f"{name} has {len(value)} of them here, counted from 0")
    return value[number]


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
