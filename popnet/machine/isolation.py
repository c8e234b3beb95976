"""Kernels that have their cores alone: where they are put, and what stands against it. Pure.

A core is alone only if all its hardware threads are: what runs on the other thread takes half of it. What a
kernel has alone no other kernel may run on, the primary included, and `overcommit` does not change that.
"""

from collections.abc import Iterable, Mapping, Sequence

from popnet.machine.units import format_cpus

Cpus = tuple[int, ...]


def whole_core(cpu: int, cores: Iterable[Cpus]) -> Cpus:
    """All hardware threads of the core that *cpu* is one of; itself if nobody tells."""
    return next((core for core in cores if cpu in core), (cpu,))


def place(
    names: Sequence[str], explicit: Mapping[str, Cpus], available: Sequence[int], cores: Iterable[Cpus]
) -> dict[str, Cpus]:
    """A core for each of *names* that nobody in *explicit* lists a thread of: the last ones, since the first
    serve the host's devices. Those for whom there is none get nothing."""
    cores = list(cores)
    taken = {cpu for listed in explicit.values() for cpu in listed}
    placed: dict[str, Cpus] = {}
    for name in names:
        for cpu in reversed(available):
            core = tuple(one for one in whole_core(cpu, cores) if one in available)
            if not taken & set(whole_core(cpu, cores)):
                placed[name] = core
                taken |= set(core)
                break
    return placed


def conflict(name: str, own: Cpus, others: Mapping[str, Cpus], cores: Iterable[Cpus]) -> str | None:
    """Why kernel *name* cannot have the CPUs *own* alone, beside *others*; None if it can."""
    cores = list(cores)
    threads = {one: cpu for cpu in own for one in whole_core(cpu, cores)}
    for other, cpus in others.items():
        shared = sorted(set(own) & set(cpus))
        if shared:
            return f"{name} has its cores alone, and CPU {format_cpus(shared)} is {other}'s too"
        beside = sorted(cpu for cpu in cpus if cpu in threads)
        if beside:
            first = beside[0]
            other_thread = f"CPU {first}, which is {other}'s, is the other thread of CPU {threads[first]}"
            return f"{name} has its cores alone, and {other_thread}"
    return None


def housekeeping(available: Sequence[int], alone: Iterable[Cpus]) -> Cpus:
    """The CPUs for everything that is not to run on those that kernels have alone."""
    kept = {cpu for cpus in alone for cpu in cpus}
    return tuple(cpu for cpu in available if cpu not in kept)
