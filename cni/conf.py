"""Reading network configurations the way Go's decoder does, so that what other runtimes send is understood. Pure.

Keys match without case (containerd sends `HostPort`, libcni `hostPort`), null counts as absent, the last of equal keys wins,
and a value of the wrong type is an error that names the key.
"""

from __future__ import annotations

from cni import errors, jsontext
from cni.errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_GO_NAMES = {str: "string", bool: "bool", int: "int", dict: "object", list: "array"}
_JSON_NAMES = {str: "string", bool: "bool", int: "number", float: "number", dict: "object", list: "array"}


def decode(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises CniError 6 (also for anything but an object)."""
    try:
        value = jsontext.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as e:
        raise CniError(f"error unmarshall network config: {e}", errors.DECODING_FAILURE) from None
    if not isinstance(value, dict):
        kind = _JSON_NAMES.get(type(value), "null")
        raise CniError(
            f"error unmarshall network config: json: cannot unmarshal {kind} into an object", errors.DECODING_FAILURE
        )
    return value


def lookup(obj: Mapping[str, Any], key: str) -> Any:
    """The value of `key`, matched without case; None when absent."""
    if key in obj and len(obj) == 1:
        return obj[key]
    wanted = key.lower()
    found = None
    for name, value in obj.items():
        if value is not None and (name == key or name.lower() == wanted):
            found = value
    return found


def _typed(obj: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = lookup(obj, key)
    if value is None:
        return default
    # bool is an int to Python, and not to JSON.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        got = _JSON_NAMES.get(type(value), type(value).__name__)
        raise CniError(f"failed to load netconf: json: cannot unmarshal {got} into field {key} of type {_GO_NAMES[kind]}")
    return value


def text(obj: Mapping[str, Any], key: str, default: str = "") -> str:
    value: str = _typed(obj, key, str, default)
    return value


def flag(obj: Mapping[str, Any], key: str) -> bool:
    value: bool = _typed(obj, key, bool, False)
    return value


def number(obj: Mapping[str, Any], key: str, default: int = 0) -> int:
    value: int = _typed(obj, key, int, default)
    return value


def section(obj: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A sub-object; empty when absent."""
    value: dict[str, Any] = _typed(obj, key, dict, {})
    return value


def items(obj: Mapping[str, Any], key: str) -> list[Any]:
    value: list[Any] = _typed(obj, key, list, [])
    return value


def objects(obj: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects; null entries are dropped."""
    found = [item for item in items(obj, key) if item is not None]
    for item in found:
        if not isinstance(item, dict):
            raise CniError(f"failed to load netconf: json: cannot unmarshal {item!r} into an object of {key}")
    return found


def texts(obj: Mapping[str, Any], key: str) -> list[str]:
    found = [item for item in items(obj, key) if item is not None]
    for item in found:
        if not isinstance(item, str):
            raise CniError(f"failed to load netconf: json: cannot unmarshal {item!r} into a string of {key}")
    return found


def load_args(args: str, known: Iterable[str]) -> dict[str, str]:
    """CNI_ARGS (`K=V;K=V`) reduced to the `known` keys. An unknown one is an error unless IgnoreUnknown says otherwise."""
    if not args:
        return {}
    found: dict[str, str] = {}
    unknown: list[str] = []
    ignore = False
    for pair in args.split(";"):
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise CniError(f'ARGS: invalid pair "{pair}"')
        if key == "IgnoreUnknown":
            if value.lower() not in ("1", "true", "0", "false"):
                raise CniError(f'ARGS: error parsing value of pair "{pair}": boolean unmarshal error: invalid input {value}')
            ignore = value.lower() in ("1", "true")
        elif key in known:
            found[key] = value
        else:
            unknown.append(pair)
    if unknown and not ignore:
        raise CniError(f"ARGS: unknown args {jsontext.dumps(unknown, compact=False)}")
    return found
