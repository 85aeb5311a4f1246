"""Somebody's own CNI configurations and plugins, looked at before a cluster is made of them. Touches: the folders named.

The configurations' texts become part of what the cluster is (cluster.json), so that a node that boots or joins later gets the
same; the plugins stay where they are, and nodes see them there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cni import conf, libcni
from cni.errors import CniError
from cni.invoke import find_in_path
from cni.result import VERSIONS
from nsk8s.cluster.specs import search_path
from nsk8s.config import ClusterConfig, Cni
from nsk8s.errors import Nsk8sError
from nsk8s.net.cnitemplate import EXTENSIONS, Values, render

REMEDY = "docs/cni.md says what such a file holds"
MAX_BYTES = 2**20
_NODES_OWN = (
    "/dev", "/etc/cni", "/etc/kubernetes", "/proc", "/run/lock", "/run/netns", "/run/nsk8s", "/sys", "/var/lib/cni",
    "/var/lib/containers", "/var/lib/kubelet", "/var/lib/nsk8s", "/var/log/pods",
)  # fmt: skip
"""What a node has for itself; nothing of the machine's can be put there."""


def gather(config: ClusterConfig, base: Path) -> ClusterConfig:
    """The configuration with absolute folders (relative ones start at `base`) and confDir's texts. Raises Nsk8sError."""
    own = config.cni
    if not (own.bin_dir or own.conf_dir or own.conf):
        return config
    changes: dict[str, Any] = {}
    if own.bin_dir:
        changes["bin_dir"] = [_plugin_folder(base / folder) for folder in own.bin_dir]
    if own.conf_dir:
        if own.conf:
            raise Nsk8sError("cni.confDir and cni.conf exclude each other", "put all files into the folder, or all of them here")
        changes["conf_dir"], changes["conf"] = _read(base / own.conf_dir)
    gathered = config.model_copy(update={"cni": Cni(**{**own.model_dump(exclude_unset=True), **changes})})
    check(gathered, len(gathered.nodes) + 1)
    return gathered


def _plugin_folder(path: Path) -> str:
    found = path.expanduser().resolve()
    if not found.is_dir():
        raise Nsk8sError(f"cni.binDir: {path} is not a folder", "it holds the plugins' executables: /usr/lib/cni, for one")
    text = str(found)
    if ":" in text:
        raise Nsk8sError(f"cni.binDir: {text}: a colon separates the folders of CNI_PATH", "choose a path without one")
    if any(own == text or own.startswith(text.rstrip("/") + "/") or text.startswith(own + "/") for own in _NODES_OWN):
        raise Nsk8sError(f"cni.binDir: {text} is where a node has things of its own", "put the plugins into a folder elsewhere")
    return text


def _read(path: Path) -> tuple[str, dict[str, str]]:
    folder = path.expanduser().resolve()
    try:
        files = sorted(f for f in folder.iterdir() if f.suffix in EXTENSIONS and f.is_file())
        texts = {}
        for file in files:
            if file.stat().st_size > MAX_BYTES:
                raise Nsk8sError(f"{file} is larger than {MAX_BYTES} bytes", REMEDY)
            texts[file.name] = file.read_text()
    except OSError as e:
        raise Nsk8sError(f"cni.confDir: cannot read {e.filename or folder}: {e.strerror}", REMEDY) from e
    except UnicodeDecodeError as e:
        raise Nsk8sError(f"{file} is not UTF-8 text", REMEDY) from e
    if not texts:
        raise Nsk8sError(f"cni.confDir: no CNI configuration in {folder} (*.conflist, *.conf, *.json)", REMEDY)
    return str(folder), texts


def check(config: ClusterConfig, nodes: int) -> None:
    """Raise Nsk8sError, in one line with file and key, for a file that could not serve a cluster of so many nodes."""
    for name, text in config.cni.conf.items():
        where = f"{config.cni.conf_dir}/{name}" if config.cni.conf_dir else f"cni.conf: {name}"
        if "/" in name or Path(name).suffix not in EXTENSIONS:
            raise Nsk8sError(f"{where}: a configuration's name ends in .conflist, .conf or .json", REMEDY)
        try:
            networks = [_parsed(name, render(text, values)) for values in _two_nodes(config)]
            first, second = (dict(_pools(network)) for network in networks)
        except (CniError, ValueError) as e:
            raise Nsk8sError(f"{where}: {getattr(e, 'msg', e)}", REMEDY) from e
        version = networks[0].version
        if version and version not in VERSIONS:
            raise Nsk8sError(f"{where}: cniVersion {version} is not supported", f"known are {', '.join(VERSIONS)}")
        for key, (subnet, *_) in sorted(first.items() & second.items()):
            if nodes > 1:
                remedy = 'write "{{.PodCIDR}}", the node\'s own'
                raise Nsk8sError(f"{where}: {key}: {subnet} would be handed out on each of {nodes} nodes", remedy)


def _parsed(name: str, text: str) -> libcni.NetworkList:
    """A rendered file, as a runtime reads it. Raises CniError, ValueError."""
    try:
        body = json.loads(text)
    except ValueError as e:
        raise ValueError(f"not valid JSON: {e}") from None
    if isinstance(body, dict) and not name.endswith(".conflist"):
        body = {"name": body.get("name", ""), "cniVersion": body.get("cniVersion", ""), "plugins": [body]}
    return libcni.parse_list(json.dumps(body).encode())


def _two_nodes(config: ClusterConfig) -> Iterator[Values]:
    """What two nodes of the cluster would put in."""
    subnets = config.subnets
    parts = subnets.pods.subnets(new_prefix=subnets.node_mask), subnets.pods6.subnets(new_prefix=subnets.node_mask6)
    for i, (four, six) in enumerate(islice(zip(*parts, strict=False), 2)):
        ips = config.node_ips(config.control_plane_ip + i)
        yield Values(f"node{i}", ips, config.by_family(four, six), config.pod_cidrs, config.service_cidrs, 1500)


def _pools(network: libcni.NetworkList) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """(key, (subnet, rangeStart, rangeEnd)) of every range that host-local would hand out. Raises CniError."""
    for i, plugin in enumerate(network.plugins):
        ipam = conf.section(plugin, "ipam")
        if conf.text(ipam, "type") != "host-local":
            continue
        at = f"plugins[{i}].ipam"
        ranges = [(f"{at}.subnet", ipam)] if conf.text(ipam, "subnet") else []
        for j, one_set in enumerate(conf.items(ipam, "ranges")):
            if not isinstance(one_set, list):
                raise ValueError(f"{at}.ranges[{j}]: want a list of ranges")
            ranges += [(f"{at}.ranges[{j}][{k}].subnet", r) for k, r in enumerate(one_set) if isinstance(r, dict)]
        for key, r in ranges:
            yield key, (conf.text(r, "subnet"), conf.text(r, "rangeStart"), conf.text(r, "rangeEnd"))


def missing_plugins(config: ClusterConfig) -> list[str]:
    """A line for each plugin that the first configuration names and no folder has (yet): pods will wait for it."""
    path = search_path(config)
    for name, text in sorted(config.cni.conf.items()):
        network = _parsed(name, render(text, next(_two_nodes(config))))
        wanted = [p["type"] for p in network.plugins] + [conf.text(conf.section(p, "ipam"), "type") for p in network.plugins]
        out = []
        for plugin in dict.fromkeys(filter(None, wanted)):
            try:
                if not os.access(find_in_path(plugin, path), os.X_OK):
                    out.append(f"{name}: {find_in_path(plugin, path)} is not executable: pods will wait until it is")
            except CniError as e:
                out.append(f"{name}: {e.msg}: pods will wait until it is there")
        return out
    return []
