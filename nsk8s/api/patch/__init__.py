"""The four ways to patch: JSON Patch, JSON merge patch, strategic merge patch, server-side apply. Pure.

Each takes a private copy of an object, may change it, and returns the result; a patch document is never changed.
"""

from __future__ import annotations

from nsk8s.api.patch.jsonpatch import json_patch
from nsk8s.api.patch.merge import merge_patch
from nsk8s.api.patch.strategic import strategic_merge_patch

__all__ = ["json_patch", "merge_patch", "strategic_merge_patch"]
