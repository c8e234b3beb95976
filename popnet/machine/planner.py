"""The partitioner: a topology and a policy in, a split of the machine out, each part with its reason. Pure.

First what is *given* by name is taken away, then the policy splits the CPUs that are left, then memory
is shared out: to each kernel in proportion to its CPUs, from the NUMA nodes of these CPUs as far as they
have it, and nothing of what is kept back for the host. The split is legal, or there is none: what cannot
be raises Refused, with the nearest legal split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from popnet.core.errors import Refused
from popnet.core.limits import KERNELS_MAX, MEMORY_MIN
from popnet.machine.claims import MEMORY_STEP
from popnet.machine.gives import Give, check_gives
from popnet.machine.memory import Memory, describe, subtract, total, union
from popnet.machine.names import PRIMARY
from popnet.machine.policies import POLICIES, Group, Wish, cpus_text
from popnet.machine.pool import Pool
from popnet.machine.problems import suggestion
from popnet.machine.topology import Topology
from popnet.machine.units import approximate_size, format_cpus, format_size

RESERVE_MIN = 256 << 20
RESERVE_PART = 16
"""One part in so many of the memory is kept back for the host, but at least RESERVE_MIN."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one kernel gets: memory by address or as an amount (None: no limit), and why."""

    name: str
    cpus: tuple[int, ...]
    memory: Memory
    memory_bytes: int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A split of *topology*; the first share is the primary's.

    Attributes:
        kept: memory of the host that no kernel has, by address; () if addresses are not known.
        kept_bytes: how much is kept back.
        notes: what else there is to know.
    """

    topology: Topology
    policy: str
    shares: tuple[Share, ...]
    kept: Memory
    kept_bytes: int
    overcommit: bool
    notes: tuple[str, ...]


def plan(
    topology: Topology,
    policy: str | None,
    wish: Wish,
    gives: Sequence[Give] = (),
    memory: int | str | None = "share",
    reserve: int | None = None,
    by_address: bool = True,
) -> Plan:
    """A split of *topology*.

    Args:
        policy: one of POLICIES; None: nobody but those of *gives* gets anything.
        memory: bytes for each kernel that is not given its own; "share": all there is; None: no limits.
        reserve: bytes kept back for the host; None: as RESERVE_PART says.
        by_address: give out addresses, if the topology has them.

    Raises Refused, with the reason and the nearest legal split.
    """
    if reserve is None:
        reserve = max(RESERVE_MIN, topology.memory_bytes // RESERVE_PART)
    budget = topology.memory_bytes - reserve
    if budget < MEMORY_MIN:
        groups, _ = _groups(topology, policy, wish, gives)
        smallest = min(len(group.cpus) for group in groups)
        need = MEMORY_MIN * sum(len(group.cpus) for group in groups) // smallest + MEMORY_STEP * len(groups)
        text = (
            f"{format_size(reserve)} kept back of {approximate_size(topology.memory_bytes)} leave no memory"
        )
        near = max(0, topology.memory_bytes - need) // MEMORY_STEP * MEMORY_STEP
        raise Refused(text, f"Nearest legal split: --reserve {format_size(near)}")
    check_gives(topology, gives, budget, wish.overcommit)
    groups, notes = _groups(topology, policy, wish, gives)
    shares = _with_memory(topology, policy, groups, gives, memory, budget, by_address, wish.overcommit)
    kept = subtract(topology.host().memory_map, union(one for share in shares for one in share.memory))
    used = {cpu for share in shares for cpu in share.cpus}
    if idle := set(topology.cpus) - used:
        notes = (*notes, f"CPUs {format_cpus(idle)} belong to no kernel")
    shares.sort(key=lambda share: share.name != PRIMARY)
    addressed = any(share.memory for share in shares)
    return Plan(
        topology, policy or "given", tuple(shares), kept if addressed else (), reserve, wish.overcommit, notes
    )


def _groups(
    topology: Topology, policy: str | None, wish: Wish, gives: Sequence[Give]
) -> tuple[list[Group], tuple[str, ...]]:
    """The CPUs of every kernel, those given first; and notes."""
    groups = [Group(give.cpus, "given", give.name) for give in gives]
    notes: tuple[str, ...] = ()
    if policy is not None:
        if policy not in POLICIES:
            raise Refused(f"no policy {policy!r}{suggestion(policy, POLICIES)}")
        taken = {cpu for give in gives for cpu in give.cpus}
        rest = topology.only(set(topology.cpus) - taken)
        if not rest.cores:
            raise Refused(
                f"no CPU is left for {policy}: --give has all {len(taken)}",
                "Nearest legal split: leave the policy out, or give one CPU less.",
            )
        groups += POLICIES[policy][0](rest, wish)
        empty = [
            node.number for node in rest.nodes if not any(core.node == node.number for core in rest.cores)
        ]
        if policy == "per-node" and empty:
            notes = (f"NUMA nodes {format_cpus(empty)} have no CPU that is free, and so no kernel",)
    elif not any(give.name == PRIMARY for give in gives):
        rest_cpus = set(topology.cpus) - {cpu for give in gives for cpu in give.cpus}
        if rest_cpus:
            groups.append(Group(tuple(sorted(rest_cpus)), "what is not given", PRIMARY))
        else:
            notes = ("the primary has no CPU of its own: it mostly sleeps, and shares all",)
    if len(groups) > KERNELS_MAX:
        text = f"{len(groups)} kernels; allowed: {KERNELS_MAX}"
        raise Refused(text, f"Nearest legal split: equal --kernels {KERNELS_MAX}")
    return _named(groups), notes


def _named(groups: Sequence[Group]) -> list[Group]:
    """Every group with a name: the first without one is the primary, unless there is one."""
    taken = {group.name for group in groups}
    free = chain([PRIMARY], (f"k{n}" for n in range(1, KERNELS_MAX + 1)))
    fresh = (name for name in free if name not in taken)
    return [group if group.name else Group(group.cpus, group.why, next(fresh)) for group in groups]


def _with_memory(
    topology: Topology,
    policy: str | None,
    groups: Sequence[Group],
    gives: Sequence[Give],
    memory: int | str | None,
    budget: int,
    by_address: bool,
    overcommit: bool,
) -> list[Share]:
    given = {give.name: give for give in gives}
    pool = Pool(topology, [give.memory for give in gives], topology.memory_bytes - budget)
    addressed = by_address and pool.known and not overcommit
    amounts = _amounts(policy, groups, given, memory, budget, pool if addressed else None, overcommit)
    shares = []
    for group in groups:
        reasons = [f"{cpus_text(group.cpus)}: {group.why}"]
        own: Memory = ()
        amount = amounts.get(group.name)
        if group.name in given and given[group.name].memory:
            own = given[group.name].memory
            reasons.append(f"memory {describe(own)}: given")
        elif amount is not None and addressed:
            own, why = pool.take(amount, group.cpus)
            reasons += why
        elif amount is not None:
            why_amount = "given" if group.name in given else "its part"
            reasons.append(f"memory {format_size(amount)}: {why_amount}")
        limit = total(own) if own else amount
        shares.append(Share(group.name, group.cpus, own, limit, tuple(reasons)))
    return shares


def _amounts(
    policy: str | None,
    groups: Sequence[Group],
    given: dict[str, Give],
    memory: int | str | None,
    budget: int,
    pool: Pool | None,
    overcommit: bool,
) -> dict[str, int]:
    """How much memory each kernel has, of those that have a limit; *pool* is where it comes from by address.

    Without a policy, a primary for which too little is left has no limit.
    """
    amounts = {
        name: total(give.memory) or give.memory_bytes or 0
        for name, give in given.items()
        if give.memory or give.memory_bytes
    }
    others = [group for group in groups if group.name not in given]
    left = max(0, budget - sum(amounts.values()))
    if memory is None or not others:
        return amounts
    if isinstance(memory, int):
        _check_each(memory, len(others), left, overcommit)
        return amounts | {group.name: memory for group in others}
    cpus = sum(len(group.cpus) for group in others)
    parts = {group.name: left * len(group.cpus) // cpus // MEMORY_STEP * MEMORY_STEP for group in others}
    if pool is not None:
        near = pool.near_parts({group.name: group.cpus for group in others})
        if min(near.values()) >= MEMORY_MIN and sum(near.values()) <= left:
            parts = near
    if min(parts.values()) < MEMORY_MIN and policy is None:
        return amounts
    if min(parts.values()) < MEMORY_MIN:
        text = (
            f"{approximate_size(left)} for {len(others)} kernels are less than {format_size(MEMORY_MIN)} each"
        )
        raise Refused(text, _fewer(left))
    return amounts | parts


def _check_each(memory: int, kernels: int, left: int, overcommit: bool) -> None:
    """Raises Refused unless so many *kernels* can have *memory* each, where *left* bytes are."""
    fits = left // kernels // MEMORY_STEP * MEMORY_STEP
    if memory < MEMORY_MIN:
        least = format_size(MEMORY_MIN)
        text = f"{format_size(memory)} is too little for a kernel; allowed: at least {least}"
        raise Refused(text, f"Nearest legal split: --memory {least}")
    if memory > fits and not overcommit:
        want, have = approximate_size(memory * kernels), approximate_size(left)
        text = f"{kernels} kernels with {format_size(memory)} each want {want}, but {have} may be given away"
        near = f"Nearest legal split: --memory {format_size(fits)}" if fits >= MEMORY_MIN else _fewer(left)
        raise Refused(text, near)


def _fewer(left: int) -> str:
    return f"Nearest legal split: at most {left // MEMORY_MIN} kernels, or a smaller --reserve."
