"""The plugin side of the CNI protocol: environment and stdin in, exit code and stdout out. Upstream: cni/pkg/skel.

A plugin is a `Plugin` value; `run` never raises and never prints, so that an executable and a fork give the same bytes.
Touches: nothing itself (`main` reads stdin and writes stdout).
"""

from __future__ import annotations

import os
import sys

from cni import conf, errors, jsontext
from cni.errors import CniError
from cni.result import VERSIONS, at_least

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_ATTACHMENT = ("ADD", "CHECK", "DEL")
_REQUIRED = {
    "CNI_CONTAINERID": _ATTACHMENT,
    "CNI_NETNS": ("ADD", "CHECK"),
    "CNI_IFNAME": _ATTACHMENT,
    "CNI_PATH": (*_ATTACHMENT, "GC", "STATUS"),
}
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


class Args:
    """One call: the variables (empty when absent), the configuration as bytes and as an object, and its version."""

    __slots__ = ("args", "conf", "container_id", "env", "ifname", "netns", "path", "stdin", "version")

    def __init__(self, env: Mapping[str, str], stdin: bytes, config: dict[str, Any], version: str) -> None:
        self.env = env
        self.stdin = stdin
        self.conf = config
        self.version = version
        self.container_id = env.get("CNI_CONTAINERID", "")
        self.netns = env.get("CNI_NETNS", "")
        self.ifname = env.get("CNI_IFNAME", "")
        self.args = env.get("CNI_ARGS", "")
        self.path = env.get("CNI_PATH", "")

    @property
    def name(self) -> str:
        """The network's name."""
        return conf.text(self.conf, "name")


class Plugin:
    """A plugin's five commands (a missing one succeeds without doing anything) and the versions it speaks.

    `enters_netns`: refuse (code 8) to work on the very namespace the plugin runs in.
    """

    __slots__ = ("about", "add", "check", "delete", "enters_netns", "gc", "status", "versions")

    def __init__(
        self,
        about: str,
        *,
        add: Callable[[Args], dict[str, Any]],
        delete: Callable[[Args], None],
        check: Callable[[Args], None] | None = None,
        gc: Callable[[Args], None] | None = None,
        status: Callable[[Args], None] | None = None,
        enters_netns: bool = True,
        versions: tuple[str, ...] = VERSIONS,
    ) -> None:
        self.about = about
        self.add = add
        self.delete = delete
        self.check = check
        self.gc = gc
        self.status = status
        self.enters_netns = enters_netns
        self.versions = versions


def is_word(text: str) -> bool:
    """Container ids and network names: [a-zA-Z0-9][a-zA-Z0-9_.-]*"""
    return bool(text) and text[0] in _WORD and all(c in _WORD or c in "_.-" for c in text)


def interface_name_error(name: str) -> str:
    """What is wrong with an interface name; empty if nothing."""
    if not name:
        return "interface name is empty"
    if len(name.encode("utf-8", "surrogateescape")) > 15:
        return "interface name is too long; interface name should be less than 16 characters"
    if name in (".", ".."):
        return "interface name is . or .."
    if any(c in "/:" or c.isspace() for c in name):
        return "interface name contains / or : or whitespace characters"
    return ""


def run(plugin: Plugin, env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """One call of the plugin: (exit code, stdout)."""
    try:
        answer = _dispatch(plugin, env, stdin)
    except CniError as e:
        return 1, _encode(e.to_json())
    except OSError as e:
        return 1, _encode(CniError(_os_error_text(e)).to_json())
    except Exception as e:
        # A defect of ours: the runtime must still get an error object, and whoever looks for the cause the traceback.
        sys.excepthook(type(e), e, e.__traceback__)
        return 1, _encode(CniError(f"internal error: {type(e).__name__}: {e}").to_json())
    return 0, b"" if answer is None else _encode(answer)


def _encode(body: dict[str, Any]) -> bytes:
    return jsontext.dumps(body).encode()


def _os_error_text(e: OSError) -> str:
    where = f": {e.filename}" if e.filename else ""
    return f"{e.strerror or e}{where}"


def _dispatch(plugin: Plugin, env: Mapping[str, str], stdin: bytes) -> dict[str, Any] | None:
    command = env.get("CNI_COMMAND", "")
    _check_environment(command, env)
    if command == "VERSION":
        return {"cniVersion": plugin.versions[-1], "supportedVersions": list(plugin.versions)}
    config = conf.decode(stdin)
    _check_name(config)
    if command not in ("ADD", "CHECK", "DEL", "GC", "STATUS"):
        raise CniError(f"unknown CNI_COMMAND: {command}", errors.INVALID_ENVIRONMENT)
    args = Args(env, stdin, config, _check_version(plugin, command, config))
    if plugin.enters_netns and command in ("ADD", "DEL"):
        _check_netns(args)
    if command == "ADD":
        return plugin.add(args)
    call = {"CHECK": plugin.check, "DEL": plugin.delete, "GC": plugin.gc, "STATUS": plugin.status}[command]
    if call is not None:
        call(args)
    return None


def _check_environment(command: str, env: Mapping[str, str]) -> None:
    missing = [] if command else ["CNI_COMMAND"]
    for name, commands in _REQUIRED.items():
        value = env.get(name, "")
        if command not in commands:
            continue
        if not value:
            missing.append(name)
        elif name == "CNI_CONTAINERID" and not is_word(value):
            raise CniError("invalid characters in containerID", errors.INVALID_ENVIRONMENT, value)
        elif name == "CNI_IFNAME" and interface_name_error(value):
            raise CniError(interface_name_error(value), errors.INVALID_ENVIRONMENT, value)
    if missing:
        raise CniError(f"required env variables [{','.join(missing)}] missing", errors.INVALID_ENVIRONMENT)


def _check_name(config: dict[str, Any]) -> None:
    try:
        name = conf.text(config, "name")
    except CniError as e:
        raise CniError(f"error unmarshall network config: {e.msg}", errors.DECODING_FAILURE) from None
    if not name:
        raise CniError("missing network name", errors.INVALID_NETWORK_CONFIG)
    if not is_word(name):
        raise CniError("invalid characters found in network name", errors.INVALID_NETWORK_CONFIG, name)


def _check_version(plugin: Plugin, command: str, config: dict[str, Any]) -> str:
    try:
        version = conf.text(config, "cniVersion") or "0.1.0"
        allowed = command not in _SINCE or at_least(version, _SINCE[command])
    except CniError as e:
        raise CniError(f"decoding version from network config: {e.msg}", errors.DECODING_FAILURE) from None
    except ValueError as e:
        raise CniError(str(e), errors.DECODING_FAILURE) from None
    if not allowed:
        raise CniError(f"config version does not allow {command}", errors.INCOMPATIBLE_VERSION)
    if version not in plugin.versions:
        details = f'config is "{version}", plugin supports {jsontext.dumps(list(plugin.versions), compact=False)}'
        raise CniError("incompatible CNI versions", errors.INCOMPATIBLE_VERSION, details)
    return version


def _check_netns(args: Args) -> None:
    if args.env.get("CNI_NETNS_OVERRIDE", "").upper() in ("TRUE", "1"):
        return
    try:
        theirs, ours = os.stat(args.netns), os.stat("/proc/thread-self/ns/net")
    except OSError:
        return  # a namespace that is gone is the plugin's to judge
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
        raise CniError("plugin's netns and netns from CNI_NETNS should not be the same", errors.INVALID_NETNS)


def valid_attachments(args: Args) -> list[tuple[str, str]] | None:
    """(container id, interface) of each attachment GC must keep; None when the runtime named none at all."""
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        if key in args.conf:  # Go's runtimes write null for an empty list
            return [(conf.text(a, "containerID"), conf.text(a, "ifname")) for a in conf.objects(args.conf, key)]
    return None


def main(plugin: Plugin) -> None:
    """What the executables in bin/ call."""
    env = os.environ
    if not env.get("CNI_COMMAND"):
        sys.stderr.write(f"{plugin.about}\nCNI protocol versions supported: {', '.join(plugin.versions)}\n")
        sys.exit(0)
    try:
        stdin = b"" if env["CNI_COMMAND"] == "VERSION" else sys.stdin.buffer.read()
    except (OSError, AttributeError) as e:
        code, stdout = 1, _encode(CniError(f"error reading from stdin: {e}", errors.IO_FAILURE).to_json())
    else:
        code, stdout = run(plugin, env, stdin)
    sys.stdout.buffer.write(stdout)
    sys.stdout.buffer.flush()
    # No interpreter teardown: everything is written, and it would cost milliseconds.
    os._exit(code)
