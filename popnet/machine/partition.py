"""The partitioner: who gets which CPUs. Kernels that list theirs keep them, the others share what is left."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction


def share_cpus(
    available: Sequence[int],
    explicit: Mapping[str, Sequence[int]],
    automatic: Sequence[str],
    alone: Collection[int] = (),
) -> dict[str, tuple[int, ...]]:
    """CPUs for the kernels named in *automatic*, from those *available* that no *explicit* list holds.

    Enough of them: each kernel gets a run of neighbours; the first kernels have one more if it does not work
    out even. Too few: kernels take turns and share a CPU, so that any machine boots on one core. None left:
    they share all that are available, but for those that a kernel has *alone*.
    """
    taken = {cpu for cpus in explicit.values() for cpu in cpus}
    pool = [cpu for cpu in available if cpu not in taken and cpu not in alone]
    pool = pool or [cpu for cpu in available if cpu not in alone] or list(available)
    if len(pool) < len(automatic):
        return {name: (pool[index % len(pool)],) for index, name in enumerate(automatic)}
    shares: dict[str, tuple[int, ...]] = {}
    start = 0
    for index, name in enumerate(automatic):
        size = len(pool) // len(automatic) + (index < len(pool) % len(automatic))
        shares[name] = tuple(pool[start : start + size])
        start += size
    return shares


def owned_cores(cpus: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """How many whole cores each kernel has, when a CPU that several list is shared evenly between them."""
    sharers = Counter(cpu for listed in cpus.values() for cpu in set(listed))
    return {
        name: float(sum(Fraction(1, sharers[cpu]) for cpu in set(listed))) for name, listed in cpus.items()
    }


def number_kernels(names: Iterable[str], explicit: Mapping[str, int]) -> dict[str, int]:
    """A kid for each of *names*: its *explicit* one, or the next that is free, from 1, in order."""
    taken = set(explicit.values())
    kids: dict[str, int] = {}
    free = 1
    for name in names:
        if name in explicit:
            kids[name] = explicit[name]
            continue
        while free in taken:
            free += 1
        taken.add(free)
        kids[name] = free
    return kids


def nearest_cpus(wanted: Iterable[int], free: Iterable[int]) -> tuple[int, ...]:
    """The *free* CPUs most like those *wanted*: those that are free themselves, then those nearest to them.

    As many as wanted, or all that are free.
    """
    wanted, free = set(wanted), set(free)
    kept = wanted & free
    others = sorted(free - kept, key=lambda cpu: (min(abs(cpu - one) for one in wanted), cpu))
    return tuple(sorted([*kept, *others[: len(wanted) - len(kept)]]))
