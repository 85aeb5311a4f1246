"""Objects and tables as text, byte for byte as kubectl prints them. Upstream: cli-runtime/pkg/printers. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nsk8s.api.meta import Object

if TYPE_CHECKING:
    from nsk8s.client.resources import Resource

_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS_11 = frozenset({"y", "n", "yes", "no", "on", "off"})
"""YAML 1.1's truth values, which upstream quotes although its own parser takes them for strings."""


def type_name(resource: Resource) -> str:
    """`pod`, `deployment.apps`: how messages call a resource."""
    kind = resource.kind.lower()
    return f"{kind}.{resource.group}" if resource.group else kind


def shown(obj: Object) -> Object:
    """An object as it is printed: without its managed fields."""
    metadata = obj.get("metadata")
    if isinstance(metadata, dict) and "managedFields" in metadata:
        return {**obj, "metadata": {k: v for k, v in metadata.items() if k != "managedFields"}}
    return obj


def to_json(value: Any) -> str:
    """Go's json.MarshalIndent with four blanks: sorted keys, <, > and & escaped."""
    text = json.dumps(value, indent=4, sort_keys=True, ensure_ascii=False)
    return "".join(_HTML.get(c, c) for c in text) + "\n"


def to_yaml(value: Any) -> str:
    """sigs.k8s.io/yaml's form: sorted keys, lists not indented, text of several lines as a block."""
    import yaml

    return yaml.dump(value, Dumper=_dumper(), sort_keys=True, default_flow_style=False, allow_unicode=True)


def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        style = None
        if "\n" in value:
            style = "|"
        elif value.lower() in _WORDS_11 or _looks_like_another_type(dumper, value):
            style = '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def _looks_like_another_type(dumper: Any, value: str) -> bool:
    import yaml

    plain: str = dumper.resolve(yaml.ScalarNode, value, (True, False))
    return value == "" or plain != "tag:yaml.org,2002:str" or _NUMBER.fullmatch(value) is not None


def list_of(items: list[Object]) -> Object:
    """The List that several objects are printed as."""
    return {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}


def rows(
    table: Object, resource: Resource, *, with_namespace: bool, wide: bool = False, show_labels: bool = False,
    prefix: bool = False,
) -> tuple[list[str], list[list[str]]]:
    """(header, lines) of a server's Table; columns of a priority above 0 only with `wide`."""
    columns = [(i, c["name"].upper()) for i, c in enumerate(table["columnDefinitions"]) if wide or not c.get("priority")]
    header = [name for _, name in columns]
    body: list[list[str]] = []
    for row in table.get("rows") or []:
        metadata = row["object"]["metadata"]
        cells = [cell(row["cells"][i]) for i, _ in columns]
        if prefix:
            cells[0] = f"{type_name(resource)}/{cells[0]}"
        if with_namespace:
            cells.insert(0, metadata.get("namespace", ""))
        if show_labels:
            cells.append(label_text(metadata.get("labels")))
        body.append(cells)
    if with_namespace:
        header.insert(0, "NAMESPACE")
    if show_labels:
        header.append("LABELS")
    return header, body


def label_text(labels: dict[str, str] | None) -> str:
    """`a=b,c=d`, or `<none>`."""
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or "<none>"


def cell(value: Any) -> str:
    """A cell's text, on one line."""
    if value is None:
        return "<none>"
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return text.split("\n", 1)[0] + "..." if "\n" in text else text


def aligned(lines: Iterable[list[str]]) -> list[str]:
    """Columns three blanks apart and six wide at least; the last one is not padded."""
    table = list(lines)
    if not table:
        return []
    widths = [max(6, 3 + max(len(line[i]) for line in table)) for i in range(len(table[0]))]
    return ["".join(c.ljust(w) for c, w in zip(line[:-1], widths, strict=False)) + line[-1] for line in table]
