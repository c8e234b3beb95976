"""What kernels claim of a machine (CPUs, addresses and amounts of memory, devices), and whether all of it can
be had.

Each check goes through the claims in their order and reports what is wrong with the later one, with the
reason and the nearest claim that could be had instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from popnet.machine.devices import SHARED
from popnet.machine.memory import Memory, Range, common, describe, nearest_fit, subtract, union
from popnet.machine.partition import nearest_cpus
from popnet.machine.problems import Path, Problem
from popnet.machine.units import approximate_size, format_cpus, format_size

Claimed = TypeVar("Claimed")

MEMORY_STEP = 2 << 20
"""Suggestions of memory are multiples of this: a huge page, as Popcorn's partitioner rounds."""

_OVERCOMMIT = "or set 'overcommit: true' for the machine"


@dataclass(frozen=True, slots=True)
class Claim(Generic[Claimed]):
    """What a kernel claims, and the place in the file that says so."""

    path: Path
    value: Claimed


def absent_cpus(claim: Claim[tuple[int, ...]], available: tuple[int, ...], owner: str) -> Problem | None:
    """The problem of a claim on CPUs that *owner* has not; None if all are *available*."""
    absent = set(claim.value) - set(available)
    if not absent:
        return None
    text = (
        f"got {format_cpus(claim.value)!r}, but {owner} has no CPU {format_cpus(absent)}; "
        f"it has {format_cpus(available)}"
    )
    near = nearest_cpus(claim.value, available)
    return Problem(claim.path, text + (f"; nearest to it is {format_cpus(near)}" if near else ""))


def check_cpus(
    claims: Mapping[str, Claim[tuple[int, ...]]], available: tuple[int, ...], owner: str, overcommit: bool
) -> list[Problem]:
    """What is wrong with these claims on CPUs of *owner*, which has the *available* ones."""
    problems = []
    taken: dict[int, str] = {}
    wanted_by_others = {
        name: {cpu for other in claims if other != name for cpu in claims[other].value} for name in claims
    }
    for name, claim in claims.items():
        if problem := absent_cpus(claim, available, owner):
            problems.append(problem)
        shared = {cpu for cpu in claim.value if cpu in taken}
        for first in dict.fromkeys(taken[cpu] for cpu in sorted(shared)):
            if overcommit:
                break
            both = format_cpus(cpu for cpu in shared if taken[cpu] == first)
            near = nearest_cpus(claim.value, [cpu for cpu in available if cpu not in wanted_by_others[name]])
            instead = f"{format_cpus(near)}, which are free" if near else "others; none is free"
            text = (
                f"CPU {both} belongs to {first}, which lists {format_cpus(claims[first].value)}; "
                f"give {name} {instead}, {_OVERCOMMIT}"
            )
            problems.append(Problem(claim.path, text))
        for cpu in claim.value:
            taken.setdefault(cpu, name)
    return problems


def check_memory_maps(
    claims: Mapping[str, Claim[Memory]], machine: Memory, overcommit: bool
) -> list[Problem]:
    """What is wrong with these claims on memory by address, where the machine's memory map is *machine*."""
    problems: list[Problem] = []
    taken: dict[str, Memory] = {}
    for name, claim in claims.items():
        others = (one for other in claims if other != name for one in claims[other].value)
        free = subtract(machine, union(others))
        for wanted in claim.value:
            missing = subtract((wanted,), machine)
            if missing:
                problems.append(_no_memory(claim.path, wanted, missing, machine, free, overcommit))
            for first, theirs in taken.items():
                both = common((wanted,), theirs)
                if both and not overcommit:
                    text = f"{wanted} overlaps {first}, which has {describe(theirs)}, by {describe(both)}"
                    problems.append(Problem(claim.path, f"{text}; {_instead(wanted, free)}, {_OVERCOMMIT}"))
        taken[name] = claim.value
    return problems


def _no_memory(
    path: Path, wanted: Range, missing: Memory, machine: Memory, free: Memory, overcommit: bool
) -> Problem:
    hole = "a hole there" if any(one.end < machine[-1].end for one in missing) else "nothing there"
    text = f"{wanted} is not all memory: the machine has {hole} ({describe(missing)}); "
    text += f"it has {describe(machine)}"
    return Problem(path, f"{text}; {_instead(wanted, machine if overcommit else free)}")


def _instead(wanted: Range, free: Memory) -> str:
    """The nearest range of *free* that could be had for *wanted*, in words."""
    fit = nearest_fit(free, wanted, MEMORY_STEP)
    if fit is not None:
        return f"the nearest that is free is {fit}"
    largest = max(free, key=lambda one: one.size_bytes, default=None)
    if largest is None or largest.size_bytes < MEMORY_STEP:
        return "no memory is free"
    return f"the largest that is free is {largest}"


def check_amounts(
    claims: Mapping[str, Claim[int]], limit_bytes: int, has: str, reserved_bytes: int = 0
) -> list[Problem]:
    """What is wrong with these amounts of memory together, where *has* says in words that there are
    *limit_bytes*, *reserved_bytes* of which are promised already."""
    problems = []
    sum_bytes = reserved_bytes
    for claim in claims.values():
        before = sum_bytes
        sum_bytes += claim.value
        left = max(0, limit_bytes - before) // MEMORY_STEP * MEMORY_STEP
        advice = f"; {format_size(left)} are left for it" if left else "; nothing is left for it"
        if claim.value > limit_bytes:
            text = f"got {format_size(claim.value)}, but {has}{advice if before else ''}"
        elif sum_bytes > limit_bytes >= before:
            text = (
                f"with these {format_size(claim.value)} the kernels want {approximate_size(sum_bytes)}, "
                f"but {has}{advice}; give them less, {_OVERCOMMIT}"
            )
        else:
            continue
        problems.append(Problem(claim.path, text))
    return problems


def check_devices(claims: Mapping[str, Claim[tuple[str, ...]]], overcommit: bool) -> list[Problem]:
    """What is wrong with these claims on devices, by name: two kernels with one that is not for sharing."""
    problems = []
    owners: dict[str, str] = {}
    for name, claim in claims.items():
        for device in claim.value:
            owner = owners.setdefault(device, name)
            if owner != name and device not in SHARED and not overcommit:
                text = f"device {device} belongs to {owner}; take it from one of the two, {_OVERCOMMIT}"
                problems.append(Problem(claim.path, text))
    return problems
