"""Quantities and percentages."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api.quantity import Quantity, canonical, int_or_percent


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1", "1"), ("500m", "500m"), ("0.5", "500m"), (0.5, "500m"), (2, "2"), ("1000m", "1"), ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"), ("0.1Ki", "102400m"), ("100k", "100k"), ("1000k", "1M"), ("1e3", "1e3"), ("1E3", "1e3"),
        ("1000e0", "1e3"), ("0", "0"), ("0Gi", "0"), ("-2", "-2"), ("12e-3", "12e-3"), ("1025", "1025"), (".5", "500m"),
        ("5.", "5"), ("1n", "1n"), ("0.1n", "1n"), ("100Ei", str(2**63 - 1)), ("1E", "1E"),
    ],
)  # fmt: skip
def test_canonical(text: str | int | float, wanted: str) -> None:
    assert canonical(text) == wanted


@pytest.mark.parametrize("text", ["", "x", "1x", "1 Gi", "--1", "1e", "1.2.3", "١", "1Gi5", "1e9999", "nan", "inf", True])
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        Quantity.parse(text)


def test_arithmetic_and_order() -> None:
    assert str(Quantity.parse("1Gi") + Quantity.parse("512Mi")) == "1536Mi"
    assert str(Quantity.parse("1") - Quantity.parse("100m")) == "900m"
    assert str(Quantity.parse("0") + Quantity.parse("1Gi")) == "1Gi"
    assert Quantity.parse("1000m") == Quantity.parse("1")
    assert Quantity.parse("1G") < Quantity.parse("1Gi")
    assert Quantity.parse("1500m").ceil == 2
    assert Quantity.parse("1.5m").milli == 2


@given(st.integers(-(10**15), 10**15), st.sampled_from(["", "m", "k", "Ki", "Mi", "Gi", "u", "e2", "e-2"]))
def test_canonical_form_is_stable_and_equal(number: int, suffix: str) -> None:
    quantity = Quantity.parse(f"{number}{suffix}")
    again = Quantity.parse(str(quantity))
    assert again == quantity
    assert str(again) == str(quantity)
    assert isinstance(quantity.value, Fraction)


def test_int_or_percent() -> None:
    assert int_or_percent("25%", 10, round_up=True) == 3
    assert int_or_percent("25%", 10, round_up=False) == 2
    assert int_or_percent(4, 10, round_up=True) == 4
    assert int_or_percent(None, 10, round_up=True, default="50%") == 5
    with pytest.raises(ValueError, match="not a percentage"):
        int_or_percent("4", 10, round_up=True)
