"""How CPUs are split: a policy takes cores and a wish, and returns groups of CPUs, each with the reason.

Policies split cores, not hardware threads: two kernels on one core would slow each other. Only when more
kernels are wanted than there are cores is a core split, and only when more than there are CPUs, and
overcommitting was asked for, is a CPU shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from popnet.core.errors import Refused
from popnet.machine.names import PRIMARY
from popnet.machine.topology import Core, Topology
from popnet.machine.units import approximate_size, format_cpus


@dataclass(frozen=True, slots=True)
class Group:
    """CPUs of one kernel, and why it has these. Only the kernel of a policy that names kernels has a
    *name*."""

    cpus: tuple[int, ...]
    why: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a policy is asked for.

    Attributes:
        kernels: how many kernels; None leaves it to the policy.
        cores: how many cores for the io kernel, or the real-time one; None leaves it to the policy.
        overcommit: kernels may share CPUs.
    """

    kernels: int | None = None
    cores: int | None = None
    overcommit: bool = False


def per_core(topology: Topology, wish: Wish) -> list[Group]:
    """One kernel a core."""
    _takes_no(wish.kernels, "--kernels", "per-core")
    return [Group(core.cpus, f"{_core(core)}, one kernel a core") for core in topology.in_order()]


def per_node(topology: Topology, wish: Wish) -> list[Group]:
    """One kernel a NUMA node."""
    _takes_no(wish.kernels, "--kernels", "per-node")
    cpus: dict[int, list[int]] = {}
    for core in topology.in_order():
        cpus.setdefault(core.node, []).extend(core.cpus)
    return [
        Group(tuple(sorted(own)), f"all CPUs of NUMA node {node}, so that its memory is near")
        for node, own in cpus.items()
    ]


def equal(topology: Topology, wish: Wish) -> list[Group]:
    """As many kernels as wished for, all alike."""
    if wish.kernels is None:
        raise Refused("equal needs a number of kernels", "Say how many: --kernels 4")
    return _split(topology, topology.in_order(), wish.kernels, wish.overcommit)


def compute_io(topology: Topology, wish: Wish) -> list[Group]:
    """The primary does input and output, on the first cores; the others compute."""
    cores = topology.in_order()
    count = wish.cores if wish.cores is not None else max(1, len(cores) // 8)
    io, rest = _parted(topology, cores, count, wish, "io")
    why = f"{_cores(io)}, for input and output: interrupts and devices are nearest to the first cores"
    groups = _split(topology, rest, wish.kernels or 1, wish.overcommit)
    names = ["compute"] if len(groups) == 1 else [f"compute{n}" for n in range(1, len(groups) + 1)]
    return [
        Group(_cpus_of(io), why, PRIMARY),
        *(
            Group(group.cpus, f"{group.why}; it only computes", name)
            for name, group in zip(names, groups, strict=True)
        ),
    ]


def real_time(topology: Topology, wish: Wish) -> list[Group]:
    """One kernel on cores that nobody else has; the others share out the rest."""
    cores = topology.in_order()
    kept, alone = _parted(topology, cores, len(cores) - (wish.cores or 1), wish, "rt")
    why = (
        f"{_cores(alone)}, farthest from CPU {cores[0].cpus[0]}, which serves the host; whole, so "
        f"no thread beside it"
    )
    cache = topology.last_cache(alone[0].cpus[0])
    others = set(cache.cpus) & set(_cpus_of(kept)) if cache else set()
    if cache and others:
        size = approximate_size(cache.size_bytes)
        why += f"; its L{cache.level} cache of {size} is that of {cpus_text(sorted(others))} too"
    return [
        *_split(topology, kept, wish.kernels or 1, wish.overcommit),
        Group(_cpus_of(alone), why, "rt"),
    ]


POLICIES: Final[dict[str, tuple[Callable[[Topology, Wish], list[Group]], str]]] = {
    "per-core": (per_core, "one kernel a core"),
    "per-node": (per_node, "one kernel a NUMA node"),
    "equal": (equal, "--kernels N, all alike"),
    "compute-io": (compute_io, "the primary has --cores for input and output, --kernels others compute"),
    "real-time": (real_time, "kernel rt has --cores of its own, --kernels others share the rest"),
}


def _split(topology: Topology, cores: Sequence[Core], count: int, overcommit: bool) -> list[Group]:
    """*count* groups of *cores*, as like each other as can be; neighbours stay together."""
    cpus = _cpus_of(cores)
    if count < 1:
        raise Refused(f"got {count} kernels; allowed: at least 1", "Nearest legal split: --kernels 1")
    if count <= len(cores):
        bounds = [len(cores) * n // count for n in range(count + 1)]
        parts = [cores[first:last] for first, last in pairwise(bounds)]
        return [Group(_cpus_of(part), _why_part(topology, part)) for part in parts]
    if count <= len(cpus):
        flat = [(cpu, core) for core in cores for cpu in core.cpus]
        bounds = [len(flat) * n // count for n in range(count + 1)]
        groups = []
        for first, last in pairwise(bounds):
            own = tuple(sorted(cpu for cpu, _ in flat[first:last]))
            beside = {cpu for _, core in flat[first:last] for cpu in core.cpus} - set(own)
            why = f"hardware threads, as there are fewer cores ({len(cores)}) than kernels"
            if beside:
                why += f"; the other threads of its cores are {cpus_text(sorted(beside))}"
            groups.append(Group(own, why))
        return groups
    if not overcommit:
        raise Refused(
            f"{count} kernels cannot have a CPU each: there are {len(cpus)} ({format_cpus(cpus)})",
            f"Nearest legal split: --kernels {len(cpus)}. With --overcommit, kernels share CPUs.",
        )
    return [
        Group((cpus[n % len(cpus)],), f"CPU {cpus[n % len(cpus)]}, in turn: kernels share CPUs")
        for n in range(count)
    ]


def _parted(
    topology: Topology, cores: Sequence[Core], count: int, wish: Wish, name: str
) -> tuple[Sequence[Core], Sequence[Core]]:
    """The first *count* cores, and the rest; both have some."""
    if len(cores) < 2:
        if wish.overcommit:
            return cores, cores
        text = f"this needs two cores, one for {name} and one for the rest; there is {len(cores)}"
        raise Refused(
            text, "Nearest legal split: equal --kernels 1. With --overcommit, kernels share the core."
        )
    if not 1 <= count < len(cores):
        wanted = wish.cores if wish.cores is not None else count
        text = (
            f"{wanted} cores for {name} leave none for the other kernels, or are none; there are {len(cores)}"
        )
        raise Refused(text, f"Nearest legal split: --cores {min(max(1, wanted), len(cores) - 1)}")
    return cores[:count], cores[count:]


def _why_part(topology: Topology, cores: Sequence[Core]) -> str:
    nodes = sorted({core.node for core in cores})
    if len(nodes) > 1:
        return (
            f"{_cores(cores)}, across NUMA nodes {format_cpus(nodes)}: kernels and nodes do not come out even"
        )
    caches = {topology.last_cache(core.cpus[0]) for core in cores}
    shared = next(iter(caches)) if len(caches) == 1 else None
    together = f", which share an L{shared.level} cache" if shared and len(cores) > 1 else ""
    return f"{_cores(cores)} of NUMA node {nodes[0]}{together}"


def cpus_text(cpus: Sequence[int]) -> str:
    """`CPU 3`, or `CPUs 3,7`."""
    return f"CPU{'s' * (len(cpus) > 1)} {format_cpus(cpus)}"


def _core(core: Core) -> str:
    if len(core.cpus) == 1:
        return f"the core of CPU {core.cpus[0]}"
    return f"the core whose threads are CPUs {format_cpus(core.cpus)}"


def _cores(cores: Sequence[Core]) -> str:
    return _core(cores[0]) if len(cores) == 1 else f"{len(cores)} neighbouring cores"


def _cpus_of(cores: Sequence[Core]) -> tuple[int, ...]:
    return tuple(sorted(cpu for core in cores for cpu in core.cpus))


def _takes_no(value: int | None, option: str, policy: str) -> None:
    if value is not None:
        raise Refused(f"{policy} finds the number of kernels itself", f"Leave {option} out, or use equal.")
