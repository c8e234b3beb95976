"""Ranges of memory addresses, and `memmap=`, which says which of them a kernel has.

    memmap=2G@4G,1G@8G      the kernel has 2 GiB from 4 GiB on, and 1 GiB from 8 GiB on
    memmap=64M$4G           and not the 64 MiB from 4 GiB on
    mem=9G                  and nothing from 9 GiB on

Without a `SIZE@START` a kernel has the machine's whole memory map, less what `SIZE$START` and `mem=` take.
A memory map is a tuple of ranges in rising order, none of which touches the next.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from popnet.machine.units import approximate_size, format_size, parse_size

MEMMAP_ALLOWED: Final = "SIZE@START for memory it has, SIZE$START for memory it has not, such as 2G@4G"

_ENTRY = re.compile(r"([0-9A-Za-z]+)([@$])([0-9A-Za-z]+)")
_ADDRESS_END: Final = 1 << 52
"""No machine has addresses above: the most that x86-64 and arm64 have bits for."""


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Addresses from *start* up to, and without, *end*; never empty."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        """`2G@4G`, as `memmap=` writes it."""
        return f"{format_size(self.size_bytes)}@{format_size(self.start)}"


@dataclass(frozen=True, slots=True)
class MapEntry:
    """One entry of a `memmap=`: memory that a kernel has, or, *reserved*, has not."""

    range: Range
    reserved: bool = False

    def __str__(self) -> str:
        return str(self.range).replace("@", "$") if self.reserved else str(self.range)


Memory = tuple[Range, ...]


def parse_memmap(text: str) -> tuple[MapEntry, ...]:
    """The entries of one `memmap=`, in their order; raises ValueError saying what is allowed."""
    entries = []
    for part in text.split(","):
        match = _ENTRY.fullmatch(part.strip())
        if not match:
            raise ValueError(f"got {part.strip()!r}; allowed: {MEMMAP_ALLOWED}")
        size, start = _number(match[1]), _number(match[3])
        if not size or start + size > _ADDRESS_END:
            raise ValueError(
                f"got {part.strip()!r}, which is no range of addresses; allowed: {MEMMAP_ALLOWED}"
            )
        entries.append(MapEntry(Range(start, start + size), match[2] == "$"))
    return tuple(entries)


def format_memmap(entries: Iterable[MapEntry]) -> str:
    """The text that `parse_memmap` reads back as *entries*."""
    return ",".join(map(str, entries))


def kernel_memory(machine: Memory, entries: Iterable[MapEntry], end: int | None = None) -> Memory:
    """What a kernel with these *entries* and `mem=`*end* has, of the memory map of its *machine*."""
    entries = tuple(entries)
    own = union(entry.range for entry in entries if not entry.reserved) or machine
    own = subtract(own, union(entry.range for entry in entries if entry.reserved))
    return own if end is None else below(own, end)


def union(ranges: Iterable[Range]) -> Memory:
    """*ranges* as a memory map."""
    merged: list[Range] = []
    for one in sorted(ranges):
        if merged and one.start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(merged[-1].end, one.end))
        else:
            merged.append(one)
    return tuple(merged)


def subtract(memory: Memory, taken: Memory) -> Memory:
    """What of *memory* is not *taken*."""
    left = list(memory)
    for hole in taken:
        parts = []
        for one in left:
            if hole.end <= one.start or one.end <= hole.start:
                parts.append(one)
                continue
            if one.start < hole.start:
                parts.append(Range(one.start, hole.start))
            if hole.end < one.end:
                parts.append(Range(hole.end, one.end))
        left = parts
    return tuple(left)


def common(first: Memory, second: Memory) -> Memory:
    """What both have."""
    return subtract(first, subtract(first, second))


def below(memory: Memory, end: int) -> Memory:
    """What of *memory* lies below address *end*."""
    return subtract(memory, (Range(end, _ADDRESS_END),)) if end < _ADDRESS_END else memory


def aligned(memory: Memory, step: int) -> Memory:
    """What of *memory* is made of whole steps."""
    whole = ((-(-one.start // step) * step, one.end // step * step) for one in memory)
    return tuple(Range(start, end) for start, end in whole if start < end)


def total(memory: Memory) -> int:
    """Bytes in *memory*."""
    return sum(one.size_bytes for one in memory)


def nearest_fit(free: Memory, wanted: Range, align: int = 1) -> Range | None:
    """The range of *wanted*'s size in *free* that starts nearest to it; None if none is that large.

    Its start is a multiple of *align* if there is such a place in the range of *free*.
    """
    fits = []
    for hole in free:
        room = hole.end - wanted.size_bytes
        if room < hole.start:
            continue
        start = min(max(wanted.start, hole.start), room)
        for aligned in (start // align * align, -(-start // align) * align):
            if hole.start <= aligned <= room:
                start = aligned
                break
        fits.append(Range(start, start + wanted.size_bytes))
    return min(fits, key=lambda fit: abs(fit.start - wanted.start), default=None)


def describe(memory: Memory) -> str:
    """`3G@0, 21G@4G`, for people."""
    return ", ".join(f"{approximate_size(one.size_bytes)}@{format_size(one.start)}" for one in memory)


def _number(text: str) -> int:
    """As Linux's memparse: decimal or 0x, then a unit."""
    if text.lower().startswith("0x"):
        digits, unit = (text[2:-1], text[-1]) if text[-1].upper() in "KMGT" else (text[2:], "")
        try:
            return int(digits, 16) * (parse_size(f"1{unit}") if unit else 1)
        except ValueError:
            raise ValueError(f"got {text!r}; allowed: {MEMMAP_ALLOWED}") from None
    return parse_size(text)
