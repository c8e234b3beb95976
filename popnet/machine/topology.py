"""What a computer is made of: cores and their hardware threads, NUMA nodes and their memory, caches. Pure;
`popnet.kernel.topology` reads this host's, `topologyfile` that of one you do not have.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from popnet.machine.host import Host
from popnet.machine.memory import Memory, total
from popnet.machine.units import approximate_size, format_cpus, format_size


@dataclass(frozen=True, slots=True)
class Core:
    """A core: *cpus* are its hardware threads, at least one, in rising order."""

    cpus: tuple[int, ...]
    package: int
    node: int


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node, and the memory that it has by address; it may have none."""

    number: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache that *cpus* share; *kind* is Data, Instruction or Unified."""

    level: int
    kind: str
    size_bytes: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """A computer.

    Attributes:
        cores: by package, node, and first CPU.
        nodes: by number; each core's node is one of them.
        memory_bytes: what may be given away; at most what the nodes have together.
    """

    cores: tuple[Core, ...]
    nodes: tuple[Node, ...]
    caches: tuple[Cache, ...]
    memory_bytes: int

    @property
    def cpus(self) -> tuple[int, ...]:
        return tuple(sorted(cpu for core in self.cores for cpu in core.cpus))

    def host(self) -> Host:
        """It as machine files are checked against it."""
        nodes = {node.number: node.memory for node in self.nodes if node.memory}
        cores = tuple(sorted(core.cpus for core in self.cores if len(core.cpus) > 1))
        return Host(self.cpus, self.memory_bytes, nodes, cores)

    def only(self, cpus: Iterable[int]) -> "Topology":
        """It with these *cpus* alone."""
        kept = set(cpus)
        cores = [
            Core(threads, core.package, core.node)
            for core in self.cores
            if (threads := tuple(cpu for cpu in core.cpus if cpu in kept))
        ]
        return Topology(tuple(cores), self.nodes, self.caches, self.memory_bytes)

    def last_cache(self, cpu: int) -> Cache | None:
        """The cache farthest from *cpu* that it has a part in: who shares it is its nearest neighbour."""
        return max((cache for cache in self.caches if cpu in cache.cpus), key=lambda c: c.level, default=None)

    def in_order(self) -> list[Core]:
        """The cores so that neighbours share as much as can be: node, last cache, number."""

        def place(core: Core) -> tuple[int, int, int, int]:
            cache = self.last_cache(core.cpus[0])
            return core.node, core.package, cache.cpus[0] if cache else 0, core.cpus[0]

        return sorted(self.cores, key=place)


def ordered(cores: Iterable[Core]) -> tuple[Core, ...]:
    """Cores in the order that a Topology has them."""
    return tuple(sorted(cores, key=lambda core: (core.package, core.node, core.cpus)))


def to_data(topology: Topology) -> dict[str, Any]:
    """It as the file that `topologyfile` reads back says it."""
    return {
        "apiVersion": "popnet/v1",
        "kind": "Topology",
        "memory": format_size(topology.memory_bytes),
        "cores": [
            {"cpus": format_cpus(core.cpus), "package": core.package, "node": core.node}
            for core in topology.cores
        ],
        "nodes": [{"node": node.number, "memory": list(map(str, node.memory))} for node in topology.nodes],
        "caches": [
            {
                "level": cache.level,
                "type": cache.kind,
                "size": format_size(cache.size_bytes),
                "cpus": format_cpus(cache.cpus),
            }
            for cache in topology.caches
        ],
    }


def summary(topology: Topology) -> str:
    """`2 packages, 2 NUMA nodes, 8 cores, 16 CPUs, 64G of memory`, for people."""

    def count(number: int, word: str) -> str:
        return f"{number} {word}{'s' * (number != 1)}"

    packages = len({core.package for core in topology.cores})
    parts = [count(packages, "package"), count(len(topology.nodes), "NUMA node")]
    parts += [count(len(topology.cores), "core"), count(len(topology.cpus), "CPU")]
    have = sum(total(node.memory) for node in topology.nodes)
    memory = f"{approximate_size(topology.memory_bytes)} of memory"
    holes = sum(len(node.memory) - 1 for node in topology.nodes if node.memory)
    if have and holes:
        memory += f" with {count(holes, 'hole')}"
    return ", ".join([*parts, memory])
