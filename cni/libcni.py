"""What a runtime does with CNI: network lists from a folder, plugins in a chain, the result cache. Upstream: cni/libcni.

Touches: the configuration folder, the cache, and through the plugins everything else.  The caller is in the node's network and
mount namespaces.  `run` says how a plugin is started: `run_exec` (a process, always), `run_fork` (a forked child when the file
found is ours), `run_here` (a call when it is ours).  `start` runs one of the operations in a child and gives a descriptor to
poll, for a runtime that must not block; where `all_ours`, calling it in the runtime itself takes less time than that fork.
"""

from __future__ import annotations

import base64
import contextlib
import gc as garbage
import json
import os

from cni import skel
from cni.errors import CniError
from cni.invoke import (
    decode_result,
    find_in_path,
    outcome,
    own_main,
    read_all,
    reap,
    run_exec,
    run_fork,
    run_here,
    run_here_within,
    write_all,
)
from cni.result import VERSIONS, at_least, convert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from cni.invoke import Runner

__all__ = [
    "DEFAULT_CACHE_DIR", "DEFAULT_CONF_DIR", "Attachment", "NetworkList", "Pending", "add", "all_ours", "any_foreign",
    "attachments", "cached_network", "check", "delete", "first_network", "gc", "load_file", "load_network", "parse_list",
    "pod_ips", "run_exec", "run_fork", "run_here", "run_here_within", "start", "status",
]  # fmt: skip

DEFAULT_CONF_DIR = "/etc/cni/net.d"
DEFAULT_CACHE_DIR = "/var/lib/cni"
CACHE_KIND = "cniCacheV1"


class NetworkList:
    """A network: its name, its version, its plugins' own objects, and the bytes it was read from."""

    __slots__ = ("disable_check", "disable_gc", "name", "plugins", "raw", "version")

    def __init__(
        self, name: str, version: str, plugins: list[dict[str, Any]], raw: bytes, disable_check: bool = False,
        disable_gc: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.version = version
        self.plugins = plugins
        self.raw = raw
        self.disable_check = disable_check
        self.disable_gc = disable_gc


class Attachment:
    """One container on one network: who, where, and what the caller passes on to the plugins."""

    __slots__ = ("args", "capability_args", "container_id", "ifname", "netns")

    def __init__(
        self,
        container_id: str,
        netns: str,
        ifname: str,
        args: Sequence[tuple[str, str]] = (),
        capability_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.container_id = container_id
        self.netns = netns
        self.ifname = ifname
        self.args = [(str(k), str(v)) for k, v in args]
        self.capability_args = dict(capability_args or {})


# ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_list(raw: bytes) -> NetworkList:
    """A conflist's bytes. Raises CniError with what is wrong."""
    body = _object(raw, "configuration list")
    name, version = body.get("name"), body.get("cniVersion", "")
    if not isinstance(name, str) or not name:
        raise CniError("error parsing configuration list: no name")
    if not isinstance(version, str):
        raise CniError("error parsing configuration list: invalid cniVersion type")
    plugins = body.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise CniError("error parsing configuration list: no plugins in list")
    for i, plugin in enumerate(plugins):
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise CniError(f"failed to parse plugin config {i}: missing 'type'")
    return NetworkList(
        name, _best_version(body, version), plugins, raw, _flag(body, "disableCheck"), _flag(body, "disableGC")
    )


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        body = json.loads(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as e:
        raise CniError(f"error parsing {what}: {e}") from None
    if not isinstance(body, dict):
        raise CniError(f"error parsing {what}: not an object")
    return body


def _best_version(body: Mapping[str, Any], version: str) -> str:
    """The newest of `cniVersions` and `cniVersion` that we know; cniVersion where there is no such list."""
    several = body.get("cniVersions")
    if several is None:
        return version
    if not isinstance(several, list) or not all(isinstance(v, str) for v in several):
        raise CniError("error parsing configuration list: invalid type for cniVersions")
    known = [v for v in VERSIONS if v in several or v == version]
    return known[-1] if known else version


def _flag(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key, False)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise CniError(f"error parsing configuration list: invalid value {value!r} for {key}")
    return value


def load_file(path: str) -> NetworkList:
    """A .conflist, or a single plugin's .conf or .json wrapped into a list. Raises CniError."""
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except OSError as e:
        raise CniError(f"error reading {path}: {e.strerror}") from None
    if path.endswith(".conflist"):
        return parse_list(raw)
    plugin = _object(raw, "configuration")
    wrapped = {"name": plugin.get("name", ""), "cniVersion": plugin.get("cniVersion", ""), "plugins": [plugin]}
    return parse_list(json.dumps(wrapped).encode())


def _files(directory: str, *extensions: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as e:
        raise CniError(f"error reading {directory}: {e.strerror}") from None
    paths = [os.path.join(directory, name) for name in names if os.path.splitext(name)[1] in extensions]
    return [path for path in paths if not os.path.isdir(path)]


def load_network(directory: str, name: str) -> NetworkList:
    """The network of that name: conflists in the order of their names, then single configurations. Raises CniError."""
    for path in [*_files(directory, ".conflist"), *_files(directory, ".conf", ".json")]:
        network = load_file(path)
        if network.name == name:
            return network
    raise CniError(f'no net configuration with name "{name}" in {directory}')


def first_network(directory: str = DEFAULT_CONF_DIR) -> NetworkList:
    """The default network of a kubelet's runtime: the first sound file by name. Raises CniError that tells of the others."""
    problems = []
    for path in _files(directory, ".conf", ".conflist", ".json"):
        try:
            return load_file(path)
        except CniError as e:
            problems.append(f"{path}: {e.msg}")
    if problems:
        raise CniError(f"no valid networks found in {directory}: {'; '.join(problems)}")
    raise CniError(f"no networks found in {directory}")


# ── operations ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def add(
    network: NetworkList,
    to: Attachment,
    *,
    cni_path: str,
    cache_dir: str = DEFAULT_CACHE_DIR,
    run: Runner = run_exec,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """ADD every plugin in order; the last one's result, in the network's version. Raises CniError at the first failure:
    the caller then calls `delete`."""
    _check_names(network, to)
    result: dict[str, Any] | None = None
    for plugin in network.plugins:
        try:
            stdout = _call("ADD", network, plugin, to, result, cni_path, run, env)
            result = decode_result(stdout, plugin["type"])
            result.setdefault("cniVersion", network.version or "0.1.0")
            result = convert(result, network.version)
        except CniError as e:
            raise _from_plugin(plugin, "add", e) from None
    assert result is not None
    _cache_write(cache_dir, network, to, result)
    return result


def check(
    network: NetworkList, to: Attachment, *, cni_path: str, cache_dir: str = DEFAULT_CACHE_DIR, run: Runner = run_exec,
    env: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """CHECK every plugin in order against the cached result. Raises CniError."""
    if not _at_least(network, "0.4.0"):
        raise CniError(f'configuration version "{network.version}" does not support CHECK command')
    if network.disable_check:
        return
    previous = _cached_result(cache_dir, network, to)
    for plugin in network.plugins:
        try:
            _call("CHECK", network, plugin, to, previous, cni_path, run, env)
        except CniError as e:
            raise _from_plugin(plugin, "check", e) from None


def delete(
    network: NetworkList, to: Attachment, *, cni_path: str, cache_dir: str = DEFAULT_CACHE_DIR, run: Runner = run_exec,
    env: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """DEL every plugin, last one first, each with the final result of ADD. Raises CniError at the first failure.

    Can be repeated. An empty `to.netns` says that the namespace is gone or about to go: plugins then leave it alone.
    """
    try:
        previous = _cached_result(cache_dir, network, to) if _at_least(network, "0.4.0") else None
    except CniError:
        previous = None
    for plugin in reversed(network.plugins):
        try:
            _call("DEL", network, plugin, to, previous, cni_path, run, env)
        except CniError as e:
            raise _from_plugin(plugin, "delete", e) from None
    path = _cache_path(cache_dir, network.name, to)
    for name in (path, _unfinished(path)):
        with contextlib.suppress(OSError):
            os.unlink(name)


def gc(
    network: NetworkList,
    valid: Iterable[tuple[str, str]],
    *,
    cni_path: str,
    cache_dir: str = DEFAULT_CACHE_DIR,
    run: Runner = run_exec,
    env: Mapping[str, str] | None = None,
) -> None:
    """DEL every cached attachment that is not `valid` ((container id, interface) pairs), then GC from version 1.1.0 on.

    Works through all of it and raises CniError with everything that failed.
    """
    if network.disable_gc:
        return
    keep = list(valid)
    failures = []
    for to in attachments(network.name, cache_dir):
        if (to.container_id, to.ifname) in keep:
            continue
        try:
            delete(network, to, cni_path=cni_path, cache_dir=cache_dir, run=run, env=env)
        except CniError as e:
            failures.append(f"failed to delete stale attachment {to.container_id} {to.ifname}: {e}")
    if _at_least(network, "1.1.0"):
        listed = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in keep]
        extra = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
        for plugin in network.plugins:
            try:
                _call("GC", network, plugin, Attachment("", "", ""), None, cni_path, run, env, extra)
            except CniError as e:
                failures.append(f"failed to GC plugin {plugin['type']}: {e}")
    if failures:
        raise CniError("; ".join(failures))


def status(
    network: NetworkList, *, cni_path: str, run: Runner = run_exec, env: Mapping[str, str] | None = None
) -> None:
    """Whether an ADD could succeed (CniError 50 or 51 if not); versions below 1.1.0 cannot tell and count as ready."""
    if not _at_least(network, "1.1.0"):
        return
    for plugin in network.plugins:
        _call("STATUS", network, plugin, Attachment("", "", ""), None, cni_path, run, env)


def pod_ips(result: Mapping[str, Any], ifname: str) -> list[str]:
    """The addresses on the pod's interface, without prefix, in the result's order. Pure."""
    body = convert(result, "1.1.0")
    interfaces = body.get("interfaces") or []
    found = []
    for ip in body.get("ips") or []:
        index = ip.get("interface")
        inside = index is None or (0 <= index < len(interfaces) and interfaces[index].get("name") == ifname)
        if inside:
            found.append(str(ip["address"]).partition("/")[0])
    return found


def _check_names(network: NetworkList, to: Attachment) -> None:
    if not skel.is_word(to.container_id):
        raise CniError(f"invalid container id {to.container_id!r}")
    if not skel.is_word(network.name):
        raise CniError(f"invalid network name {network.name!r}")
    problem = skel.interface_name_error(to.ifname)
    if problem:
        raise CniError(f"invalid interface name {to.ifname!r}: {problem}")


def _at_least(network: NetworkList, floor: str) -> bool:
    try:
        return at_least(network.version, floor)
    except ValueError as e:
        raise CniError(str(e)) from None


def _from_plugin(plugin: Mapping[str, Any], verb: str, e: CniError) -> CniError:
    return CniError(f'plugin type="{plugin["type"]}" failed ({verb}): {e.msg}', e.code, e.details)


def _call(
    command: str, network: NetworkList, plugin: Mapping[str, Any], to: Attachment, previous: Mapping[str, Any] | None,
    cni_path: str, run: Runner, env: Mapping[str, str] | None, extra: Mapping[str, Any] | None = None,
) -> bytes:  # fmt: skip
    path = find_in_path(plugin["type"], cni_path)
    config = plugin_config(network, plugin, to, previous)
    config.update(extra or {})
    variables = {
        **(os.environ if env is None else env),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": to.container_id,
        "CNI_NETNS": to.netns,
        "CNI_IFNAME": to.ifname,
        "CNI_ARGS": ";".join(f"{k}={v}" for k, v in to.args),
        "CNI_PATH": cni_path,
    }
    return outcome(*run(path, variables, json.dumps(config, separators=(",", ":")).encode()))


def plugin_config(
    network: NetworkList, plugin: Mapping[str, Any], to: Attachment, previous: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What one plugin gets on stdin: its own object with name, cniVersion, prevResult and its capabilities' data. Pure."""
    config = {**plugin, "name": network.name, "cniVersion": network.version}
    if previous is not None:
        config["prevResult"] = previous
    declared = plugin.get("capabilities") or {}
    runtime = {k: v for k, v in to.capability_args.items() if declared.get(k)}
    if runtime:
        config["runtimeConfig"] = runtime
    return config


# ── the result cache ────────────────────────────────────────────────────────────────────────────────────────────────────


def _cache_path(cache_dir: str, network: str, to: Attachment) -> str:
    return os.path.join(cache_dir, "results", f"{network}-{to.container_id}-{to.ifname}")


def _unfinished(path: str) -> str:
    """Where a cache entry is written before it gets its name. The same for every process: what one that was killed left is
    written over, or removed by DEL."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}")


def _cache_write(cache_dir: str, network: NetworkList, to: Attachment, result: Mapping[str, Any]) -> None:
    entry: dict[str, Any] = {
        "kind": CACHE_KIND,
        "containerId": to.container_id,
        "config": base64.b64encode(network.raw).decode(),
        "ifName": to.ifname,
        "networkName": network.name,
        "netns": to.netns,
        "cniArgs": to.args,
        "capabilityArgs": to.capability_args,
        "result": result,
    }
    data = json.dumps({k: v for k, v in entry.items() if v or k == "result"}, separators=(",", ":")).encode()
    path = _cache_path(cache_dir, network.name, to)
    temporary = _unfinished(path)
    try:
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as e:
        raise CniError(f'failed to set network "{network.name}" cached result: {e.strerror}') from None


def _cached_result(cache_dir: str, network: NetworkList, to: Attachment) -> dict[str, Any] | None:
    """The result of the whole ADD, in the network's version; None when there is none. Raises CniError."""
    entry = _read_entry(_cache_path(cache_dir, network.name, to))
    if entry is None:
        return None
    # Before cniCacheV1 the file was the bare result.
    result = entry.get("result") if entry.get("kind") == CACHE_KIND else entry
    return convert(result, network.version) if isinstance(result, dict) else None


def cached_result(container_id: str, ifname: str, cache_dir: str = DEFAULT_CACHE_DIR) -> dict[str, Any] | None:
    """What ADD answered for an interface, in the newest version's form; None when the cache does not know."""
    for entry in _entries_of(container_id, ifname, cache_dir):
        if isinstance(entry.get("result"), dict):
            return convert(entry["result"], "1.1.0")
    return None


def _entries_of(container_id: str, ifname: str, cache_dir: str) -> Iterator[dict[str, Any]]:
    folder = os.path.join(cache_dir, "results")
    try:
        names = [name for name in os.listdir(folder) if name.endswith(f"-{container_id}-{ifname}") and name[0] != "."]
    except OSError:
        return
    for name in names:
        entry = _read_entry(os.path.join(folder, name)) or {}
        if (entry.get("kind"), entry.get("containerId"), entry.get("ifName")) == (CACHE_KIND, container_id, ifname):
            yield entry


def _read_entry(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as f:
            body = json.loads(f.read())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def cached_network(container_id: str, ifname: str, cache_dir: str = DEFAULT_CACHE_DIR) -> NetworkList | None:
    """The network that an interface was attached to, as its configuration was then; None when the cache does not know.

    For DEL: the files of the folder may have changed since. Upstream: GetNetworkListCachedConfig.
    """
    for entry in _entries_of(container_id, ifname, cache_dir):
        try:
            return parse_list(base64.b64decode(str(entry.get("config", ""))))
        except (ValueError, CniError):
            continue
    return None


def attachments(network: str = "", cache_dir: str = DEFAULT_CACHE_DIR) -> list[Attachment]:
    """Every cached attachment of a network; of all networks when `network` is empty."""
    folder = os.path.join(cache_dir, "results")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    found = []
    for name in names:
        if name.startswith("."):
            continue  # being written, or left by a kill
        entry = _read_entry(os.path.join(folder, name))
        if entry is None or entry.get("kind") != CACHE_KIND or network not in ("", entry.get("networkName")):
            continue
        if entry.get("containerId") and entry.get("ifName"):
            found.append(
                Attachment(
                    str(entry["containerId"]), str(entry.get("netns") or ""), str(entry["ifName"]),
                    [(k, v) for k, v in entry.get("cniArgs") or []], entry.get("capabilityArgs"),
                )
            )  # fmt: skip
    return found


def all_ours(network: NetworkList, cni_path: str, capability_args: Mapping[str, Any] | None = None) -> bool:
    """Whether `run_here` would call every plugin of the network, IPAM included, and execute nothing.

    portmap executes nothing for a container without portMappings: `capability_args` are the container's, None is any.
    """
    ports = capability_args is None or bool(capability_args.get("portMappings"))
    for plugin in network.plugins:
        ipam = plugin.get("ipam")
        delegate = ipam.get("type") if isinstance(ipam, dict) else None
        programs = plugin.get("ipMasq") or plugin.get("macspoofchk") or plugin["type"] == "firewall"
        try:
            if own_main(find_in_path(plugin["type"], cni_path)) is None or programs or (plugin["type"] == "portmap" and ports):
                return False
            if delegate and own_main(find_in_path(delegate, cni_path)) is None:
                return False
        except CniError:
            return False
    return True


def any_foreign(network: NetworkList, cni_path: str) -> bool:
    """Whether some plugin or IPAM of the network is there and not ours: it is executed, and may take its time."""
    for plugin in network.plugins:
        ipam = plugin.get("ipam")
        for name in (plugin["type"], ipam.get("type") if isinstance(ipam, dict) else None):
            try:
                if isinstance(name, str) and own_main(find_in_path(name, cni_path)) is None:
                    return True
            except CniError:
                continue
    return False


# ── for a runtime that must not block ───────────────────────────────────────────────────────────────────────────────────


class Pending:
    """An operation under way in a child. When `fd` is readable, `finish` returns or raises without waiting for long."""

    __slots__ = ("fd", "pid")

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd

    def finish(self) -> Any:
        """The operation's result. Raises CniError, also when the child was killed."""
        try:
            data = read_all(self.fd)
        finally:
            os.close(self.fd)
        reap(self.pid)
        if not data:
            raise CniError("the CNI call was killed before it had ended")
        answer = json.loads(data)
        if "error" in answer:
            e = answer["error"]
            raise CniError(e["msg"], e["code"], e.get("details", ""))
        return answer["result"]


def start(operation: Callable[[], Any]) -> Pending:
    """Run `operation` (a call of `add`, `delete` … with run=run_here; its result must be JSON) in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return Pending(pid, reader)
    try:
        os.close(reader)
        garbage.disable()  # a collection would touch, and so copy, every page this child shares
        answer: dict[str, Any]
        try:
            answer = {"result": operation()}
        except CniError as e:
            answer = {"error": e.to_json()}
        except Exception as e:
            answer = {"error": CniError(f"internal error: {type(e).__name__}: {e}").to_json()}
        write_all(writer, json.dumps(answer).encode())
    finally:
        os._exit(0)
