"""The topology of this host, as /sys tells: cores and threads, packages, NUMA nodes, memory, caches."""

from pathlib import Path

from popnet.kernel.host import SYSTEM, memory_nodes, read_host
from popnet.machine.topology import Cache, Core, Node, Topology, ordered
from popnet.machine.units import parse_cpus, parse_size


def read_topology(system: Path = SYSTEM) -> Topology:
    """The topology of this host, with the CPUs and memory that this process may use."""
    host = read_host(system=system)
    return topology_of(host.cpus, host.memory_bytes, system)


def topology_of(cpus: tuple[int, ...], memory_bytes: int, system: Path) -> Topology:
    """What *system*, a /sys/devices/system, tells of *cpus* and the memory."""
    memory = memory_nodes(system)
    nodes = {
        int(path.name[4:]): _cpus(path / "cpulist") for path in (system / "node").glob("node[0-9]*")
    } or {0: cpus}
    cores: dict[tuple[int, ...], Core] = {}
    caches: dict[tuple[int, str, tuple[int, ...]], Cache] = {}
    for cpu in cpus:
        directory = system / f"cpu/cpu{cpu}"
        threads = _cpus(directory / "topology/core_cpus_list")
        threads = threads or _cpus(directory / "topology/thread_siblings_list") or (cpu,)
        own = tuple(sorted({cpu, *threads} & set(cpus)))
        node = next((number for number, listed in nodes.items() if cpu in listed), min(nodes))
        package = max(0, int(_text(directory / "topology/physical_package_id") or 0))
        cores.setdefault(own, Core(own, package, node))
        for index in sorted(directory.glob("cache/index*")):
            cache = _cache(index, cpu)
            caches.setdefault((cache.level, cache.kind, cache.cpus), cache)
    found = tuple(Node(number, memory.get(number, ())) for number in sorted(nodes))
    return Topology(ordered(cores.values()), found, tuple(caches.values()), memory_bytes)


def _cache(index: Path, cpu: int) -> Cache:
    size = _text(index / "size")
    return Cache(
        int(_text(index / "level") or 0),
        _text(index / "type") or "Unified",
        parse_size(size) if size else 0,
        _cpus(index / "shared_cpu_list") or (cpu,),
    )


def _cpus(file: Path) -> tuple[int, ...]:
    text = _text(file)
    return parse_cpus(text) if text else ()


def _text(file: Path) -> str:
    """What *file* says; empty if this host has no such file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
