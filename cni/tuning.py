"""tuning: sysctls and attributes of the interface that an earlier plugin made. Upstream: plugins/meta/tuning.

Touches: /proc/sys/net and netlink in CNI_NETNS; a file a container in the data directory, from which DEL restores the
attributes (not the sysctls), in upstream's format.
"""

from __future__ import annotations

import os

from cni import conf, jsontext, skel
from cni.errors import CniError
from cni.interface import Inside, forget
from cni.result import previous_result, render
from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.skel import Args

DEFAULT_DATA_DIR = "/run/cni/tuning"
ALLOWLIST = "/etc/cni/tuning/allowlist.conf"


class TuningConf:
    """What to set; None (and promisc False) is left alone. `attributes` is {link_change's name: value}."""

    __slots__ = ("attributes", "data_dir", "promisc", "sysctls")

    def __init__(self, args: Args) -> None:
        """Raises CniError. args.cni wins over runtimeConfig, that over CNI_ARGS, that over the plugin's own keys."""
        c = args.conf
        over = conf.section(conf.section(c, "args"), "cni")
        self.data_dir = conf.text(c, "dataDir") or DEFAULT_DATA_DIR
        self.sysctls = {**_texts(conf.section(c, "sysctl")), **_texts(conf.section(over, "sysctl"))}
        mac = (
            conf.text(over, "mac")
            or conf.text(conf.section(c, "runtimeConfig"), "mac")
            or conf.load_args(args.args, ("MAC",)).get("MAC", "")
            or conf.text(c, "mac")
        )

        def flag(key: str) -> bool | None:
            found = [conf.flag(section, key) for section in (c, over) if conf.lookup(section, key) is not None]
            return found[-1] if found else None

        def number(key: str) -> int | None:
            found = [conf.number(section, key) for section in (c, over) if conf.lookup(section, key) is not None]
            if found and not 0 <= found[-1] < 1 << 32:
                raise CniError(f"{key}: invalid number {found[-1]}")
            return found[-1] if found else None

        self.promisc = bool(flag("promisc"))
        self.attributes: dict[str, Any] = {}
        if mac:
            try:
                self.attributes["mac"] = rtmsg.mac_text(rtmsg.pack_mac(mac))
            except OSError:
                raise CniError(f"invalid args {mac} for MAC addr") from None
        if self.promisc:
            self.attributes["promisc"] = True
        if number("mtu"):
            self.attributes["mtu"] = number("mtu")
        if flag("allmulti") is not None:
            self.attributes["allmulti"] = flag("allmulti")
        if number("txQLen") is not None:
            self.attributes["txqlen"] = number("txQLen")


def _texts(section: Mapping[str, Any]) -> dict[str, str]:
    return {key: conf.text({key: value}, key) for key, value in section.items()}


def sysctl_path(key: str, ifname: str) -> str:
    """The file of a sysctl named with dots or slashes; IFNAME in it is the interface. Raises CniError outside net."""
    written = key.replace(".", "/").replace("IFNAME", ifname, 1)
    path = os.path.normpath(f"/proc/sys/{written}")
    if not path.startswith("/proc/sys/net/"):
        raise CniError(f'invalid net sysctl key: "{written}"')
    return path


def _refuse_duplicates(args: Args, sysctls: Mapping[str, str]) -> None:
    """Raises CniError when the text names a sysctl twice: which one is meant?"""
    text = args.stdin.decode("utf-8", "replace")
    if all(text.count(jsontext.dumps([key])[1:-1]) < 2 for key in sysctls):
        return
    import json

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        body = dict(found)
        if len(body) < len(found) and set(body) <= set(sysctls):
            raise CniError("duplicated sysctl keys are not allowed")
        return body

    json.loads(text, object_pairs_hook=pairs)


def _refuse_unlisted(sysctls: Mapping[str, str]) -> None:
    """Raises CniError when the machine's list of patterns allows one of them not."""
    try:
        with open(ALLOWLIST, encoding="utf-8") as f:
            allowed = [line.strip() for line in f if line.strip()]
    except FileNotFoundError:
        return
    import re

    for key in sysctls:
        try:
            matched = any(re.search(pattern, key) for pattern in allowed)
        except re.error as e:
            raise CniError(f"{ALLOWLIST}: {e}") from None
        if not matched:
            raise CniError(f"Sysctl {key} is not allowed. Only the following sysctls are allowed: {allowed}")


def add(args: Args) -> dict[str, Any]:
    c = TuningConf(args)
    _refuse_duplicates(args, c.sysctls)
    _refuse_unlisted(c.sysctls)
    paths = {sysctl_path(key, args.ifname): value for key, value in c.sysctls.items()}
    result = previous_result(args.conf, args.version)
    with Inside(args.netns) as inside:
        with entered(inside.fd):
            for path, value in paths.items():
                _write(path, value)
        if c.attributes:
            link = _link(inside, args.ifname)
            _save(_backup_path(c, args), _attributes_of(link, c.attributes))
            _change(inside, link, c.attributes)
    if "mac" in c.attributes:
        for interface in result["interfaces"]:
            if interface.get("name") == args.ifname:
                interface["mac"] = c.attributes["mac"]
    return render(result, args.version)


def _write(path: str, value: str) -> None:
    try:
        with open(path, "wb", buffering=0) as f:
            f.write(value.encode())
    except OSError as e:
        raise CniError(f"failed to set {path} to {value}: {e.strerror}") from None


def _link(inside: Inside, ifname: str) -> rtmsg.Link:
    link = inside.rt.link_get(ifname)
    if link is None:
        raise CniError(f'failed to get "{ifname}": Link not found')
    return link


def _attributes_of(link: rtmsg.Link, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What the link has of the attributes that `wanted` names."""
    have = {
        "mac": link.mac, "promisc": link.promiscuity != 0, "mtu": link.mtu,
        "allmulti": bool(link.flags & rtmsg.IFF_ALLMULTI), "txqlen": link.txqlen,
    }  # fmt: skip
    return {key: value for key, value in have.items() if key in wanted}


def _change(inside: Inside, link: rtmsg.Link, attributes: Mapping[str, Any]) -> None:
    try:
        inside.rt.link_set(link.index, **attributes)
    except OSError as e:
        raise CniError(f'failed to change "{link.name}": {e.strerror}') from None


def _backup_path(c: TuningConf, args: Args) -> str:
    return os.path.join(c.data_dir, f"{args.container_id}_{args.ifname}.json")


def _save(path: str, have: Mapping[str, Any]) -> None:
    """Upstream's file, indented as Go indents it."""
    lines = [f' "{"txQLen" if key == "txqlen" else key}": {jsontext.dumps([value])[1:-1]}' for key, value in have.items()]
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, ("{\n" + ",\n".join(lines) + "\n}").encode())
    finally:
        os.close(fd)


def delete(args: Args) -> None:
    """Restores what ADD changed, if the interface is still there; the file goes in any case. Can be repeated."""
    c = TuningConf(args)
    path = _backup_path(c, args)
    try:
        with open(path, "rb") as f:
            saved = jsontext.loads(f.read().decode())
    except OSError:
        return
    except ValueError:
        saved = None
    if isinstance(saved, dict):
        _restore(args, saved)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _restore(args: Args, saved: dict[str, Any]) -> None:
    """As far as it can be done: the interface is about to be deleted anyway."""
    if not args.netns:
        return
    known = {"mac": str, "promisc": bool, "mtu": int, "allmulti": bool, "txQLen": int}
    attributes = {key.lower(): saved[key] for key, kind in known.items() if isinstance(saved.get(key), kind)}
    try:
        with Inside(args.netns) as inside:
            link = inside.rt.link_get(args.ifname)
            if link is not None:
                for key, value in attributes.items():
                    forget(lambda index=link.index, key=key, value=value: inside.rt.link_set(index, **{key: value}))  # type: ignore[misc]
    except CniError:
        return  # the namespace is gone, and the interface with it


def check(args: Args) -> None:
    c = TuningConf(args)
    _refuse_duplicates(args, c.sysctls)
    previous_result(args.conf, args.version)
    with Inside(args.netns) as inside:
        with entered(inside.fd):
            for key, value in c.sysctls.items():
                _check_sysctl(sysctl_path(key, args.ifname), value)
        link = _link(inside, args.ifname)
    wanted = {**c.attributes, "promisc": c.promisc}
    for key, value in _attributes_of(link, wanted).items():
        if value != wanted[key]:
            raise CniError(f"Error: Tuning configured {key} of {args.ifname} is {wanted[key]}, current value is {value}")


def _check_sysctl(path: str, value: str) -> None:
    try:
        with open(path, "rb", buffering=0) as f:
            current = f.read(4096).decode("utf-8", "replace").removesuffix("\n")
    except OSError as e:
        raise CniError(f"{path}: {e.strerror}") from None
    if current != value:
        raise CniError(f"Error: Tuning configured value of {path} is {value}, current value is {current}")


PLUGIN = skel.Plugin("CNI plugin tuning (nsk8s)", add=add, delete=delete, check=check)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
