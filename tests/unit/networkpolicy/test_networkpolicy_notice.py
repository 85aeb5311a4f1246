"""That a policy has no effect is said where that is so, and only there."""

from __future__ import annotations

from typing import Any

from nsk8s.api.kinds import BUILTIN
from nsk8s.apiserver.notices import POLICIES, notice

KIND = next(k for k in BUILTIN if k.group_resource == POLICIES)


def test_the_notice_is_dropped_where_every_node_enforces_policies() -> None:
    cache: Any = None
    assert "NetworkPolicy has no effect" in notice(KIND, cache)
    assert notice(KIND, cache, {POLICIES}) == ""
