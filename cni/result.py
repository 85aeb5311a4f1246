"""Results, and their shapes in each CNI version. Pure. Upstream: containernetworking/cni/pkg/types/{020,040,100}.

Inside, a result is a dict in the newest shape (1.1.0) without cniVersion: interfaces, ips, routes, dns. `parse` brings any
version's object into that shape, `render` writes it for a version.
"""

from __future__ import annotations

from cni.address import V4, parse_ip, parse_subnet
from cni.errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Result = dict[str, Any]

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_SINGLE = ("0.1.0", "0.2.0")
_WITH_IP_VERSION = ("0.3.0", "0.3.1", "0.4.0")
_ROUTE_KEYS_1_1 = ("mtu", "advmss", "priority", "table", "scope")
_INTERFACE_KEYS_1_1 = ("mtu", "socketPath", "pciID")


def parse_version(version: str) -> tuple[int, int, int]:
    """Raises ValueError. A missing version is 0.1.0."""
    parts = (version or "0.1.0").split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError(f"failed to parse config version {version!r}")
    major, minor, micro = (int(p) for p in parts)
    return major, minor, micro


def at_least(version: str, floor: str) -> bool:
    """Raises ValueError when `version` is none."""
    return parse_version(version) >= parse_version(floor)


def parse(body: Mapping[str, Any]) -> Result:
    """A result object of any supported version, in the newest shape. Raises CniError."""
    version = body.get("cniVersion")
    version = "0.1.0" if version in (None, "") else version
    if version not in VERSIONS:
        raise CniError(f"unsupported CNI result version {version!r}")
    try:
        if version in _SINGLE:
            found = _parse_single(body)
        else:
            found = {
                "interfaces": [dict(i) for i in body.get("interfaces") or []],
                "ips": [{k: v for k, v in ip.items() if k != "version"} for ip in body.get("ips") or []],
                "routes": [dict(r) for r in body.get("routes") or []],
                "dns": dict(body.get("dns") or {}),
            }
        _check_kinds(found)
        return found
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise CniError(f"malformed CNI result: {e!r}") from None


def _check_kinds(result: Result) -> None:
    """Raises ValueError, TypeError or KeyError when a part is not what its name says."""
    for interface in result["interfaces"]:
        for key in ("name", "mac", "sandbox"):
            _kind(interface.get(key, ""), str)
    for ip in result["ips"]:
        parse_subnet(ip["address"])
        if ip.get("gateway"):
            parse_ip(ip["gateway"])
        if ip.get("interface") is not None:
            _kind(ip["interface"], int)
    for route in result["routes"]:
        parse_subnet(route["dst"])
        if route.get("gw"):
            parse_ip(route["gw"])


def _kind(value: object, kind: type) -> None:
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise TypeError(f"{value!r} is no {kind.__name__}")


def _parse_single(body: Mapping[str, Any]) -> Result:
    found: Result = {"interfaces": [], "ips": [], "routes": [], "dns": dict(body.get("dns") or {})}
    for key in ("ip4", "ip6"):
        config = body.get(key)
        if config is not None:
            found["ips"].append(
                {"address": config["ip"], **({"gateway": config["gateway"]} if config.get("gateway") else {})}
            )
            found["routes"] += [dict(r) for r in config.get("routes") or []]
    return found


def render(result: Result, version: str) -> dict[str, Any]:
    """`result` as `version` writes it. Raises CniError when that version cannot say it."""
    version = version or "0.1.0"
    if version in _SINGLE:
        return _render_single(result, version)
    newest = version == "1.1.0"
    body: dict[str, Any] = {"cniVersion": version}
    if result["interfaces"]:
        body["interfaces"] = [_without(i, () if newest else _INTERFACE_KEYS_1_1) for i in result["interfaces"]]
    if result["ips"]:
        body["ips"] = [_render_ip(ip, version) for ip in result["ips"]]
    if result["routes"]:
        body["routes"] = [_without(r, () if newest else _ROUTE_KEYS_1_1) for r in result["routes"]]
    body["dns"] = result["dns"]
    return body


def _render_ip(ip: Mapping[str, Any], version: str) -> dict[str, Any]:
    if version not in _WITH_IP_VERSION:
        return dict(ip)
    return {"version": str(_family(ip["address"])), **ip}


def _render_single(result: Result, version: str) -> dict[str, Any]:
    body: dict[str, Any] = {"cniVersion": version}
    for ip in result["ips"]:
        key = "ip4" if _family(ip["address"]) == V4 else "ip6"
        if key not in body:  # these versions have room for one address a family
            body[key] = {"ip": ip["address"], **({"gateway": ip["gateway"]} if ip.get("gateway") else {})}
    if len(body) == 1:
        raise CniError("cannot convert: no valid IP addresses")
    for route in result["routes"]:
        key = "ip4" if _family(route["dst"]) == V4 else "ip6"
        if key in body:
            body[key].setdefault("routes", []).append({k: route[k] for k in ("dst", "gw") if route.get(k)})
    body["dns"] = result["dns"]
    return body


def _family(address: str) -> int:
    return parse_ip(address.partition("/")[0]).family


def _without(obj: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in obj.items() if k not in keys}


def convert(body: Mapping[str, Any], version: str) -> dict[str, Any]:
    """A result object brought to another version; the same object when it has that version already."""
    if body.get("cniVersion", "0.1.0") == (version or "0.1.0"):
        return dict(body)
    return render(parse(body), version)


def previous_result(config: Mapping[str, Any], version: str) -> Result:
    """The prevResult of a chained plugin's configuration, in the newest shape. Raises CniError when there is none."""
    found = optional_previous_result(config, version)
    if found is None:
        raise CniError("Required prevResult missing")
    return found


def optional_previous_result(config: Mapping[str, Any], version: str) -> Result | None:
    """As `previous_result`; None when there is none. One that does not say its version has the configuration's."""
    body = config.get("prevResult")
    if body is None:
        return None
    if not isinstance(body, dict):
        raise CniError("could not parse prevResult: not an object")
    return parse(body if body.get("cniVersion") else {**body, "cniVersion": version})


def check_routes(routes: list[Any]) -> None:
    """Raises CniError when a route has no valid dst or a gw that is no address."""
    for route in routes:
        try:
            parse_subnet(route["dst"])
            if route.get("gw"):
                parse_ip(route["gw"])
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise CniError(f"invalid route {route!r}: {e}") from None
