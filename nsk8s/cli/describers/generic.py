"""Any object, field by field: kubectl's form for kinds it has no describer for. Pure."""

from __future__ import annotations

import re
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.cli.describers.text import Text, annotation_lines, go, pairs

ACRONYMS = frozenset({"API", "URL", "UID", "OSB", "GUID"})
HIDDEN = frozenset({"managedFields", "name", "namespace", "labels", "annotations"})
_RUNS = re.compile(r"[a-z]+|[A-Z]+|[0-9]+|[^a-zA-Z0-9]+")


def label(field: str) -> str:
    """`ownerReferences` → `Owner References`. As upstream splits words, `clusterIPs` is `Cluster I Ps`."""
    runs = _RUNS.findall(field)
    for i in range(len(runs) - 1):
        if runs[i].isupper() and runs[i + 1][0].islower():
            runs[i], runs[i + 1] = runs[i][:-1], runs[i][-1] + runs[i + 1]
    words = [r for r in runs if r and r != "_"]
    return " ".join(w.upper() if w.upper() in ACRONYMS else w[:1].upper() + w[1:] for w in words)


def header(out: Text, obj: Object) -> None:
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))


def generic(out: Text, obj: Object) -> None:
    header(out, obj)
    _tree(out, {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k not in HIDDEN}}, 0)


def _tree(out: Text, value: dict[str, Any], level: int) -> None:
    for key in sorted(value):
        inner = value[key]
        if isinstance(inner, dict):
            out.line(level, f"{label(key)}:")
            _tree(out, inner, level + 1)
        elif isinstance(inner, list):
            out.line(level, f"{label(key)}:")
            for item in inner:
                if isinstance(item, dict):
                    _tree(out, item, level + 1)
                else:
                    out.line(level + 1, go(item))
        else:
            out.line(level, f"{label(key)}:", go(inner))
