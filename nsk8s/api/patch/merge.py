"""JSON merge patch, RFC 7386. Pure."""

from __future__ import annotations

from typing import Any

from nsk8s.api.meta import copied


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` (may be changed) with `patch` merged in: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copied(patch)
    out = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out
