"""CPUs and memory given to a kernel by name, before a policy splits the rest: `k1=0-3`, `k1=0-3:2G`,
`k1=0-3:2G@4G`; and, when that cannot be, the nearest that can.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from popnet.core.errors import Refused
from popnet.machine import names
from popnet.machine.claims import MEMORY_STEP, Claim, check_amounts, check_cpus, check_memory_maps
from popnet.machine.memory import (
    Memory,
    Range,
    kernel_memory,
    nearest_fit,
    parse_memmap,
    subtract,
    total,
)
from popnet.machine.partition import nearest_cpus
from popnet.machine.topology import Topology
from popnet.machine.units import approximate_size, format_cpus, format_size, parse_cpus, parse_size

ALLOWED = "NAME=CPUS, NAME=CPUS:SIZE or NAME=CPUS:SIZE@START, such as k1=0-3:2G@4G"


@dataclass(frozen=True, slots=True)
class Give:
    """What is given to the kernel *name*; memory by address, or as an amount, or neither."""

    name: str
    cpus: tuple[int, ...]
    memory: Memory = ()
    memory_bytes: int | None = None

    def __str__(self) -> str:
        text = f"{self.name}={format_cpus(self.cpus)}"
        if self.memory:
            return f"{text}:{','.join(map(str, self.memory))}"
        return text if self.memory_bytes is None else f"{text}:{format_size(self.memory_bytes)}"


def parse_give(text: str) -> Give:
    """One `--give`; raises ValueError saying what is allowed."""
    name, equals, rest = text.partition("=")
    cpus, colon, memory = rest.partition(":")
    if not equals or not cpus or (colon and not memory):
        raise ValueError(f"got {text!r}; allowed: {ALLOWED}")
    name = names.kernel_name(name)
    if "@" in memory or "$" in memory:
        return Give(name, parse_cpus(cpus), kernel_memory((), parse_memmap(memory)))
    return Give(name, parse_cpus(cpus), memory_bytes=parse_size(memory) if memory else None)


def check_gives(topology: Topology, gives: Sequence[Give], limit_bytes: int, overcommit: bool) -> None:
    """Raises Refused if *gives* cannot be had: every reason, and the nearest that could."""
    host = topology.host()
    owner = "this topology"
    cpus = {give.name: Claim((give.name,), give.cpus) for give in gives}
    problems = check_cpus(cpus, topology.cpus, owner, overcommit)
    if len(cpus) < len(gives):
        raise Refused("a kernel is given twice", "Give each kernel once: " + ALLOWED)
    maps = {give.name: Claim((give.name,), give.memory) for give in gives if give.memory}
    problems += check_memory_maps(maps, host.memory_map, overcommit)
    if not overcommit:
        amounts = {give.name: Claim((give.name,), _amount(give)) for give in gives if _amount(give)}
        has = (
            f"{approximate_size(limit_bytes)} of {approximate_size(topology.memory_bytes)} may be given away"
        )
        problems += check_amounts(amounts, limit_bytes, has)
    if problems:
        near = " ".join(f"--give {give}" for give in nearest(topology, gives, limit_bytes))
        lines = "\n".join(f"{'.'.join(problem.path)}: {problem.text}" for problem in problems)
        raise Refused(lines, f"Nearest legal split: {near}" if near else "")


def nearest(topology: Topology, gives: Sequence[Give], limit_bytes: int) -> list[Give]:
    """The legal gives most like *gives*: each has what is free of what it wanted, or else what is
    nearest. Kernels for which no CPU is left are not in it."""
    cpus, free, left = set(topology.cpus), topology.host().memory_map, limit_bytes
    legal = []
    for give in gives:
        own = nearest_cpus(give.cpus, cpus)
        cpus -= set(own)
        memory: list[Range] = []
        for wanted in give.memory:
            fit = nearest_fit(free, wanted, MEMORY_STEP) or _largest(free)
            room = left // MEMORY_STEP * MEMORY_STEP
            if fit is None or not room:
                continue
            fit = Range(fit.start, min(fit.end, fit.start + room))
            memory.append(fit)
            free = subtract(free, (fit,))
            left -= fit.size_bytes
        amount = give.memory_bytes
        if amount is not None:
            amount = min(amount, left // MEMORY_STEP * MEMORY_STEP)
            left -= amount
        if own:
            legal.append(Give(give.name, own, tuple(memory), amount or None))
    return legal


def _largest(free: Memory) -> Range | None:
    return max(free, key=lambda one: one.size_bytes, default=None)


def _amount(give: Give) -> int:
    return total(give.memory) if give.memory else give.memory_bytes or 0
