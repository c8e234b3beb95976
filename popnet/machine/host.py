"""What a host has that kernels can be given, as plain facts; `popnet.kernel.host` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from popnet.machine.memory import Memory, Range, common, union


@dataclass(frozen=True, slots=True)
class Host:
    """The resources of one host, or what of them a machine may use.

    Attributes:
        cpus: the CPUs this process may run on, in rising order.
        memory_bytes: what it may use, in bytes.
        cores: the hardware threads of each core that has several; the others are cores by themselves.
        nodes: number -> memory of each NUMA node, by address; empty if the host does not tell.
    """

    cpus: tuple[int, ...]
    memory_bytes: int
    nodes: Mapping[int, Memory] = field(default_factory=dict)
    cores: tuple[tuple[int, ...], ...] = ()

    @property
    def memory_map(self) -> Memory:
        """The addresses that have memory."""
        told = union(one for memory in self.nodes.values() for one in memory)
        return told or (Range(0, self.memory_bytes),)

    def nodes_of(self, memory: Memory) -> tuple[int, ...]:
        """The nodes that *memory* lies on."""
        return tuple(sorted(number for number, own in self.nodes.items() if common(own, memory)))
