"""The notations of a machine file: CPU lists (`0-1,3`), sizes (`512M`), durations (`5ms`), chances (`1%`) and
rates (`10mbit`).

Each has a parser, which raises ValueError saying what is allowed, and a formatter, whose text the parser
reads back as the same value.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from popnet.core.limits import CPUS_MAX

CPUS_ALLOWED: Final = "a list of CPU numbers and ranges such as 0-1,3, or a mask such as 0xb"
SIZE_ALLOWED: Final = "a size such as 512M, 2G or 512MiB (K, M, G and T are powers of 1024)"
CHANCE_ALLOWED: Final = "a chance from 0% to 100%, such as 1% or 0.5%"
RATE_ALLOWED: Final = "a rate such as 10mbit, 1.5gbit or 500kbit (bits a second; powers of 1000)"
DURATION_ALLOWED: Final = "a duration such as 5ms, 200us, 1.5s, 2m or 1h"

_MASK = re.compile(rf"0[xX]([0-9a-fA-F]{{1,{CPUS_MAX // 4}}})")
RATE_MAX: Final = 10**12
"""Bits a second: more than any machine copies."""

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_SIZE = re.compile(r"([0-9]{1,20})(?:([KMGT])(?:iB)?)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))?(ns|us|µs|ms|s|m|h)")

_CHANCE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,330})?)%")
_RATE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([kmgt]?)bit", re.IGNORECASE)

_RATE_UNITS: Final = {"t": 10**12, "g": 10**9, "m": 10**6, "k": 10**3, "": 1}
_SIZE_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_UNITS_NS: Final = {
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "µs": 10**3,
    "ns": 1,
}


def parse_cpus(text: str) -> tuple[int, ...]:
    """The CPUs that *text* lists, or whose bits are set in the mask it is; in rising order, each once."""
    if mask := _MASK.fullmatch(text):
        bits = int(mask[1], 16)
        if not bits:
            raise ValueError(f"got {text!r}, a mask without a CPU; allowed: {CPUS_ALLOWED}")
        return tuple(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)
    cpus: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise ValueError(f"got {text!r}; allowed: {CPUS_ALLOWED}")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(
                f"got {text!r}, whose range {part.strip()} runs backwards; allowed: {CPUS_ALLOWED}"
            )
        if last >= CPUS_MAX:
            raise ValueError(f"got {text!r}; allowed: CPUs from 0 to {CPUS_MAX - 1}")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpus(cpus: Iterable[int]) -> str:
    """`0-1,3`: the shortest list that means *cpus*."""
    runs: list[tuple[int, int]] = []
    for cpu in sorted(set(cpus)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1] = (runs[-1][0], cpu)
        else:
            runs.append((cpu, cpu))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_size(text: str) -> int:
    """The bytes that *text* means; without a unit it counts bytes."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"got {text!r}; allowed: {SIZE_ALLOWED}")
    return int(match[1]) * (_SIZE_UNITS[match[2].upper()] if match[2] else 1)


def format_size(size_bytes: int) -> str:
    """`512M`: exact, in the largest unit that divides *size_bytes*."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def approximate_size(size_bytes: int) -> str:
    """`23.5G`: for people, three digits."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g}{unit}"
    return str(size_bytes)


def parse_duration(text: str) -> int:
    """The nanoseconds that *text* means."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"got {text!r}; allowed: {DURATION_ALLOWED}")
    whole, fraction, unit = match[1], match[2] or "", match[3]
    return int(whole + fraction) * _DURATION_UNITS_NS[unit] // int(10 ** len(fraction))


def format_duration(duration_ns: int) -> str:
    """`5ms`: exact, in the largest unit that divides *duration_ns*."""
    for unit, factor in _DURATION_UNITS_NS.items():
        if duration_ns and duration_ns % factor == 0:
            return f"{duration_ns // factor}{unit}"
    return f"{duration_ns}ns"


def parse_chance(text: str) -> float:
    """The probability, from 0 to 1, that *text* means."""
    match = _CHANCE.fullmatch(text)
    if not match or float(match[1]) > 100:
        sign = f"; did you mean '{text}%'?" if _CHANCE.fullmatch(f"{text}%") else ""
        raise ValueError(f"got {text!r}; allowed: {CHANCE_ALLOWED}{sign}")
    return float(f"{match[1]}e-2")  # the nearest there is: a division would round once more


def format_chance(probability: float) -> str:
    """`0.5%`."""
    text = f"{Decimal(repr(float(probability))).scaleb(2):f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "%"


def parse_rate(text: str) -> int:
    """The bits a second that *text* means; at least one."""
    match = _RATE.fullmatch(text)
    fraction = (match[2] or "") if match else ""
    rate_bps = int(match[1] + fraction) * _RATE_UNITS[match[3].lower()] // 10 ** len(fraction) if match else 0
    if not 0 < rate_bps <= RATE_MAX:
        raise ValueError(f"got {text!r}; allowed: {RATE_ALLOWED}")
    return rate_bps


def format_rate(rate_bps: int) -> str:
    """`10mbit`: exact, in the largest unit that divides *rate_bps*."""
    for unit, factor in _RATE_UNITS.items():
        if rate_bps % factor == 0:
            return f"{rate_bps // factor}{unit}bit"
    raise AssertionError("one divides all")
