"""What `--cleanup` removes. Upstream: pkg/proxy/iptables/cleanup.go. Pure."""

from __future__ import annotations

from nsk8s.net import chainset
from nsk8s.proxy import rules
from nsk8s.proxy.names import SERVICE_PREFIXES

_SHARED = frozenset({
    rules.SERVICES, rules.EXTERNAL_SERVICES, rules.NODEPORTS, rules.FORWARD, rules.PROXY_FIREWALL, rules.POSTROUTING,
    rules.CANARY,
})  # fmt: skip
_KUBELETS = frozenset({rules.MARK_MASQ, rules.FIREWALL})
"""kubelet makes these too: with its canary there, they stay."""


def removal(saved: str) -> str:
    """Restore text (--noflush) that takes kube-proxy's jumps and chains out of what iptables-save printed; empty without any."""
    have = chainset.parse(saved)
    kubelet_runs = any("KUBE-KUBELET-CANARY" in chains for chains in have.tables.values())
    doomed = _SHARED if kubelet_runs else _SHARED | _KUBELETS
    out = []
    for table, chains in have.tables.items():
        gone = [n for n in chains if n in doomed or (table == "nat" and n.startswith(SERVICE_PREFIXES))]
        unhook = [
            f"-D {hook} {rule}"
            for hook, chain in chains.items()
            if hook not in gone
            for rule in chain.rules
            if chainset.target(rule) in gone
        ]
        if gone:
            lines = [f"*{table}", *(f":{n} - [0:0]" for n in gone), *unhook, *(f"-X {n}" for n in gone), "COMMIT\n"]
            out.append("\n".join(lines))
    return "".join(out)
