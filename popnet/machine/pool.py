"""The memory of a topology that is still free, by NUMA node, while a planner shares it out."""

from collections import Counter
from collections.abc import Mapping, Sequence

from popnet.machine.claims import MEMORY_STEP
from popnet.machine.memory import Memory, Range, aligned, describe, subtract, total, union
from popnet.machine.topology import Topology


class Pool:
    """Free memory in whole steps. What is kept back stays free at the low addresses of each node, in
    proportion to what the nodes have: so kernels that are alike get alike, and each from its own node.

    Args:
        taken: what is given away already.
        kept_bytes: how much is kept back for the host, beside what it has addresses for and does not use.
    """

    def __init__(self, topology: Topology, taken: Sequence[Memory], kept_bytes: int) -> None:
        self._nodes_of = {cpu: core.node for core in topology.cores for cpu in core.cpus}
        have = sum(total(node.memory) for node in topology.nodes)
        keep = kept_bytes + max(0, have - topology.memory_bytes)
        gone = union(one for memory in taken for one in memory)
        self.known = have > 0
        self._free: dict[int, Memory] = {}
        for node in topology.nodes:
            self._free[node.number] = subtract(node.memory, gone)
            self._cut(node.number, -(-keep * total(node.memory) // have) if have else 0)
            self._free[node.number] = aligned(self._free[node.number], MEMORY_STEP)
        self._sizes = {number: total(free) for number, free in self._free.items()}
        self._users = Counter(self._nodes_of.values())

    def near_parts(self, cpus: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """For each kernel on these *cpus*, how much it has when each node's memory is for the CPUs of
        that node."""
        users = self._users = Counter(self._nodes_of[cpu] for own in cpus.values() for cpu in own)
        parts = dict.fromkeys(cpus, 0)
        for name, own in cpus.items():
            for number, count in Counter(self._nodes_of[cpu] for cpu in own).items():
                part = total(self._free[number]) * count // users[number]
                parts[name] += part // MEMORY_STEP * MEMORY_STEP
        return parts

    def take(self, size_bytes: int, cpus: Sequence[int]) -> tuple[Memory, list[str]]:
        """*size_bytes* for a kernel on *cpus*, and why from there."""
        near = Counter(self._nodes_of[cpu] for cpu in cpus)
        weights = {n: self._sizes[n] * count // self._users[n] for n, count in near.items()}
        got: list[Range] = []
        reasons: list[str] = []

        def add(number: int, wanted: int, why: str) -> None:
            ranges = self._cut(number, min(wanted // MEMORY_STEP * MEMORY_STEP, total(self._free[number])))
            got.extend(ranges)
            if ranges:
                hole = ", around a hole" if len(ranges) > 1 else ""
                reasons.append(f"memory {describe(ranges)}: {why}{hole}")

        for number in sorted(near):
            part = size_bytes * weights[number] // (sum(weights.values()) or 1)
            add(number, part, f"NUMA node {number}, where its CPUs are")
        others = [number for number in self._free if number not in near]
        for number in (*sorted(near), *others):
            missing = size_bytes - total(tuple(got))
            if missing >= MEMORY_STEP:
                add(number, missing, f"NUMA node {number}, as there is no more where its CPUs are")
        return union(got), reasons

    def _cut(self, number: int, size_bytes: int) -> Memory:
        """Take *size_bytes*, or all there is, from the lowest addresses of a node."""
        cut: list[Range] = []
        for one in self._free[number]:
            if size_bytes <= 0:
                break
            end = min(one.end, one.start + size_bytes)
            cut.append(Range(one.start, end))
            size_bytes -= end - one.start
        self._free[number] = subtract(self._free[number], tuple(cut))
        return union(cut)
