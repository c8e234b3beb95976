"""What /proc and /sys say of a partition: the host's texts, cut down to it. Pure.

CPUs keep the host's numbers, because `taskset` and `sched_setaffinity` take these. Counters of /proc/stat
begin at zero when the kernel boots, or when a CPU comes to it: *since* holds what the host had counted
before. What of its memory a kernel uses is what its control group counts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from popnet.machine.units import format_cpus, parse_cpus

Ticks = tuple[int, ...]
"""The numbers of one `cpuN` line of /proc/stat: user, nice, system, idle, iowait, ..."""

_IDLE: Final = 3

TICKS_A_SECOND: Final = 100
"""USER_HZ, in which /proc/stat counts: the same on every machine that popnet runs on."""

_COUNTED: Final[Mapping[str, tuple[str, ...]]] = {
    "Active": ("active_anon", "active_file"),
    "Inactive": ("inactive_anon", "inactive_file"),
    "Active(anon)": ("active_anon",),
    "Inactive(anon)": ("inactive_anon",),
    "Active(file)": ("active_file",),
    "Inactive(file)": ("inactive_file",),
    "Unevictable": ("unevictable",),
    "Cached": ("file",),
    "Dirty": ("file_dirty",),
    "Writeback": ("file_writeback",),
    "AnonPages": ("anon",),
    "Mapped": ("file_mapped",),
    "Shmem": ("shmem",),
    "KReclaimable": ("slab_reclaimable",),
    "Slab": ("slab_reclaimable", "slab_unreclaimable"),
    "SReclaimable": ("slab_reclaimable",),
    "SUnreclaim": ("slab_unreclaimable",),
    "KernelStack": ("kernel_stack",),
    "PageTables": ("pagetables",),
}
"""Lines of /proc/meminfo -> what of a group's `memory.stat` they are the sum of."""

_NOTHING: Final = ("Buffers", "SwapCached", "Mlocked", "SwapTotal", "SwapFree", "Bounce", "WritebackTmp")
"""Lines that a kernel has nothing of: its group counts buffers as cached, and may not swap."""

_OF_VERSION_1: Final = {
    "cache": "file",
    "rss": "anon",
    "mapped_file": "file_mapped",
    "dirty": "file_dirty",
    "writeback": "file_writeback",
}
"""Names in `memory.stat` of version 1 -> those of version 2."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a control group counts of its kernel's memory, in bytes.

    Attributes:
        used_bytes: all of it, what Linux caches for it included.
        parts: what it is made of, by the names of version 2's `memory.stat`.
    """

    used_bytes: int
    parts: Mapping[str, int] = field(default_factory=dict)


def memory_parts(stat: str) -> dict[str, int]:
    """`memory.stat` of a group, of either version, by the names of version 2."""
    found = {}
    for line in stat.splitlines():
        name, _, number = line.partition(" ")
        if number.isdecimal():
            found[name] = int(number)
    if "total_cache" not in found:
        return found
    totals = {name[6:]: n for name, n in found.items() if name.startswith("total_")}
    return {_OF_VERSION_1.get(name, name): n for name, n in totals.items()}


def cpuinfo(host: str, cpus: Collection[int]) -> str:
    """/proc/cpuinfo of a kernel with *cpus*, from the *host*'s."""
    blocks = host.split("\n\n")
    return "\n\n".join(block for block in blocks if (number := _processor(block)) is None or number in cpus)


def _processor(block: str) -> int | None:
    """The number of the CPU that a block of /proc/cpuinfo tells of; None if it tells of the whole machine."""
    for line in block.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "processor" and value.strip().isdecimal():
            return int(value)
    return None


def cpu_ticks(host_stat: str) -> dict[int, Ticks]:
    """What /proc/stat counts for each CPU."""
    ticks = {}
    for line in host_stat.splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdecimal():
            ticks[int(name[3:])] = tuple(map(int, numbers))
    return ticks


def own_ticks(host_stat: str, cpus: Collection[int], since: Mapping[int, Ticks]) -> dict[int, Ticks]:
    """What *cpus* did since they are the kernel's."""
    found = cpu_ticks(host_stat)
    return {
        cpu: tuple(
            max(0, now - before) for now, before in zip(found[cpu], since.get(cpu, found[cpu]), strict=False)
        )
        for cpu in sorted(cpus)
        if cpu in found
    }


def stat(host: str, cpus: Collection[int], since: Mapping[int, Ticks], booted_at_s: int) -> str:
    """/proc/stat of a kernel that booted at *booted_at_s* (seconds since 1970), from the *host*'s.

    What Linux counts for all CPUs together (interrupts, context switches, processes) is the host's.
    """
    ticks = own_ticks(host, cpus, since)
    total = tuple(map(sum, zip(*ticks.values(), strict=True))) or (0,) * 10
    lines = ["cpu  " + " ".join(map(str, total))]
    lines += [f"cpu{cpu} " + " ".join(map(str, own)) for cpu, own in ticks.items()]
    for line in host.splitlines():
        word = line.partition(" ")[0]
        if word.startswith("cpu"):
            continue
        if word == "btime":
            line = f"btime {booted_at_s}"
        elif word == "intr":
            line = " ".join(line.split()[:2])
        lines.append(line)
    return "\n".join(lines) + "\n"


def uptime(up_s: float, host_stat: str, cpus: Collection[int], since: Mapping[int, Ticks]) -> str:
    """/proc/uptime of a kernel that is up for *up_s*: that, and how long its CPUs together were idle."""
    idle = sum(own[_IDLE] for own in own_ticks(host_stat, cpus, since).values())
    return f"{up_s:.2f} {idle / TICKS_A_SECOND:.2f}\n"


def meminfo(host: str, limit_bytes: int | None, use: MemoryUse | None) -> str:
    """/proc/meminfo of a kernel that may use *limit_bytes*, from the *host*'s; that itself if there is no
    limit.

    *use* is what its control group counts; without one no line says more than the limit.
    """
    if limit_bytes is None:
        return host
    whole = dict(_sizes(host))
    total = min(limit_bytes >> 10, whole.get("MemTotal", limit_bytes >> 10))
    shown = {"MemTotal", "MemFree", "MemAvailable", *_COUNTED, *_NOTHING}
    if use is None:
        own = {name: 0 if name in _NOTHING else min(total, kib) for name, kib in whole.items()}
    else:
        free = max(0, total - (use.used_bytes >> 10))
        reclaimable = sum(
            use.parts.get(name, 0) for name in ("active_file", "inactive_file", "slab_reclaimable")
        )
        own = {name: sum(use.parts.get(part, 0) for part in parts) >> 10 for name, parts in _COUNTED.items()}
        own |= dict.fromkeys(_NOTHING, 0)
        own |= {"MemFree": free, "MemAvailable": min(total, free + (reclaimable >> 10))}
    own["MemTotal"] = total
    return "".join(f"{name + ':':<16}{own[name]:>8} kB\n" for name in whole if name in shown)


def _sizes(host: str) -> list[tuple[str, int]]:
    """The lines of /proc/meminfo that are sizes, in KiB."""
    found = []
    for line in host.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found.append((name, int(words[0])))
    return found


def cpu_list(host: str, cpus: Collection[int]) -> str:
    """A list of CPUs as /sys writes it (`0-3,8`), without those that the kernel has not."""
    text = host.strip()
    return format_cpus(set(parse_cpus(text)) & set(cpus)) + "\n" if text else host


def cpu_mask(host: str, cpus: Collection[int]) -> str:
    """A mask of CPUs as /sys writes it (`00000000,0000000f`), without those that the kernel has not."""
    groups = host.strip().split(",")
    own = int("".join(group.rjust(8, "0") for group in groups) or "0", 16) & sum(1 << cpu for cpu in cpus)
    if len(groups) == 1:
        return f"{own:0{len(groups[0])}x}\n"
    digits = f"{own:0{8 * len(groups)}x}"
    cut = [digits[at : at + 8] for at in range(0, len(digits), 8)]
    return ",".join([cut[0][-len(groups[0]) :], *cut[1:]]) + "\n"
