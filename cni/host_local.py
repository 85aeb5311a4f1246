"""host-local: addresses from ranges, kept in files of this machine. Upstream: plugins/ipam/host-local.

Touches: the data directory and the resolvConf file; never the network namespace.
"""

from __future__ import annotations

import errno
import os

from cni import allocator, conf, errors, skel
from cni.address import IP, parse_ip
from cni.disk import Store
from cni.errors import CniError
from cni.result import at_least, check_routes, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cni.skel import Args


class IpamConf:
    """The checked `ipam` section: range sets, requested addresses, routes, where files are."""

    __slots__ = ("data_dir", "requested", "resolv_conf", "routes", "sets")

    def __init__(self, args: Args) -> None:
        """Raises CniError."""
        if conf.lookup(args.conf, "ipam") is None:
            raise CniError("IPAM config missing 'ipam' key")
        ipam = conf.section(args.conf, "ipam")
        runtime = conf.section(args.conf, "runtimeConfig")
        self.data_dir = conf.text(ipam, "dataDir")
        self.resolv_conf = conf.text(ipam, "resolvConf")
        self.routes = conf.objects(ipam, "routes")
        check_routes(self.routes)
        self.requested = _requested(args, runtime)
        raw_sets: list[Any] = [*conf.items(runtime, "ipRanges")]
        if conf.text(ipam, "subnet"):
            raw_sets.append([ipam])
        raw_sets += conf.items(ipam, "ranges")
        if not raw_sets:
            raise CniError("no IP ranges specified")
        self.sets = [_range_set(i, raw) for i, raw in enumerate(raw_sets)]
        allocator.check_sets(self.sets, at_least(args.version, "0.3.0"), args.version)


def _range_set(index: int, raw: Any) -> list[allocator.Range]:
    if not isinstance(raw, list):
        raise CniError(f"invalid range set {index}: must be a list of ranges")
    try:
        return allocator.parse_range_set(raw)
    except ValueError as e:
        raise CniError(f"invalid range set {index}: {e}") from None
    except CniError as e:
        raise CniError(f"invalid range set {index}: {e.msg}") from None


def _requested(args: Args, runtime: Mapping[str, Any]) -> list[IP]:
    """The addresses asked for, from CNI_ARGS, args.cni.ips and the `ips` capability together; a prefix is ignored."""
    written = [conf.load_args(args.args, ("IP",)).get("IP", "")]
    written += conf.texts(conf.section(conf.section(args.conf, "args"), "cni"), "ips")
    written += conf.texts(runtime, "ips")
    found: list[IP] = []
    for text in written:
        if not text:
            continue
        try:
            ip = parse_ip(text.partition("/")[0])
        except ValueError as e:
            raise CniError(f"cannot understand requested IP: {e}") from None
        if ip not in found:
            found.append(ip)
    return found


def owner_of(container_id: str, ifname: str) -> str:
    """What a reservation's file holds."""
    return f"{container_id.strip()}\r\n{ifname}"


def add(args: Args) -> dict[str, Any]:
    ipam = IpamConf(args)
    result: dict[str, Any] = {"interfaces": [], "ips": [], "routes": ipam.routes, "dns": {}}
    if ipam.resolv_conf:
        result["dns"] = _parse_resolv_conf(ipam.resolv_conf)
    store = Store(args.name, ipam.data_dir)
    try:
        with store:
            result["ips"] = _allocate(store, ipam, args)
    finally:
        store.close()
    return render(result, args.version)


def _allocate(store: Store, ipam: IpamConf, args: Args) -> list[dict[str, Any]]:
    """One address from each set, all or none. The lock is held throughout."""
    owner = owner_of(args.container_id, args.ifname)
    wanted = list(ipam.requested)
    taken = store.reservations()
    mine: list[IP] = []
    ips: list[dict[str, Any]] = []
    try:
        for index, ranges in enumerate(ipam.sets):
            asked = next((ip for ip in wanted if allocator.range_of(ranges, ip)), None)
            try:
                if asked is not None:
                    wanted.remove(asked)
                    ip, r = _take_requested(store, ranges, asked, owner, index)
                else:
                    ip, r = _take_next(store, ranges, taken, owner, index, args.container_id)
            except CniError as e:
                raise CniError(f"failed to allocate for range {index}: {e.msg}", e.code) from None
            taken[str(ip)] = owner
            mine.append(ip)
            ips.append({"address": f"{ip}/{r.subnet.length}", "gateway": str(r.gateway)})
        if wanted:
            raise CniError(f"failed to allocate all requested IPs: {' '.join(map(str, wanted))}")
    except BaseException:
        for ip in mine:
            store.release(ip)
        raise
    return ips


def _take_requested(
    store: Store, ranges: Sequence[allocator.Range], ip: IP, owner: str, index: int
) -> tuple[IP, allocator.Range]:
    r = allocator.range_of(ranges, ip)
    assert r is not None
    if ip == r.gateway:
        raise CniError(f"requested ip {ip} is subnet's gateway")
    if not store.reserve(ip, owner, index):
        raise CniError(f"requested IP address {ip} is not available in range set {allocator.describe(ranges)}")
    return ip, r


def _take_next(
    store: Store, ranges: Sequence[allocator.Range], taken: Mapping[str, str], owner: str, index: int, container_id: str
) -> tuple[IP, allocator.Range]:
    for text, holder in taken.items():
        if holder in (owner, container_id) and allocator.range_of(ranges, parse_ip(text)):
            raise CniError(f"{text} has been allocated to {container_id}, duplicate allocation is not allowed")
    tried = dict(taken)
    while True:
        found = allocator.next_free(ranges, tried, store.last_reserved(index))
        if found is None:
            raise CniError(f"no IP addresses available in range set: {allocator.describe(ranges)}")
        if store.reserve(found[0], owner, index):
            return found
        tried[str(found[0])] = ""  # something unreadable lies under that name


def delete(args: Args) -> None:
    ipam = IpamConf(args)
    store = _existing_store(args.name, ipam.data_dir)
    if store is None:
        return
    owner = owner_of(args.container_id, args.ifname)
    try:
        with store:
            # Old plugins wrote the bare id.
            if not store.release_matching(lambda o: o == owner):
                store.release_matching(lambda o: o == args.container_id)
    finally:
        store.close()


def check(args: Args) -> None:
    ipam = IpamConf(args)
    owners: set[str] = set()
    store = _existing_store(args.name, ipam.data_dir)
    if store is not None:
        try:
            with store:
                owners = set(store.reservations().values())
        finally:
            store.close()
    if not owners & {owner_of(args.container_id, args.ifname), args.container_id}:
        raise CniError(f"host-local: Failed to find address added by container {args.container_id}")


def gc(args: Args) -> None:
    """Release what belongs to no attachment of `cni.dev/valid-attachments`; without that key nothing is known to be stale."""
    ipam = IpamConf(args)
    valid = skel.valid_attachments(args)
    store = _existing_store(args.name, ipam.data_dir)
    if valid is None or store is None:
        return
    owners = {owner_of(container_id, ifname) for container_id, ifname in valid} | {c for c, _ in valid}
    try:
        with store:
            store.release_matching(lambda o: o not in owners)
    finally:
        store.close()


def status(args: Args) -> None:
    """Ready when the configuration is sound and the data directory can be written."""
    ipam = IpamConf(args)
    try:
        Store(args.name, ipam.data_dir).close()
    except OSError as e:
        raise CniError(f"cannot keep reservations: {e}", errors.PLUGIN_NOT_AVAILABLE) from None


def _existing_store(network: str, data_dir: str) -> Store | None:
    try:
        return Store(network, data_dir, create=False)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def _parse_resolv_conf(path: str) -> dict[str, Any]:
    dns: dict[str, Any] = {}
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, encoding="utf-8", errors="replace") as f:
        for line in f:
            fields = line.split()
            if len(fields) < 2 or fields[0][0] in "#;":
                continue
            if fields[0] == "nameserver":
                dns.setdefault("nameservers", []).append(fields[1])
            elif fields[0] == "domain":
                dns["domain"] = fields[1]
            elif fields[0] in ("search", "options"):
                dns.setdefault(fields[0], []).extend(fields[1:])
    return dns


PLUGIN = skel.Plugin(
    "CNI plugin host-local (nsk8s)", add=add, delete=delete, check=check, gc=gc, status=status, enters_netns=False
)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
