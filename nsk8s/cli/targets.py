"""Which objects the words of a command mean: `pods a b`, `deploy/web`, `pods,services`. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nsk8s.client.discovery import Found
    from nsk8s.client.resources import Resource


_NAME = re.compile(r"[A-Za-z0-9._:@~-]+")
"""What may be in a name (RBAC's have colons); it becomes a part of a path."""


def namespace_options(function: Any) -> Any:
    """`-n NAMESPACE` (default: default)."""
    return click.option(
        "-n", "--namespace", default="default", show_default=True, help="The namespace.", callback=_namespace
    )(function)


def _namespace(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return checked_name(value)


def checked_name(name: str) -> str:
    """`name`, if it can be one. Raises BadParameter."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise click.BadParameter(f"{name!r} is not an object's name")
    return name


def parse_targets(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """`pods a b`, `pod/a svc/b`, `pods,svc` → (resource word, name or ""). Raises UsageError."""
    if not words:
        raise click.UsageError("name a resource, e.g. `pods` or `pod/NAME`")
    if any("/" in w for w in words):
        if not all("/" in w for w in words):
            raise click.UsageError("there is no mixing of `TYPE NAME` and `TYPE/NAME`")
        pairs = [(w.partition("/")[0], w.partition("/")[2]) for w in words]
        if any(not kind or not name or "/" in name for kind, name in pairs):
            raise click.UsageError("in the form TYPE/NAME there must be one type and one name")
        return [(kind, checked_name(name)) for kind, name in pairs]
    kinds = [k for k in words[0].split(",") if k]
    if not kinds:
        raise click.UsageError("name a resource, e.g. `pods` or `pod/NAME`")
    if len(words) == 1:
        return [(k, "") for k in kinds]
    return [(k, checked_name(name)) for k in kinds for name in words[1:]]


def expand_all(found: list[Found], targets: list[tuple[str, str]]) -> list[tuple[Resource, str]]:
    """Resource words → resources; `all` is the category of that name. Raises Nsk8sError for an unknown word."""
    from nsk8s.client.discovery import lookup
    from nsk8s.errors import Nsk8sError

    out: list[tuple[Resource, str]] = []
    for word, name in targets:
        if word == "all":
            if name:
                raise Nsk8sError("you must specify only one resource type to name objects", "`all` stands for several")
            kinds = {(f.resource.group, f.resource.plural): f.resource for f in reversed(found) if "all" in f.categories}
            out += [(r, "") for r in reversed(kinds.values())]  # of several versions of a kind the preferred one
        else:
            out.append((lookup(found, word), name))
    return out
