"""A split of a machine drawn as text: pure, a plan in, lines out.

Each kernel has a letter. A core is a pair of brackets with one letter for each of its hardware threads;
a node's memory is a bar on the axis of all addresses, with a dot where nobody has it and a blank where
there is none.
"""

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from popnet.machine.memory import Memory, Range, common, total
from popnet.machine.units import approximate_size, format_cpus

if TYPE_CHECKING:
    from popnet.machine.planner import Plan, Share

WIDTH: Final = 72
"""Letters of the longest line of cores, and of the bar of memory."""

_LETTERS: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits


def drawing(plan: "Plan") -> list[str]:
    """The lines of the picture: nodes, then who is which letter."""
    letters = {share.name: _LETTERS[n % len(_LETTERS)] for n, share in enumerate(plan.shares)}
    lines: list[str] = []
    for node in plan.topology.nodes:
        cores = [core for core in plan.topology.cores if core.node == node.number]
        lines.append(f"NUMA node {node.number}: {len(cores)} cores, {approximate_size(total(node.memory))}")
        lines += [f"  {line}" for line in _cores([core.cpus for core in cores], plan.shares, letters)]
        if node.memory:
            lines.append(f"  memory {_memory(node.memory, plan.shares, letters)}")
            first, last = node.memory[0].start, node.memory[-1].end
            left, right = approximate_size(first), approximate_size(last)
            lines.append(f"         {left}{right:>{WIDTH - len(left)}}")
    width = max((len(share.name) for share in plan.shares), default=0)
    for share in plan.shares:
        size = approximate_size(share.memory_bytes) if share.memory_bytes is not None else "no limit"
        lines.append(f"{letters[share.name]} {share.name:<{width}}  CPUs {format_cpus(share.cpus)}, {size}")
    return lines


def owners(shares: "Sequence[Share]", cpu: int) -> "list[Share]":
    """The kernels that have *cpu*: one, unless they share it."""
    return [share for share in shares if cpu in share.cpus]


def _cores(cores: Sequence[Sequence[int]], shares: "Sequence[Share]", letters: dict[str, str]) -> list[str]:
    def letter(cpu: int) -> str:
        owning = owners(shares, cpu)
        return "." if not owning else letters[owning[0].name] if len(owning) == 1 else "*"

    lines = [""]
    for cpus in cores:
        drawn = f"[{''.join(map(letter, cpus))}]"
        if len(lines[-1]) + len(drawn) > WIDTH:
            lines.append("")
        lines[-1] += drawn
    return [f"{'cores ' if n == 0 else '      '} {line}" for n, line in enumerate(lines)]


def _memory(memory: Memory, shares: "Sequence[Share]", letters: dict[str, str]) -> str:
    """Each letter stands for an equal part of the addresses: whoever has most of it."""
    first, last = memory[0].start, memory[-1].end
    step = (last - first) / WIDTH
    drawn = ""
    for n in range(WIDTH):
        part = (Range(first + int(n * step), max(first + int(n * step) + 1, first + int((n + 1) * step))),)
        having = {share.name: total(common(share.memory, part)) for share in shares}
        there = total(common(memory, part))
        free = there - sum(having.values())
        most = max(having, key=lambda name: having[name], default="")
        if there * 2 < total(part):
            drawn += " "
        else:
            drawn += letters[most] if most and having[most] > free else "."
    return drawn
