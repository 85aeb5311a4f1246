"""The JSONPath of additionalPrinterColumns: fields, indexes, wildcards and one kind of filter. Pure.

Upstream: client-go/util/jsonpath, of which this is the part that CustomResourceDefinitions use.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_STEP = re.compile(
    r"""\.(?P<field>(?:[^.\[\\]|\\.)+)
      | \[(?P<index>-?\d+|\*)\]
      | \[['"](?P<quoted>[^'"]+)['"]\]
      | \[\?\(\s*@\.(?P<key>[\w.-]+)\s*(?P<op>==|!=)\s*(?P<value>"[^"]*"|'[^']*'|[\w.-]+)\s*\)\]""",
    re.VERBOSE,
)
Step = tuple[str, str, str, str]


@lru_cache(maxsize=512)
def parse(path: str) -> tuple[Step, ...]:
    """The steps of a path. Raises ValueError if it is none of ours."""
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    steps: list[Step] = []
    at = 0
    while at < len(text):
        found = _STEP.match(text, at)
        if not found:
            raise ValueError(f"unsupported JSONPath {path!r}")
        parts = found.groupdict()
        if parts["field"]:
            steps.append(("field", re.sub(r"\\(.)", r"\1", parts["field"]), "", ""))
        elif parts["quoted"]:
            steps.append(("field", parts["quoted"], "", ""))
        elif parts["index"]:
            steps.append(("index", parts["index"], "", ""))
        else:
            steps.append(("filter", parts["key"], parts["op"], parts["value"].strip("\"'")))
        at = found.end()
    return tuple(steps)


def find(obj: Any, path: str) -> list[Any]:
    """All values at `path`, in order; none if the path leads nowhere or cannot be read."""
    try:
        steps = parse(path)
    except ValueError:
        return []
    values = [obj]
    for kind, name, op, wanted in steps:
        found: list[Any] = []
        for value in values:
            found += _step(value, kind, name, op, wanted)
        values = found
    return values


def _step(value: Any, kind: str, name: str, op: str, wanted: str) -> list[Any]:
    if kind == "field":
        if name == "*":
            return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
        return [value[name]] if isinstance(value, dict) and name in value else []
    if not isinstance(value, list):
        return []
    if kind == "index":
        if name == "*":
            return value
        number = int(name)
        return [value[number]] if -len(value) <= number < len(value) else []
    return [item for item in value if _holds(item, name, op, wanted)]


def _holds(item: Any, name: str, op: str, wanted: str) -> bool:
    for part in name.split("."):
        item = item.get(part) if isinstance(item, dict) else None
    text = str(item).lower() if isinstance(item, bool) else str(item)
    return (item is not None and text == wanted) is (op == "==")
