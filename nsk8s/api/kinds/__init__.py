"""Every built-in kind as data: BUILTIN. Pure. Upstream: pkg/apis/*/install, pkg/registry/*/*/strategy.go."""

from __future__ import annotations

from nsk8s.api.kinds import core, others, workloads
from nsk8s.api.scheme import Kind

BUILTIN: tuple[Kind, ...] = (*core.KINDS, *workloads.KINDS, *others.KINDS)
"""In the order discovery shows them."""


def builtin(group: str, kind: str) -> Kind:
    """The built-in kind of that name; raises KeyError."""
    return next(k for k in BUILTIN if (k.group, k.kind) == (group, kind))
