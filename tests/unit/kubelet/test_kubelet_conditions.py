"""What others wrote into a Node's conditions is noticed."""

from __future__ import annotations

import pytest

from nsk8s.kubelet.nodestatus import conditions_differ

WANTED = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}]


@pytest.mark.parametrize(
    ("have", "differ"),
    [
        ([*WANTED], False),
        ([*WANTED, {"type": "NetworkUnavailable", "status": "False"}], False),
        ([WANTED[0], {"type": "Ready", "status": "True", "message": "an older text"}], False),
        ([WANTED[0], {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}], True),
        ([WANTED[1]], True),
        ([], True),
    ],
)
def test_only_a_status_of_our_conditions_counts(have: list[dict[str, str]], differ: bool) -> None:
    assert conditions_differ({"conditions": have}, WANTED) is differ
    assert conditions_differ({}, WANTED)
