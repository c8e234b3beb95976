"""The fate of frames on an impaired wire, in plain Python: the oracle of native/impair.h."""

import struct
from dataclasses import astuple, dataclass

ONE = 1 << 53
"""The probability 1."""

SCALE = 8192
HEADER = 14
WORD = (1 << 64) - 1

STATE, LOSS, DUPLICATE, CORRUPT, BIT, REORDER, JITTER = range(7)
DRAWS = 8


@dataclass(frozen=True)
class Config:
    """As native code has it: words of 8 bytes, in this order."""

    seed: int = 0
    delay_ns: int = 0
    jitter_ns: int = 0
    keep_order: int = 0
    loss_good: int = 0
    loss_bad: int = 0
    to_bad: int = 0
    to_good: int = 0
    duplicate: int = 0
    corrupt: int = 0
    reorder: int = 0
    rate_bps: int = 0
    limit_ns: int = 0

    def pack(self) -> bytes:
        return struct.pack("13Q", *astuple(self))


Fate = tuple[int, int, int, int, int, int, int]
"""lost, reordered, copies, dropped by the rate, bit turned (0: none), due times of both copies."""


def splitmix64(seed: int, n: int) -> int:
    """The n-th number, from 0, of Vigna's splitmix64.c started with *seed*."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & WORD
    return z ^ z >> 31


class Wire:
    def __init__(self, config: Config, table: tuple[int, ...] = ()) -> None:
        self.config = config
        self.table = table
        self.frames = 0
        self.bad = False
        self.free_at_ns = 0
        self.carry = 0
        self.last_due_ns = 0

    def decide(self, now_ns: int, size: int) -> Fate:
        c, n = self.config, self.frames
        self.frames += 1

        def draw(question: int) -> int:
            return splitmix64(c.seed, n * DRAWS + question)

        def chance(question: int, probability: int) -> bool:
            return draw(question) >> 11 < probability

        lost = chance(LOSS, c.loss_bad if self.bad else c.loss_good)
        if chance(STATE, c.to_good if self.bad else c.to_bad):
            self.bad = not self.bad
        if lost:
            return (1, 0, 0, 0, 0, 0, 0)
        wanted = 2 if chance(DUPLICATE, c.duplicate) else 1
        bit = 0
        if size > HEADER and chance(CORRUPT, c.corrupt):
            bit = HEADER * 8 + draw(BIT) % ((size - HEADER) * 8)
        reordered = chance(REORDER, c.reorder)
        delay_ns = 0 if reordered else self._delay_ns(draw(JITTER))
        due_ns: list[int] = []
        for _ in range(wanted):
            left_ns = self._pass_rate(now_ns, size)
            if left_ns is None:
                continue
            due = left_ns + delay_ns
            if c.keep_order and not reordered:
                due = self.last_due_ns = max(due, self.last_due_ns)
            due_ns.append(due)
        first, second = (*due_ns, 0, 0)[:2]
        return (0, int(reordered), len(due_ns), wanted - len(due_ns), bit, first, second)

    def _delay_ns(self, drawn: int) -> int:
        c = self.config
        if not (c.jitter_ns and self.table):
            return c.delay_ns
        product = c.jitter_ns * self.table[drawn % len(self.table)]
        jitter_ns = abs(product) // SCALE  # C rounds towards zero
        return max(0, c.delay_ns + (jitter_ns if product > 0 else -jitter_ns))

    def _pass_rate(self, now_ns: int, size: int) -> int | None:
        c = self.config
        if not c.rate_bps:
            return now_ns
        if self.free_at_ns <= now_ns:
            self.free_at_ns, self.carry = now_ns, 0
        elif self.free_at_ns - now_ns > c.limit_ns:
            return None
        took_ns, self.carry = divmod(size * 8 * 10**9 + self.carry, c.rate_bps)
        self.free_at_ns += took_ns
        return self.free_at_ns
