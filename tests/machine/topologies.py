"""Computers to split: one of 2 CPUs, one of 8, and one of 128 with two sockets; the last two have a hole
in memory."""

from popnet.machine.memory import Range
from popnet.machine.topology import Cache, Core, Node, Topology, ordered

G = 1 << 30

TWO = Topology(
    cores=ordered([Core((0,), 0, 0), Core((1,), 0, 0)]),
    nodes=(Node(0, (Range(0, 8 * G),)),),
    caches=(Cache(3, "Unified", 32 << 20, (0, 1)),),
    memory_bytes=8 * G,
)
EIGHT = Topology(
    cores=ordered(Core((n, n + 4), 0, 0) for n in range(4)),
    nodes=(Node(0, (Range(0, 3 * G), Range(4 * G, 17 * G))),),
    caches=(Cache(3, "Unified", 16 << 20, tuple(range(8))),),
    memory_bytes=15 * G + 123_456,
)
"""A desktop: hardware threads, the hole below 4G, and some memory that Linux keeps for itself."""

BIG = Topology(
    cores=ordered(Core((n, n + 64), n // 32, n // 32) for n in range(64)),
    nodes=(Node(0, (Range(0, 2 * G), Range(4 * G, 258 * G))), Node(1, (Range(258 * G, 514 * G),))),
    caches=tuple(
        Cache(3, "Unified", 32 << 20, tuple(sorted([*range(n, n + 8), *range(n + 64, n + 72)])))
        for n in range(0, 64, 8)
    ),
    memory_bytes=511 * G,
)
"""A server: two sockets of 32 cores with two threads each, eight cores to a last cache."""

ALL = {"two": TWO, "eight": EIGHT, "big": BIG}
