"""What a cable is made to be: rate, delay, loss, packet size, offloads; and tc's units. Pure. Upstream: tc, ethtool."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z%]*)", re.IGNORECASE)
_RATES = {"": 1.0, "bit": 1.0, "bps": 8.0} | {
    f"{prefix}{unit}": factor * bits
    for unit, bits in (("bit", 1), ("bps", 8))
    for prefix, factor in (
        ("k", 1e3), ("m", 1e6), ("g", 1e9), ("t", 1e12), ("ki", 2.0**10), ("mi", 2.0**20), ("gi", 2.0**30), ("ti", 2.0**40)
    )
}  # fmt: skip
_SIZES = {"": 1.0, "b": 1.0} | {
    name: factor
    for letter, factor in (("k", 2.0**10), ("m", 2.0**20), ("g", 2.0**30))
    for name in (letter, f"{letter}b")
} | {f"{letter}bit": factor / 8 for letter, factor in (("k", 2.0**10), ("m", 2.0**20), ("g", 2.0**30))}  # fmt: skip
_TIMES = {"s": 1e6, "sec": 1e6, "secs": 1e6, "ms": 1e3, "msec": 1e3, "msecs": 1e3, "us": 1.0, "usec": 1.0, "usecs": 1.0}
MIN_BURST = 16 * 1024
BURST_S = 0.01
"""At once go 10 ms of the rate, unless told otherwise: a kernel with 100 timer ticks a second reaches any rate with that."""
LATENCY = "50ms"
MIN_MTU, MAX_MTU = 68, 65535
DEFAULT_MTU, ETHERNET_HEADER = 1500, 14
MAX_DIGITS = 30
"""More is no figure of a link, and far more would be no number that can be counted with."""
TEXTS = ("rate", "burst", "latency", "delay", "jitter", "loss")


@dataclass(frozen=True)
class LinkSettings:
    """A cable's settings, in tc's words; what is empty is as the kernel makes it."""

    rate: str = ""
    """`10mbit`: what each direction lets through."""
    burst: str = ""
    latency: str = ""
    delay: str = ""
    jitter: str = ""
    loss: str = ""
    mtu: int = 0
    offload: bool | None = None
    down: bool = False

    @property
    def is_shaped(self) -> bool:
        return bool(self.rate or self.needs_netem)

    @property
    def needs_netem(self) -> bool:
        return bool(self.delay or self.jitter or self.loss)

    def changed(self, **changes: Any) -> LinkSettings:
        """With some settings changed; `none` takes one away. Raises ValueError for what does not fit together."""
        wanted = {**asdict(self), **{k: "" if v == "none" else v for k, v in changes.items() if v is not None}}
        if changes.get("rate") == "none":
            wanted["burst"] = wanted["latency"] = ""
        if changes.get("delay") == "none":
            wanted["jitter"] = ""
        return from_document(wanted)

    def document(self) -> dict[str, Any]:
        """What is kept of it: the settings that say something."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def words(self) -> str:
        """For Events: `rate 10mbit, offload off`."""
        said = [f"{name} {getattr(self, name)}" for name in TEXTS if getattr(self, name)]
        said += [f"mtu {self.mtu}"] if self.mtu else []
        said += [f"offload {'on' if self.offload else 'off'}"] if self.offload is not None else []
        return ", ".join(said) or "nothing set"


def from_document(document: Mapping[str, Any]) -> LinkSettings:
    """Settings as they were kept or written. Raises ValueError, naming the mistake."""
    settings = LinkSettings(**document)
    for name, read in (("rate", bits_per_second), ("burst", size_bytes), ("latency", microseconds), ("delay", microseconds),
                       ("jitter", microseconds), ("loss", percent)):  # fmt: skip
        text = getattr(settings, name)
        if text:
            try:
                read(text)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from None
    if (settings.burst or settings.latency) and not settings.rate:
        raise ValueError(f"{'burst' if settings.burst else 'latency'} makes no sense without a rate")
    if settings.jitter and not settings.delay:
        raise ValueError("jitter makes no sense without a delay")
    if settings.mtu and not MIN_MTU <= settings.mtu <= MAX_MTU:
        raise ValueError(f"mtu: {settings.mtu} is not between {MIN_MTU} and {MAX_MTU}")
    if settings.burst and burst_bytes(settings) < (settings.mtu or DEFAULT_MTU) + ETHERNET_HEADER:
        raise ValueError(f"burst: {settings.burst} never lets a packet of {settings.mtu or DEFAULT_MTU} bytes through")
    if settings.rate and burst_bytes(settings) * 8 > 2**34:
        raise ValueError(f"burst: {settings.burst} is more than a bucket holds (2 GB)")
    return settings


def _measure(text: str, units: Mapping[str, float], example: str) -> float:
    found = _NUMBER.fullmatch(str(text).strip())
    if found is None or found[2].lower() not in units or len(found[1]) > MAX_DIGITS:
        raise ValueError(f"{text!r} is not like {example}")
    return float(found[1]) * units[found[2].lower()]


def bits_per_second(text: str) -> int:
    """`10mbit`, `1.5gbit`, `100kbps` (bytes), as tc reads it. Raises ValueError."""
    value = int(_measure(text, _RATES, "10mbit"))
    if not 8 <= value < 1 << 60:
        raise ValueError(f"{text!r} is no rate of a link")
    return value


def size_bytes(text: str) -> int:
    value = int(_measure(text, _SIZES, "32kb"))
    if value < 1:
        raise ValueError(f"{text!r} holds no packet")
    return value


def microseconds(text: str) -> int:
    value = _measure(text, _TIMES, "20ms")
    if value > 60e6:
        raise ValueError(f"{text!r} is more than a minute")
    return int(value)


def percent(text: str) -> float:
    value = _measure(text, {"%": 1.0, "": 1.0}, "1%")
    if value > 100:
        raise ValueError(f"{text!r} is more than all")
    return value


def burst_bytes(settings: LinkSettings) -> int:
    """How much may go at once."""
    if settings.burst:
        return size_bytes(settings.burst)
    return max(MIN_BURST, int(bits_per_second(settings.rate) / 8 * BURST_S))


def latency_ms(settings: LinkSettings) -> int:
    """How long a packet may wait for its turn before the next one is dropped."""
    return max(1, microseconds(settings.latency or LATENCY) // 1000)
