"""Quantities (`500m`, `1Gi`, `2e3`) and int-or-percent values, exact. Pure.

Upstream: apimachinery/pkg/api/resource, apimachinery/pkg/util/intstr.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering

_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX_OF = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?|[eE][+-]?\d+)", re.ASCII)
_NANO = Fraction(1, 10**9)
_MAX = Fraction(2**63 - 1)

FORMAT_MESSAGE = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)


@total_ordering
@dataclass(frozen=True, eq=False)
class Quantity:
    """An exact amount, and the family of suffixes it is written with: "BinarySI", "DecimalSI" or "DecimalExponent"."""

    value: Fraction
    format: str = "DecimalSI"

    @classmethod
    def parse(cls, text: str | int | float) -> Quantity:
        """The quantity of a JSON string or number; raises ValueError with upstream's message."""
        found = _FORM.fullmatch(str(text))
        if not found:
            raise ValueError(FORMAT_MESSAGE)
        sign, digits, suffix = found.groups()
        if suffix in _BINARY:
            factor, family = Fraction(1024 ** _BINARY[suffix]), "BinarySI"
        elif suffix in _DECIMAL:
            factor, family = Fraction(10) ** _DECIMAL[suffix], "DecimalSI"
        else:
            exponent = int(suffix[1:])
            if abs(exponent) > 99:
                raise ValueError(FORMAT_MESSAGE)
            factor, family = Fraction(10) ** exponent, "DecimalExponent"
        value = Fraction(digits) * factor
        if value.denominator != 1:
            value = -(-value // _NANO) * _NANO  # finer than nano is rounded up, as upstream does
        value = min(value, _MAX)
        return cls(-value if sign == "-" else value, family)

    def __str__(self) -> str:
        """The canonical form: no fraction, the largest suffix that allows it."""
        value = self.value
        if value == 0:
            return "0"
        if self.format == "BinarySI" and abs(value) >= 1024 and value.denominator == 1:
            return _binary(int(value))
        scaled, exponent = int(value / _NANO), -9
        while scaled % 1000 == 0 and exponent < 18:
            scaled, exponent = scaled // 1000, exponent + 3
        if self.format == "DecimalExponent":
            return f"{scaled}e{exponent}" if exponent else str(scaled)
        return f"{scaled}{_SUFFIX_OF[exponent]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.value == other.value

    def __lt__(self, other: Quantity) -> bool:
        return self.value < other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.value + other.value, self.format if self.value or not other.value else other.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.value - other.value, self.format if self.value or not other.value else other.format)

    def __neg__(self) -> Quantity:
        return Quantity(-self.value, self.format)

    def __bool__(self) -> bool:
        return self.value != 0

    @property
    def ceil(self) -> int:
        """Upstream's Value(): rounded up to a whole number (bytes, pods)."""
        return -(-self.value.numerator // self.value.denominator)

    @property
    def milli(self) -> int:
        """Upstream's MilliValue(): thousandths, rounded up (CPU)."""
        scaled = self.value * 1000
        return -(-scaled.numerator // scaled.denominator)


ZERO = Quantity(Fraction(0))


def _binary(value: int) -> str:
    suffix = ""
    for name in _BINARY:
        if value % 1024:
            break
        value, suffix = value // 1024, name
    return f"{value}{suffix}"


def canonical(text: str | int | float) -> str:
    """The canonical text of a quantity; raises ValueError."""
    return str(Quantity.parse(text))


def int_or_percent(value: int | str | None, total: int, *, round_up: bool, default: int | str = 0) -> int:
    """An IntOrString as a number; a percentage is taken of `total` and rounded as asked. Raises ValueError.

    Upstream: intstr.GetScaledValueFromIntOrPercent.
    """
    if value is None:
        value = default
    if isinstance(value, int):
        return value
    if not re.fullmatch(r"[0-9]+%", value):
        raise ValueError(f"invalid value for IntOrString: invalid type: string is not a percentage: {value!r}")
    scaled = int(value[:-1]) * total
    return -(-scaled // 100) if round_up else scaled // 100
