"""Histograms as the native measurements give them: percentiles of buckets, and how a few of them are drawn.

A bucket is (from, to, count): *count* values of at least *from* and less than *to*. Pure.
"""

import math
from collections.abc import Iterable, Sequence

Bucket = tuple[int, int, int]


def percentile(buckets: Sequence[Bucket], share: float, maximum: int) -> int:
    """The value that *share* (0 to 1) of all are not above, as the end of its bucket, at most *maximum*; 0 if
    there are none."""
    total = sum(count for _, _, count in buckets)
    wanted = max(1, math.ceil(total * share))
    seen = 0
    for _, end, count in buckets:
        seen += count
        if seen >= wanted:
            return min(end - 1, maximum)
    return 0


def doublings(buckets: Iterable[Bucket]) -> dict[int, int]:
    """How many values lie in each doubling: exponent -> values of at least 2**exponent and less than twice
    that."""
    found: dict[int, int] = {}
    for start, _, count in buckets:
        exponent = max(0, start.bit_length() - 1)
        found[exponent] = found.get(exponent, 0) + count
    return found
