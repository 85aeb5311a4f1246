"""When a ServiceCIDR may go: no address is left without a range."""

from __future__ import annotations

from typing import Any

import pytest

from nsk8s.controllers.servicecidrs import can_go


def cidr(*cidrs: str, going: bool = False) -> dict[str, Any]:
    metadata = {"name": cidrs[0], **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {})}
    return {"metadata": metadata, "spec": {"cidrs": list(cidrs)}}


@pytest.mark.parametrize(
    ("one", "others", "addresses", "goes"),
    [
        (cidr("10.1.0.0/24"), [], [], True),
        (cidr("10.1.0.0/24"), [], ["10.2.0.1", "fd00::1"], True),
        (cidr("10.1.0.0/24"), [], ["10.1.0.1"], False),
        (cidr("10.1.0.0/24"), [cidr("10.1.0.0/24")], ["10.1.0.1"], True),
        (cidr("10.1.0.0/24"), [cidr("10.1.0.0/16")], ["10.1.0.1"], True),
        (cidr("10.1.0.0/24"), [cidr("10.1.0.0/16", going=True)], ["10.1.0.1"], False),
        (cidr("10.1.0.0/16"), [cidr("10.1.0.0/24")], ["10.1.0.1"], True),
        (cidr("10.1.0.0/16"), [cidr("10.1.0.0/24")], ["10.1.0.1", "10.1.1.1"], False),
        (cidr("10.1.0.0/24", "fd00::/112"), [cidr("10.1.0.0/24")], ["10.1.0.1"], True),
        (cidr("10.1.0.0/24", "fd00::/112"), [cidr("10.1.0.0/24")], ["10.1.0.1", "fd00::5"], False),
    ],
)
def test_an_address_keeps_a_range_that_it_alone_has(one: Any, others: Any, addresses: list[str], goes: bool) -> None:
    assert can_go(one, others, addresses) is goes
