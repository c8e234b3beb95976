"""A ring of files: when the next one begins, what it is called, which one goes. Pure.

Names are those of dumpcap: `k1.pcapng` becomes `k1_00001_20260131235959.pcapng`, `k1_00002_...`, so that
Wireshark knows them for a set of files.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from popnet.machine.units import parse_duration, parse_size

SIZE_MIN: Final = 256 << 10
"""Bytes: a block is written whole, and the largest is a quarter of that."""

DURATION_MIN_NS: Final = 10**9

ALLOWED: Final = "a size such as 100M (at least 256K) or a duration such as 60s (at least 1s)"


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is full.

    Attributes:
        size: bytes that a file has at most; None: any number.
        duration_ns: how long it is written to; None: for ever.
        keep: how many files stay; None: all.
    """

    size: int | None = None
    duration_ns: int | None = None
    keep: int | None = None

    def room(self, size: int, open_ns: int) -> int | None:
        """Bytes that still belong into a file of *size* bytes, open for *open_ns*; None: any number."""
        if self.duration_ns is not None and open_ns >= self.duration_ns:
            return 0
        return None if self.size is None else max(self.size - size, 0)


def parse_rotation(words: tuple[str, ...], keep: int | None) -> Rotation:
    """A size, a duration, or one of each. Raises ValueError saying what is allowed."""
    size = duration_ns = None
    for word in words:
        if word[-1:] in ("s", "m", "h"):
            if duration_ns is not None:
                raise ValueError(f"got two durations, {word!r} last; allowed: one, and one size")
            duration_ns = _at_least(word, parse_duration, DURATION_MIN_NS)
        else:
            if size is not None:
                raise ValueError(f"got two sizes, {word!r} last; allowed: one, and one duration")
            size = _at_least(word, parse_size, SIZE_MIN)
    return Rotation(size, duration_ns, keep)


def file_name(path: str, number: int, opened_s: float) -> str:
    """What file *number* (from 1) of the set *path* is called, if it is begun at *opened_s*; local time."""
    whole = PurePath(path)
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(opened_s))
    return str(whole.with_name(f"{whole.stem}_{number:05}_{stamp}{whole.suffix}"))


def _at_least(word: str, parse: Callable[[str], int], least: int) -> int:
    try:
        value = parse(word)
    except ValueError:
        raise ValueError(f"got {word!r}; allowed: {ALLOWED}") from None
    if value < least:
        raise ValueError(f"got {word!r}; allowed: {ALLOWED}")
    return value
