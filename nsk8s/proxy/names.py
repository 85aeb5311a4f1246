"""Names of service ports and of their chains. Upstream: pkg/proxy/iptables/proxier.go. Pure."""

from __future__ import annotations

from hashlib import sha256

SERVICE_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-")
"""The chains that belong to one service port each: of these, and of no others, stale ones are removed."""

PORTALS_CONTAINER, PORTALS_HOST = "KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST"
NODEPORT_CONTAINER, NODEPORT_HOST = "KUBE-NODEPORT-CONTAINER", "KUBE-NODEPORT-HOST"
NODEPORT_NON_LOCAL = "KUBE-NODEPORT-NON-LOCAL"
USERSPACE_CHAINS = frozenset({PORTALS_CONTAINER, PORTALS_HOST, NODEPORT_CONTAINER, NODEPORT_HOST, NODEPORT_NON_LOCAL})
"""userspace mode's, in tables nat and filter."""
IPVS_NODE_PORT, IPVS_LOAD_BALANCER = "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"
IPVS_SOURCE_RANGES = "KUBE-SOURCE-RANGES-FIREWALL"
IPVS_FILTER, IPVS_OUT_FILTER = "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"
IPVS_CHAINS = frozenset({IPVS_NODE_PORT, IPVS_LOAD_BALANCER, IPVS_SOURCE_RANGES, IPVS_FILTER, IPVS_OUT_FILTER})
"""ipvs mode's, in tables nat and filter, beside those that iptables mode has, too."""


def port_name(namespace: str, name: str, port: str) -> str:
    """`namespace/name`, and `:port` when the port has a name: as in rule comments and hashes."""
    return f"{namespace}/{name}:{port}" if port else f"{namespace}/{name}"


_B32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = tuple(a + b for a in _B32 for b in _B32)


def _base32_of_sha256(text: str) -> str:
    """The first 16 characters, ten bits at a time: a tenth of what base64.b32encode takes, and a full sync needs thousands."""
    n = int.from_bytes(sha256(text.encode()).digest()[:10], "big")
    p = _PAIRS
    return (
        p[n >> 70] + p[n >> 60 & 1023] + p[n >> 50 & 1023] + p[n >> 40 & 1023]
        + p[n >> 30 & 1023] + p[n >> 20 & 1023] + p[n >> 10 & 1023] + p[n & 1023]
    )  # fmt: skip


def chain_hash(text: str) -> str:
    """The first 16 characters of base32(sha256(text)): a chain's name has at most 28 characters."""
    return _base32_of_sha256(text)


def service_hash(port: str, protocol: str) -> str:
    """What SVC, SVL, EXT and FW of one service port share; `port` as `port_name` makes it, protocol in lower case."""
    return chain_hash(port + protocol)


def endpoint_chain(port: str, protocol: str, endpoint: str) -> str:
    """KUBE-SEP-…; `endpoint` is ip:port."""
    return "KUBE-SEP-" + chain_hash(port + protocol + endpoint)


NFT_NAME_MAX, NFT_PREFIX_MAX = 256, 16
"""The kernel's limit for the name of a chain or set, and the room that upstream leaves for prefixes like "endpoint-"."""


def nft_base(text: str) -> str:
    """nftables mode: the readable part of a name behind eight characters of its hash, cut to the kernel's limit."""
    base = f"{_base32_of_sha256(text)[:8]}-{text}"
    longest = NFT_NAME_MAX - NFT_PREFIX_MAX
    return base if len(base) <= longest else base[: longest - 3] + "..."


NFT_COMMENT_MAX = 128
"""nft refuses longer ones, and with one of them the whole transaction; three names may have 63 letters each."""


def nft_comment(port: str) -> str:
    """nftables mode: `port` as `port_name` makes it, cut to what a comment may have."""
    return port if len(port) <= NFT_COMMENT_MAX else port[: NFT_COMMENT_MAX - 3] + "..."
